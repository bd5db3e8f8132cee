"""Three properties of a map, and their harmonic mean, which none of them can win alone. b batch, m map.

As in ``drop.py``: ``U(M)`` is the positive part of a map, scaled from its minimum and maximum to [0, 1].
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import above_rounding
from lightning_cam.metrics.faithfulness.drop import average_drop
from lightning_cam.metrics.faithfulness.masked import map_through_map, scaled, shows_evidence
from lightning_cam.metrics.faithfulness.probability import LEAST
from lightning_cam.registry import METRICS


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, cost="1 forward, and the method's map of it")
def coherency(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """Coherency: whether the map stays as it is when the image is seen through it.

    ``(rho(M(x * U(M)), M) + 1) / 2`` in [0, 1] with rho Pearson's correlation over the cells of the maps' positive parts, by
    the same method and at the layer's resolution. NaN where either map has one value only, or no positive one.

    Cost: a forward, and what the method's map costs. Source: Poppi et al. 2021, arXiv 2104.10252.

    Args:
        heat: raw maps.
        seen: what one forward showed; its ``method`` makes the other map.

    Raises:
        ValueError: if ``seen`` does not say how the map was made, or the map has fewer sides than the image.
    """
    return (_correlation(map_through_map(heat, seen).relu(), heat.relu()) + 1) / 2


@METRICS.register(range=(0.0, 1.0), higher_is_better=False, cost="none")
def complexity(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """Complexity: how much of the image the map shows, the mean of the scaled map.

    ``mean U(M)`` in [0, 1] at the layer's resolution: 1 for a map of one positive value, 1 / cells for a single cell. NaN where
    no value is positive.

    Cost: none. Source: Poppi et al. 2021, arXiv 2104.10252.

    Args:
        heat: raw maps.
        seen: what one forward showed, not read.
    """
    return scaled(heat).flatten(1).mean(1).where(shows_evidence(heat), torch.nan)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, cost="1 forward, and the method's map of it")
def adcc(heat: Float[Tensor, "b *m"], seen: Seen, *, least: float = LEAST) -> Float[Tensor, "b"]:
    """ADCC: average drop, coherency and complexity in one number, their harmonic mean.

    ``3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))`` in [0, 1], 0 where one of the three is worst. NaN where one
    of them is.

    Cost: a forward, and what the method's map costs; with coherency no more. Source: Poppi et al. 2021, arXiv 2104.10252.

    Args:
        heat: raw maps.
        seen: what one forward showed; its ``method`` makes the map of the masked image.
        least: the probability above which a sample counts.

    Raises:
        ValueError: as ``average_drop`` and ``coherency`` do.
    """
    # the map first: its forward tells the probability too
    like = coherency(heat, seen)
    sparse = 1 - complexity(heat, seen)
    kept = 1 - average_drop(heat, seen, least=least)
    mean: Tensor = 3 / (1 / like + 1 / sparse + 1 / kept)
    return mean


def _correlation(a: Float[Tensor, "b *m"], b: Float[Tensor, "b *m"]) -> Float[Tensor, "b"]:
    """Pearson's correlation over the cells; NaN where those of a map are equal but for rounding."""
    cosine: Tensor = (_direction(a) * _direction(b)).sum(1)
    return cosine.clamp(-1, 1)


def _direction(heat: Float[Tensor, "b *m"]) -> Float[Tensor, "b n"]:
    """The map less its mean, at length 1; NaN where nothing is left of it."""
    flat = heat.flatten(1)
    rounding = 4 * torch.finfo(flat.dtype).eps * flat.abs().amax(1)
    centred = above_rounding(flat - flat.mean(1, keepdim=True), rounding)
    # by its largest value first, or squares of small maps would be 0
    level = centred / centred.abs().amax(1, keepdim=True)
    direction: Tensor = level / level.norm(dim=1, keepdim=True)
    return direction
