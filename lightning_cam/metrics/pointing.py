"""Whether the hottest cell of a map points at a region. b batch, s sides of the image, m map (u v for pictures)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.metrics.region import known_region, prefers, region_of
from lightning_cam.registry import METRICS


def hitting_cells(seen: Seen, *, region: str | None = None, tolerance: float = 0.03) -> Float[Tensor, "b"]:
    """The share of the map's cells that would hit, 0 to 1: what ``pointing_game`` scores on average if cells are permuted.

    Exact, over the cells of the map at this look, or where it is not known over those of the layer: a coarse map has a few
    points only that it can point at, so the region's share of the image would be another number. NaN as the metric is.
    """
    inside = known_region(seen, region)
    if inside is None:
        return seen.score.new_full((len(seen.image),), torch.nan)
    now = seen.earlier.now
    cells = seen.activation.shape[2:] if now is None else now.shape[1:]
    share = hits(inside, cells, tolerance).flatten(1).to(seen.score.dtype).mean(1)
    return share.where(inside.flatten(1).any(1), torch.nan)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, floor=hitting_cells, cost="none")
def pointing_game(
    heat: Float[Tensor, "b *m"], seen: Seen, *, region: str | None = None, tolerance: float = 0.03
) -> Float[Tensor, "b"]:
    """Pointing game: whether the hottest cell of the map points into a region, or nearly.

    A cell points at its centre on the image, where a linearly resized map has its maximum. It hits if the pixel that holds this
    point is inside, or if the centre of any pixel inside is nearer to it than the tolerance: 1 or 0, and of several cells
    tied at the maximum the share that hits. NaN where the region is empty, of a constant map, and where no value is positive:
    such a map points nowhere.

    Source: Zhang et al. 2016 (excitation backprop), arXiv 1608.00507: there nearer than 15 pixels on images of about 500, here
    than .03 of the image's longest side, whatever its size; and there the mean over classes of each class's mean.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        region: which of them; by default the union of all.
        tolerance: the distance below which a miss is a hit, as a share of the image's longest side; 0 for none.

    Raises:
        ValueError: for a region that the batch does not have, a map of fewer sides than the image, or a tolerance below 0.
    """
    inside = region_of(heat, seen, region, "pointing_game")
    positive = heat.relu().flatten(1)
    hottest = positive == positive.amax(1, keepdim=True)
    hit = hottest & hits(inside, heat.shape[1:], tolerance).flatten(1)
    score = hit.sum(1).to(heat.dtype) / hottest.sum(1)
    return score.where(inside.flatten(1).any(1) & prefers(positive), torch.nan)


def hits(inside: Bool[Tensor, "b *s"], cells: Sequence[int], tolerance: float) -> Bool[Tensor, "b *m"]:
    """Which cells of a map of such sides point into a region, or to less than the tolerance from it.

    Raises:
        ValueError: for a tolerance below 0, or not finite.

    Example:
        >>> hits(torch.tensor([[[True, False], [False, False]]]), (2, 2), 0.0).tolist()
        [[[True, False], [False, False]]]
    """
    if not 0 <= tolerance < torch.inf:
        raise ValueError(
            f"The tolerance of pointing_game is a share of the image's longest side, 0 or more; got {tolerance!r}. "
            'For 15 pixels on images of 500 write {"pointing_game": {"tolerance": 0.03}}.'
        )
    held = inside
    # squared, side by side: the nearest pixel inside along one side, then the nearest of these along the next
    distance = torch.zeros_like(inside, dtype=torch.float32).masked_fill(~inside, torch.inf)
    reach = tolerance * max(inside.shape[1:])
    for dimension, count in enumerate(cells, start=1):
        points = _points(count, inside.shape[dimension], inside.device)
        held = held.index_select(dimension, points.long())
        distance = _nearest(distance, dimension, points, math.ceil(reach))
    return held | (distance < reach**2)


def _points(cells: int, side: int, device: torch.device) -> Float[Tensor, "cells"]:
    """The centres of the cells along one side, in pixels from the image's edge."""
    return (2 * torch.arange(cells, device=device) + 1) * side / (2 * cells)


def _nearest(
    distance: Float[Tensor, "b *s"], dimension: int, points: Float[Tensor, "cells"], reach: int
) -> Float[Tensor, "b *r"]:
    """The smallest sum of a pixel's squared distance and that along one side from each point, over pixels within reach."""
    last = distance.shape[dimension] - 1
    shape = [1] * distance.ndim
    shape[dimension] = len(points)
    nearest = distance.new_full((), torch.inf)
    for offset in range(-reach, reach + 1):
        pixel = points.floor() + offset
        along = (points - pixel - 0.5).square().where((pixel >= 0) & (pixel <= last), torch.inf)
        there = distance.index_select(dimension, pixel.clamp(0, last).long())
        nearest = torch.minimum(nearest, there + along.reshape(shape))
    return nearest
