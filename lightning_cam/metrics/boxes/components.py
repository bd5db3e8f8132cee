"""Connected components of maps above thresholds, as boxes, whole batches on their device.

b batch, s sides of the image, p its places, k components, t thresholds, a axes (the sides, x first), r numbers of a box.

Places touch along sides and corners. For thresholds in rising order a place has a level: how many of them its value exceeds.
Above the i-th are the places of a level higher than i, so levels say all there is to say of components, and components of a
higher threshold lie within those of a lower one. Every place joins, step by step, the highest place it reaches without going
down a level. What is left are the hills that are apart at one threshold at least, few of them; where two of them meet is
their saddle, and which are one above a threshold follows from the saddles alone, for all thresholds at once.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Components:
    """The components above each threshold; where there are fewer than k, the others are empty, in no order.

    Attributes:
        boxes: all lower ends before all upper ones, x first, upper ends excluded; zeros for an empty one.
        places: how many places each has, 0 for an empty one.
    """

    boxes: Int[Tensor, "b t k r"]
    places: Int[Tensor, "b t k"]


def components(values: Float[Tensor, "b *s"], thresholds: Float[Tensor, "t"]) -> Components:
    """The connected components of where values are strictly above each threshold.

    Args:
        values: finite values; what is not above the lowest threshold is nowhere a component.
        thresholds: in rising order.

    Example:
        >>> values = torch.tensor([[[1.0, 0.0, 0.5], [1.0, 0.0, 0.0]]])
        >>> parts = components(values, torch.tensor([0.25, 0.75]))
        >>> parts.boxes.tolist()
        [[[[2, 0, 3, 1], [0, 0, 1, 2]], [[0, 0, 0, 0], [0, 0, 1, 2]]]]
        >>> parts.places.tolist()
        [[[1, 2], [0, 2]]]
    """
    count = len(thresholds)
    # a threshold is exceeded strictly: of those equal to the value none is counted
    levels = torch.bucketize(values, thresholds)
    hills, k = _numbered(_hills(levels), levels)
    lower, upper = _ends(levels, hills, k, count)
    sizes = _sizes(levels, hills, k, count)
    # of the hills that are one above a threshold the first stands for all; those below it are put last, and left away
    first = _first_above(_saddles(levels, hills, k, count), count).transpose(1, 2)
    ends = first[..., None].expand(lower.shape)
    low = _empty(lower).scatter_reduce(2, ends, lower, "amin", include_self=False)[:, :, :k]
    high = _empty(upper).scatter_reduce(2, ends, upper, "amax")[:, :, :k]
    places = _empty(sizes).scatter_add(2, first, sizes)[:, :, :k]
    return Components(torch.cat([low, high], 3), places)


def _empty(parts: Int[Tensor, "b t k *a"]) -> Int[Tensor, "b t l *a"]:
    """Zeros for as many components, and one more."""
    return torch.zeros_like(torch.cat([parts, parts[:, :, :1]], 2))


def mask_boxes(mask: Bool[Tensor, "b *s"]) -> Int[Tensor, "b k r"]:
    """The box of each connected component of a mask; zeros where a sample has fewer than others.

    Example:
        >>> mask_boxes(torch.tensor([[[True, True, False, True]]])).tolist()
        [[[0, 0, 2, 1], [3, 0, 4, 1]]]
    """
    return components(mask.float(), torch.tensor([0.5], device=mask.device)).boxes[:, 0]


def _hills(levels: Int[Tensor, "b *s"]) -> Int[Tensor, "b p"]:
    """The place, one for each hill, that all places of the hill have joined; of level 0 everything stays apart."""
    flat = levels.flatten(1)
    p = flat.shape[1]
    # a level before a place, so that the highest of two is the larger number
    summit = flat * p + torch.arange(p, device=levels.device)
    while True:
        offered = _highest_around(levels, summit.reshape(levels.shape)).flatten(1)
        # a hill joins another only from its own height, else there is a saddle between them
        offered = offered.where(flat == summit // p, 0)
        joined = summit.scatter_reduce(1, summit % p, offered, "amax").gather(1, summit % p)
        joined = _followed(joined, p)
        if torch.equal(joined, summit):
            return summit % p
        summit = joined


def _highest_around(levels: Int[Tensor, "b *s"], summit: Int[Tensor, "b *s"]) -> Int[Tensor, "b *s"]:
    """The largest summit of the places around each that are at least as high as it; itself for those of level 0."""
    highest = summit.clone()
    for here, there in _touching(levels.ndim - 1):
        for own, other in ((here, there), (there, here)):
            reachable = (levels[other] >= levels[own]) & (levels[own] > 0)
            highest[own] = torch.maximum(highest[own], summit[other].where(reachable, 0))
    return highest


def _followed(summit: Int[Tensor, "b p"], p: int) -> Int[Tensor, "b p"]:
    """Every summit's own summit, and that one's, to the last."""
    while True:
        further = summit.gather(1, summit % p)
        if torch.equal(further, summit):
            return summit
        summit = further


def _numbered(roots: Int[Tensor, "b p"], levels: Int[Tensor, "b *s"]) -> tuple[Int[Tensor, "b p"], int]:
    """The hills of each sample numbered from 0, and the most there are of any; what is of level 0 is with the first."""
    above = levels.flatten(1) > 0
    is_root = above & (roots == torch.arange(roots.shape[1], device=roots.device))
    numbers = (is_root.cumsum(1) - 1).gather(1, roots)
    return numbers.where(above, 0), max(1, int(is_root.sum(1).max()))


def _saddles(levels: Int[Tensor, "b *s"], hills: Int[Tensor, "b p"], k: int, count: int) -> Int[Tensor, "b k k"]:
    """The level up to which one gets from one hill to another, over others too; on the diagonal a hill's own level."""
    hill = hills.reshape(levels.shape)
    saddles = torch.zeros(len(levels), k * k, dtype=levels.dtype, device=levels.device)
    saddles.scatter_reduce_(1, hills * (k + 1), levels.flatten(1), "amax")
    # above a single threshold, hills that touch have joined
    if count == 1:
        return saddles.reshape(-1, k, k)
    for here, there in _touching(levels.ndim - 1):
        pairs = (hill[here] * k + hill[there]).flatten(1)
        saddles.scatter_reduce_(1, pairs, torch.minimum(levels[here], levels[there]).flatten(1), "amax")
    saddles = saddles.reshape(-1, k, k)
    saddles = torch.maximum(saddles, saddles.transpose(1, 2))
    # over every hill in turn (Floyd 1962, with the widest way for the shortest)
    for i in range(k):
        saddles = torch.maximum(saddles, torch.minimum(saddles[:, :, i, None], saddles[:, i, None]))
    return saddles


