"""Boxes and masks as masks. b batch, n boxes, h w image."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def to_mask(region: Any, images: Tensor) -> Bool[Tensor, "b h w"]:
    """Boxes or masks as masks; several boxes are united.

    Args:
        region: boxes [b 4], [b n 4] or a list of [n 4], (x0, y0, x1, y1) in pixels; or masks [b h w] or [b 1 h w].
        images: the images they belong to, [b ... h w].

    Raises:
        ValueError: for regions of another shape, or of another number of images.

    Example:
        >>> to_mask(torch.tensor([[0, 0, 2, 1]]), torch.zeros(1, 3, 2, 2)).tolist()
        [[[True, True], [False, False]]]
    """
    b = len(images)
    h, w = images.shape[-2:]
    if not isinstance(region, Tensor):
        region = _padded(region)
    region = region.to(images.device)
    if len(region) != b:
        raise ValueError(f"The batch has {b} images and regions for {len(region)}.")
    if region.shape[-2:] == (h, w) and region.ndim in (3, 4):
        masks: Tensor = region.reshape(b, -1, h, w)
        return masks.bool().any(1)
    if region.shape[-1] != 4 or region.ndim not in (2, 3):
        raise ValueError(f"Regions are boxes [b 4] or [b n 4], or masks [b {h} {w}]; got {tuple(region.shape)}.")
    return _inside(region.reshape(b, -1, 4), h, w)


def _padded(boxes: Any) -> Float[Tensor, "b n 4"]:
    """Lists of boxes of unequal length as one tensor, with rows of NaN."""
    # an empty list, or one box alone, has no side of four yet
    rows = [torch.as_tensor(row, dtype=torch.float32).reshape(-1, 4) for row in boxes]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)


def _inside(boxes: Shaped[Tensor, "b n 4"], h: int, w: int) -> Bool[Tensor, "b h w"]:
    """Where a pixel's centre is inside a box; nowhere for a row of NaN."""
    x0, y0, x1, y1 = boxes[..., None, None].unbind(2)
    x = torch.arange(w, device=boxes.device) + 0.5
    y = torch.arange(h, device=boxes.device)[:, None] + 0.5
    # a comparison with NaN is false
    return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).any(1)
