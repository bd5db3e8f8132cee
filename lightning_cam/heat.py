"""Shapes and scales of raw maps. b batch, t targets, u v map, h w image."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Unit = Literal["relu", "minmax"]
Scale = Literal["image", "batch", "run"]


def resize(heat: Float[Tensor, "*b u v"], size: tuple[int, int]) -> Float[Tensor, "*b h w"]:
    """Bilinear resize with half-pixel centres and no antialiasing, as ``cv2.resize(..., INTER_LINEAR)`` does."""
    flat = heat.reshape(-1, 1, *heat.shape[-2:])
    return F.interpolate(flat, size, mode="bilinear", align_corners=False).reshape(*heat.shape[:-2], *size)


def peak(heat: Float[Tensor, "*b u v"]) -> Float[Tensor, "*b"]:
    """The largest value of each raw map: its strength, in the units of the score."""
    return heat.amax((-2, -1))


def extent(
    heat: Float[Tensor, "*b u v"],
    unit: Unit,
    scale: Scale | float = "image",
    run: tuple[float, float] = (torch.inf, -torch.inf),
) -> tuple[Float[Tensor, "*c 1 1"], Float[Tensor, "*c 1 1"]]:
    """The raw values shown as 0 and as 1: (0, maximum) for ``relu``, (minimum, maximum) for ``minmax``.

    Taken over each map (``image``), over all given (``batch``), over these and the extremes of the run before (``run``), or
    (0, scale) where the scale is a number.
    """
    if not isinstance(scale, str):
        return heat.new_zeros(1, 1, 1), heat.new_full((1, 1, 1), scale)
    low, high = heat.amin((-2, -1), keepdim=True), heat.amax((-2, -1), keepdim=True)
    if scale != "image":
        low, high = low.amin().reshape(1, 1, 1), high.amax().reshape(1, 1, 1)
    if scale == "run":
        low, high = low.clamp(max=run[0]), high.clamp(min=run[1])
    return (torch.zeros_like(low), high.clamp(min=0)) if unit == "relu" else (low, high)


def scaled(
    heat: Float[Tensor, "*b u v"], low: Float[Tensor, "*c 1 1"], high: Float[Tensor, "*c 1 1"]
) -> Float[Tensor, "*b u v"]:
    """Map [low, high] linearly onto [0, 1], clipped; a map without extent, and NaN, become 0."""
    span = high - low
    inside = (heat - low) / span.where(span > 0, 1)
    return inside.where(span > 0, 0).nan_to_num(0).clamp(0, 1)