def _ends(
    levels: Int[Tensor, "b *s"], hills: Int[Tensor, "b p"], k: int, count: int
) -> tuple[Int[Tensor, "b t k a"], Int[Tensor, "b t k a"]]:
    """Where each hill begins and ends above each threshold, x first; the side's length and 0 where it is below."""
    hill = hills.reshape(levels.shape)
    lower = []
    upper = []
    for dimension in reversed(range(1, levels.ndim)):
        side = levels.shape[dimension]
        shape = [1] * levels.ndim
        shape[dimension] = side
        along = (hill * side + torch.arange(side, device=levels.device).reshape(shape)).flatten(1)
        profile = torch.zeros(len(levels), k * side, dtype=levels.dtype, device=levels.device)
        profile = profile.scatter_reduce(1, along, levels.flatten(1), "amax").reshape(-1, k, side)
        lower.append(_first_above(profile, count))
        upper.append(side - _first_above(profile.flip(2), count))
    return torch.stack(lower, 3).transpose(1, 2), torch.stack(upper, 3).transpose(1, 2)


def _first_above(profile: Int[Tensor, "b k n"], count: int) -> Int[Tensor, "b k t"]:
    """The first position whose level is above each threshold; the length where none is."""
    above = torch.arange(count, device=profile.device).expand(*profile.shape[:2], count).contiguous()
    return torch.searchsorted(profile.cummax(2).values, above, right=True)


def _sizes(levels: Int[Tensor, "b *s"], hills: Int[Tensor, "b p"], k: int, count: int) -> Int[Tensor, "b t k"]:
    """How many places of each hill are above each threshold."""
    cells = hills * (count + 1) + levels.flatten(1)
    at_level = torch.zeros(len(levels), k * (count + 1), dtype=torch.long, device=levels.device)
    at_level.scatter_add_(1, cells, torch.ones_like(cells))
    # above the i-th threshold are the levels from i + 1 on
    from_level = at_level.reshape(-1, k, count + 1).flip(2).cumsum(2).flip(2)
    return from_level[:, :, 1:].transpose(1, 2)


def _touching(sides: int) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Every pair of slices whose places touch along a side or a corner, one of each two directions."""
    pairs = []
    for step in product((-1, 0, 1), repeat=sides):
        if step > (0,) * sides:
            here = (slice(None), *(slice(max(0, -s), -s if s > 0 else None) for s in step))
            there = (slice(None), *(slice(max(0, s), s if s < 0 else None) for s in step))
            pairs.append((here, there))
    return pairs
