"""ROAD: what the class loses with the map's most relevant pixels, less what it loses with the least relevant ones.

b batch, z channels, m map, s sides of the image.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_cam.capture.gradient import at_least_float
from lightning_cam.capture.seen import Seen
from lightning_cam.metrics.faithfulness.imputation import linear_imputation
from lightning_cam.metrics.faithfulness.probability import LEAST, changed_probability, explained_probability, where_known
from lightning_cam.metrics.faithfulness.ranking import is_ordered, relevance_ranks
from lightning_cam.registry import METRICS


@METRICS.register(range=(-0.5, 0.5), higher_is_better=True, floor=0.0, cost="2 forwards and 2 linear systems a share")
def road(
    heat: Float[Tensor, "b *m"],
    seen: Seen,
    *,
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
    seed: int = 0,
    least: float = LEAST,
) -> Float[Tensor, "b"]:
    """ROAD: the class's probability without the least relevant pixels, less that without the most relevant ones, halved.

    ``mean over shares of (p_least - p_most) / 2`` in [-1/2, 1/2]; 0 is expected of a map that knows nothing. A share of the
    pixels, told by rank and so exact also where most of the map is 0, becomes a weighted mean of their neighbours
    (``linear_imputation``) with noise: unlike an even fill it shows the model no outline of what was taken. Blurred maps are
    rewarded still (arXiv 2304.13836). NaN where p is not above the least, and for a map of one value.

    Noise is normal, drawn from a generator of its own, the same for every sample, share and look; global random states are
    neither read nor changed.

    Cost: 2 forwards, and 2 sparse linear systems, a share. Source: Rong et al. 2022, arXiv 2202.00449; both orders
    in one number as pytorch-grad-cam's ROADCombined, there by thresholds, which a map of many zeros breaks.

    Args:
        heat: raw maps.
        seen: what one forward showed.
        shares: of the pixels that are taken, each between 0 and 1.
        noise: standard deviation, as a share of each image's range (maximum - minimum).
        seed: which noise, and which of equally relevant pixels come first.
        least: the probability above which a sample counts.

    Raises:
        ValueError: for shares that take no pixel or all, a target that explains the score of no class, or a map of fewer sides
            than the image.
    """
    p = explained_probability(seen)
    ranks = relevance_ranks(heat, seen, seed)
    differences = []
    for count in _counts(shares, ranks[0].numel()):
        p_most = changed_probability(seen, imputed(seen.image, ranks < count, noise, seed))
        p_least = changed_probability(seen, imputed(seen.image, ranks >= ranks[0].numel() - count, noise, seed))
        differences.append((p_least - p_most) / 2)
    value = torch.stack(differences).mean(0)
    return where_known(value, heat, p, least).where(is_ordered(heat), torch.nan)


def imputed(
    images: Shaped[Tensor, "b z *s"], missing: Bool[Tensor, "b *s"], noise: float, seed: int
) -> Shaped[Tensor, "b z *s"]:
    """Images with the missing pixels imputed from the others, and noise on them; the others as they are."""
    generator = torch.Generator().manual_seed(seed)
    # drawn on the CPU in double precision, so that it is the same on every device and in every precision
    drawn = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
    x = at_least_float(images)
    flat = x.flatten(1)
    deviation = noise * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (x.ndim - 1))
    noisy = linear_imputation(x, missing) + deviation * drawn.to(x)
    return torch.where(missing[:, None], noisy.to(images.dtype), images)


def _counts(shares: Sequence[float], pixels: int) -> list[int]:
    """How many pixels each share takes."""
    counts = [round(share * pixels) for share in shares]
    if not counts or min(counts) < 1 or max(counts) >= pixels:
        raise ValueError(
            f"road(shares={tuple(shares)}): expected shares of the {pixels} pixels between 0 and 1, one or several, such as "
            "shares=(0.2, 0.4, 0.6, 0.8)."
        )
    return counts
