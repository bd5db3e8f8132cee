"""Shapes and scales of raw maps. b batch, t targets, n maps, m map (u v for pictures), h w image."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Norm = Literal["positive", "minmax", "symmetric"]
Scale = Literal["image", "batch", "run"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_FINE, _BEYOND = 4096, 0.01  # cells of a map by pixels, and the share of them that its own scale leaves beyond its ends


def resize(heat: Float[Tensor, "..."], size: Sequence[int]) -> Float[Tensor, "..."]:
    """Linear resize of the last dimensions, as many as ``size`` has (one to three), with half-pixel centres.

    In two dimensions it is what ``cv2.resize(..., INTER_LINEAR)`` does: bilinear, without antialiasing.
    """
    sides = len(size)
    flat = heat.reshape(-1, 1, *heat.shape[-sides:])
    resized = F.interpolate(flat, tuple(size), mode=_LINEAR[sides], align_corners=False)
    return resized.reshape(*heat.shape[:-sides], *size)


def maximum(heat: Float[Tensor, "n *m"]) -> Float[Tensor, "n"]:
    """The largest value of each raw map: its strength, in the units of the score."""
    return heat.flatten(1).amax(1)


def value_range(
    heat: Float[Tensor, "n *m"],
    norm: Norm,
    scale: Scale | float = "image",
    run: tuple[float, float] = (torch.inf, -torch.inf),
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """The raw values at the two ends of the colours, [n 1 ...] or [1 1 ...].

    They are (0, maximum) for ``positive``, (minimum, maximum) for ``minmax``, (-m, m) for ``symmetric`` with m the largest absolute
    value; over each map (``image``), over all given (``batch``), over these and the extremes of the run before (``run``), or
    of a number as the maximum or m. Absent maps, all NaN, do not count. Over each map, one of 4096 cells or more is taken
    without the hottest and the coldest hundredth, since single pixels far above all others would leave the rest dark.
    """
    ones = (1,) * (heat.ndim - 1)
    if not isinstance(scale, str):
        high = heat.new_full((1, *ones), scale)
        return (-high if norm == "symmetric" else torch.zeros_like(high)), high
    flat = heat.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    if scale == "image" and flat.shape[1] >= _FINE:
        beyond = int(_BEYOND * flat.shape[1])
        least, most = flat.sort(dim=1).values[:, [beyond, -1 - beyond]].unbind(1)
        low, high = least.where(least < 0, low), most.where(most > 0, high)  # where few pixels are all there is, they count
    if scale != "image":
        low, high = low.where(~low.isnan(), torch.inf).amin(0, True), high.where(~high.isnan(), -torch.inf).amax(0, True)
    if scale == "run":
        low, high = low.clamp(max=run[0]), high.clamp(min=run[1])
    low, high = low.reshape(-1, *ones), high.reshape(-1, *ones)
    if norm == "symmetric":
        most = torch.maximum(-low, high)
        return -most, most
    return (torch.zeros_like(low), high.clamp(min=0)) if norm == "positive" else (low, high)


def rescale(
    heat: Float[Tensor, "n *m"], low: Float[Tensor, "..."], high: Float[Tensor, "..."], nothing: float = 0.0
) -> Float[Tensor, "n *m"]:
    """Map [low, high] linearly onto [0, 1], clipped; a map without extent, and NaN, become what stands for ``nothing``."""
    span = high - low
    inside = (heat - low) / span.where(span > 0, 1)
    return inside.where(span > 0, nothing).nan_to_num(nothing).clamp(0, 1)


def neutral(norm: Norm) -> float:
    """What stands for no evidence among values scaled to [0, 1]: the middle of a signed map, else 0."""
    return 0.5 if norm == "symmetric" else 0.0
