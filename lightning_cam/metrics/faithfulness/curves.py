"""The class's probability while pixels are taken away or put back in the order of the map. b batch, z channels, m map, s sides.

Both reward maps that are blurred, and insertion those of the middle of pictures (arXiv 2304.13836): plot the control with them.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_cam.capture.gradient import at_least_float
from lightning_cam.capture.seen import Seen
from lightning_cam.metrics.faithfulness.probability import LEAST, changed_probability, explained_probability, where_known
from lightning_cam.metrics.faithfulness.ranking import is_ordered, relevance_ranks
from lightning_cam.registry import METRICS


@METRICS.register(range=(0.0, 1.0), higher_is_better=False, cost="a forward a step")
def deletion(
    heat: Float[Tensor, "b *m"], seen: Seen, *, steps: int = 10, fill: float = 0.0, least: float = LEAST
) -> Float[Tensor, "b"]:
    """Deletion: the area under the class's probability while pixels are taken away, the most relevant first.

    ``integral p(share taken) d share`` in [0, 1] by trapezoids over equal shares of the pixels, each by the share it really
    spans, from none to all; small where what is taken first decides. In all channels a pixel becomes ``fill``. NaN where p is
    not above the least, and for a map of one value.

    Cost: a forward a step. Source: Petsiuk et al. 2018 (RISE), arXiv 1806.07421, whose code weighs a shorter last step like the
    others and follows the predicted class.

    Args:
        heat: raw maps.
        seen: what one forward showed.
        steps: in how many equal shares the pixels go.
        fill: what a pixel becomes, in the units of the model's input: 0 is the dataset's mean colour where that was taken
            off, else black.
        least: the probability above which a sample counts.

    Raises:
        ValueError: for steps below 1, a target that explains the score of no class, or a map of fewer sides than the image.
    """
    p = explained_probability(seen)
    empty = torch.full_like(seen.image, fill)
    shares = _shares(steps, empty[0, 0].numel())
    changed = [changed_probability(seen, images) for images in _mixed(heat, seen, seen.image, empty, shares[1:])]
    return where_known(_area([p, *changed], shares), heat, p, least).where(is_ordered(heat), torch.nan)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, cost="a forward a step")
def insertion(
    heat: Float[Tensor, "b *m"], seen: Seen, *, steps: int = 10, sigma: float = 0.05, least: float = LEAST
) -> Float[Tensor, "b"]:
    """Insertion: the area under the class's probability while pixels are put into a blurred image, the most relevant first.

    ``integral p(share put back) d share`` in [0, 1], as ``deletion``; large where what is put back first decides. It begins
    with the image itself, blurred, since pixels on an even ground have outlines that the model would see. A model that knows
    the blurred image too scores well with any map. NaN as ``deletion``.

    Cost: a forward a step. Source: Petsiuk et al. 2018 (RISE), arXiv 1806.07421, whose code blurs with a standard deviation of
    5 in 224 pixels, cut off at one.

    Args:
        heat: raw maps.
        seen: what one forward showed.
        steps: in how many equal shares the pixels come back.
        sigma: standard deviation of the Gaussian blur, as a share of each side.
        least: the probability above which a sample counts.

    Raises:
        ValueError: for steps below 1, a sigma not above 0, a target that explains the score of no class, or a map of fewer
            sides than the image.
    """
    p = explained_probability(seen)
    start = blurred(seen.image, sigma)
    shares = _shares(steps, start[0, 0].numel())
    changed = [changed_probability(seen, images) for images in _mixed(heat, seen, start, seen.image, shares[:-1])]
    return where_known(_area([*changed, p], shares), heat, p, least).where(is_ordered(heat), torch.nan)


def blurred(images: Shaped[Tensor, "b z *s"], sigma: float) -> Shaped[Tensor, "b z *s"]:
    """Gaussian blur along every side, by weights that sum to 1 within the image.

    Raises:
        ValueError: for a sigma not above 0.
    """
    if sigma <= 0:
        raise ValueError(f"sigma={sigma!r}: expected the blur as a share of the image's sides, above 0, such as sigma=0.05.")
    smooth = at_least_float(images)
    for dim, side in enumerate(images.shape[2:], 2):
        pixel = torch.arange(side, dtype=torch.float64)
        weights = torch.softmax(-(((pixel[:, None] - pixel) / (sigma * side)) ** 2) / 2, 1)
        smooth = (smooth.movedim(dim, -1) @ weights.T.to(smooth)).movedim(-1, dim)
    return smooth.to(images.dtype)


def _shares(steps: int, pixels: int) -> list[float]:
    """Equal shares from 0 to 1, of whole pixels."""
    if steps < 1:
        raise ValueError(f"steps={steps!r}: expected in how many shares the pixels are changed, 1 or more, such as steps=10.")
    return [round(k * pixels / steps) / pixels for k in range(steps + 1)]


def _mixed(
    heat: Float[Tensor, "b *m"],
    seen: Seen,
    start: Shaped[Tensor, "b ..."],
    end: Shaped[Tensor, "b ..."],
    shares: Sequence[float],
) -> Iterator[Shaped[Tensor, "b ..."]]:
    """For each share images that are at their end in the most relevant pixels, and at their start in all others."""
    ranks = relevance_ranks(heat, seen)[:, None]
    pixels = ranks[0].numel()
    return (torch.where(ranks < round(share * pixels), end, start) for share in shares)


def _area(probabilities: Sequence[Float[Tensor, "b"]], shares: Sequence[float]) -> Float[Tensor, "b"]:
    """Trapezoids under the curve, as wide as their shares."""
    curve = torch.stack(list(probabilities), 1)
    area: Tensor = torch.trapezoid(curve, curve.new_tensor(shares), dim=1)
    return area
