"""Shapes and scales of raw maps. b batch, t targets, n maps, m map (u v for pictures), h w image."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Norm = Literal["positive", "minmax", "symmetric"]
Scale = Literal["image", "batch", "run"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_FINE = 4096  # cells of a map by pixels
_OUTERMOST = 0.01  # of such a map's cells: those left beyond each end of its own scale


def resize(heat: Float[Tensor, "..."], size: Sequence[int]) -> Float[Tensor, "..."]:
    """Linear resize of the last dimensions, as many as ``size`` has (one to three), with half-pixel centres.

    In two dimensions it is what ``cv2.resize(..., INTER_LINEAR)`` does: bilinear, without antialiasing.

    Example:
        >>> resize(torch.tensor([0.0, 4.0]), [4]).tolist()
        [0.0, 1.0, 3.0, 4.0]
        >>> resize(torch.rand(2, 5, 7, 7), (224, 160)).shape
        torch.Size([2, 5, 224, 160])
    """
    sides = len(size)
    flat = heat.reshape(-1, 1, *heat.shape[-sides:])
    resized = F.interpolate(flat, tuple(size), mode=_LINEAR[sides], align_corners=False)
    return resized.reshape(*heat.shape[:-sides], *size)


def condense(heat: Float[Tensor, "n *m"], cells: int = 1024) -> Float[Tensor, "n *u"]:
    """Maps of more cells than these averaged down, sides in proportion; smaller ones as they are.

    Example:
        >>> condense(torch.rand(2, 224, 224)).shape
        torch.Size([2, 32, 32])
    """
    sides = heat.shape[1:]
    if sides.numel() <= cells:
        return heat
    factor = _shrinkage(sides, cells)
    size = [max(1, int(side * factor + 1e-6)) for side in sides]  # or 224 would become 31.999
    return _AVERAGE[len(sides)](heat[:, None], size)[:, 0]


def _shrinkage(sides: Sequence[int], cells: int) -> float:
    """The factor at which so many cells are left; sides that shrink to a single cell leave more of it to the others."""
    factor: float = (cells / math.prod(sides)) ** (1 / len(sides))
    long = [side for side in sides if side * factor >= 1]
    if len(long) == len(sides):
        return factor
    return _shrinkage(long, cells)


def maximum(heat: Float[Tensor, "n *m"]) -> Float[Tensor, "n"]:
    """The largest value of each raw map: its strength, in the units of the score.

    Example:
        >>> maximum(torch.tensor([[[-1.0, 2.0]], [[0.5, 4.0]]])).tolist()
        [2.0, 4.0]
    """
    return heat.flatten(1).amax(1)


def above_rounding(heat: Float[Tensor, "n *m"], rounding: Float[Tensor, "n"]) -> Float[Tensor, "n *m"]:
    """The maps, and zeros, which is no evidence, in place of those whose largest magnitude does not exceed their rounding.

    Where the terms of a sum cancel, rounding is all that is left of it, and scaled to its own maximum it would look like any
    other map.

    Args:
        heat: raw maps; NaN stays NaN.
        rounding: what of each may be rounding: eps times the largest sum of magnitudes of the terms that it was made of.

    Example:
        >>> above_rounding(torch.tensor([[1e-9, 2.0], [1e-9, -1e-8]]), torch.tensor([1e-7, 1e-7])).tolist()
        [[9.999999717180685e-10, 2.0], [0.0, 0.0]]
    """
    # an overflow is no rounding
    is_rounding = (heat.flatten(1).abs().amax(1) <= rounding) & rounding.isfinite()
    return heat.masked_fill(is_rounding.reshape(-1, *_ones(heat)), 0)


def has_evidence(heat: Float[Tensor, "*n m"]) -> Bool[Tensor, "*n"]:
    """Whether a map has any value but zero; NaN, an absent map, is another thing than none.

    Example:
        >>> has_evidence(torch.tensor([[0.0, 0.0], [0.0, -1.0]])).tolist()
        [False, True]
    """
    return (heat != 0).any(-1)


def min_max(values: Float[Tensor, "n *m"], constant: float = 0.0) -> Float[Tensor, "n *m"]:
    """The values of each sample scaled linearly from its own minimum and maximum to [0, 1]; NaN stays NaN.

    Args:
        values: a sample in the first dimension; its extremes are taken over all others.
        constant: what a sample of equal values becomes, 0 or 1.

    Example:
        >>> min_max(torch.tensor([[-1.0, 0.0, 3.0], [2.0, 2.0, 2.0]])).tolist()
        [[0.0, 0.25, 1.0], [0.0, 0.0, 0.0]]
        >>> min_max(torch.tensor([[2.0, 2.0]]), constant=1.0).tolist()
        [[1.0, 1.0]]
    """
    flat = values.flatten(1)
    low = flat.amin(1, keepdim=True)
    high = flat.amax(1, keepdim=True)
    span = high - low
    scaled = (flat - low) / span.where(span > 0, 1)
    return scaled.where(span != 0, constant).reshape(values.shape)


def share_of_maximum(heat: Float[Tensor, "n *m"]) -> Float[Tensor, "n *m"]:
    """The positive part of each map over its own maximum, in [0, 1]; 0 where a map has no positive value.

    Example:
        >>> share_of_maximum(torch.tensor([[-1.0, 2.0, 4.0], [-3.0, -2.0, 0.0]])).tolist()
        [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    """
    positive = heat.relu()
    most = maximum(positive).reshape(-1, *_ones(heat))
    return positive / most.where(most > 0, 1)


def value_range(
    heat: Float[Tensor, "n *m"],
    norm: Norm,
    scale: Scale | float = "image",
    run: tuple[float, float] = (torch.inf, -torch.inf),
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """The raw values at the two ends of the colours, [n 1 ...] or [1 1 ...].

    They are (0, maximum) for ``positive``, (minimum, maximum) for ``minmax``, (-m, m) for ``symmetric`` with m the largest
    absolute value; over each map (``image``), over all given (``batch``), over these and the extremes of the run before
    (``run``), or of a number as the maximum or m. Absent maps, all NaN, do not count. Over each map, one of 4096 cells or
    more is taken without the hottest and the coldest hundredth, since single pixels far above all others would leave the
    rest dark.

    Example:
        >>> low, high = value_range(torch.tensor([[-3.0, 2.0], [0.5, 4.0]]), "symmetric")
        >>> low.tolist(), high.tolist()
        ([[-3.0], [-4.0]], [[3.0], [4.0]])
    """
    ones = _ones(heat)
    if not isinstance(scale, str):
        high = heat.new_full((1, *ones), scale)
        if norm == "symmetric":
            return -high, high
        return torch.zeros_like(high), high
    if scale == "image":
        low, high = _own_extremes(heat.flatten(1))
    else:
        low, high = _common_extremes(heat.flatten(1))
    if scale == "run":
        low = low.clamp(max=run[0])
        high = high.clamp(min=run[1])
    low = low.reshape(-1, *ones)
    high = high.reshape(-1, *ones)
    if norm == "symmetric":
        most = torch.maximum(-low, high)
        return -most, most
    if norm == "positive":
        return torch.zeros_like(low), high.clamp(min=0)
    return low, high


def rescale(
    heat: Float[Tensor, "n *m"], low: Float[Tensor, "..."], high: Float[Tensor, "..."], nothing: float = 0.0
) -> Float[Tensor, "n *m"]:
    """Map [low, high] linearly onto [0, 1], clipped; a map without extent, and NaN, become what stands for ``nothing``.

    Example:
        >>> heat = torch.tensor([[-1.0, 2.0, 8.0]])
        >>> rescale(heat, *value_range(heat, "positive")).tolist()
        [[0.0, 0.25, 1.0]]
    """
    span = high - low
    inside = (heat - low) / span.where(span > 0, 1)
    return inside.where(span > 0, nothing).nan_to_num(nothing).clamp(0, 1)


def neutral(norm: Norm) -> float:
    """What stands for no evidence among values scaled to [0, 1]: the middle of a signed map, else 0."""
    if norm == "symmetric":
        return 0.5
    return 0.0


def _ones(heat: Float[Tensor, "n *m"]) -> list[int]:
    """The shape that spreads a value a map over its cells."""
    return [1] * (heat.ndim - 1)


def _own_extremes(flat: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Each map's minimum and maximum, of a fine one those of its values without the outermost at both ends."""
    low = flat.amin(1)
    high = flat.amax(1)
    cells = flat.shape[1]
    if cells < _FINE:
        return low, high
    outermost = int(_OUTERMOST * cells)
    ordered = flat.sort(dim=1).values
    coldest = ordered[:, outermost]
    hottest = ordered[:, -1 - outermost]
    # where few pixels are all the evidence there is, they count
    return coldest.where(coldest < 0, low), hottest.where(hottest > 0, high)


def _common_extremes(flat: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "1"], Float[Tensor, "1"]]:
    """The minimum and maximum over all maps but the absent ones."""
    low = flat.amin(1)
    high = flat.amax(1)
    # an absent map is NaN, which any extreme would become
    present_low = low.where(~low.isnan(), torch.inf)
    present_high = high.where(~high.isnan(), -torch.inf)
    return present_low.amin(0, True), present_high.amax(0, True)
