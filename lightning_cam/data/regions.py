"""Boxes and masks as masks. b batch, n boxes, h w image."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor


def to_mask(region: Any, images: Tensor) -> Bool[Tensor, "b h w"]:
    """Boxes [b 4], [b n 4] or a list of [n 4], or masks [b h w] or [b 1 h w], as masks; several boxes are united."""
    b, (h, w) = len(images), images.shape[-2:]
    if not isinstance(region, Tensor):
        rows = [torch.as_tensor(one, dtype=torch.float32).reshape(-1, 4) for one in region]
        region = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)
    given: Tensor = region.to(images.device)
    if len(given) != b:
        raise ValueError(f"The batch has {b} images and regions for {len(given)}.")
    if given.shape[-2:] == (h, w) and given.ndim in (3, 4):
        return given.reshape(b, -1, h, w).bool().any(1)
    if given.shape[-1] != 4 or given.ndim not in (2, 3):
        raise ValueError(f"Regions are boxes [b 4] or [b n 4], or masks [b {h} {w}]; got {tuple(given.shape)}.")
    x0, y0, x1, y1 = given.reshape(b, -1, 4, 1, 1).unbind(2)
    x = torch.arange(w, device=images.device) + 0.5  # a pixel is inside if its centre is
    y = torch.arange(h, device=images.device)[:, None] + 0.5
    return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).any(1)
