"""Noise to draw with. b batch, h w image."""

import numpy as np
import torch
from torch import Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in [0, 1)."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def photo(b: int = 2, h: int = 40, w: int = 60, seed: int = 0) -> Tensor:
    """The same as bytes, [b 3 h w]."""
    return (noise(b, 3, h, w, seed=seed) * 255).round().to(torch.uint8)


def bgr(rgb: Tensor) -> np.ndarray:
    """One picture as OpenCV holds it, [h w 3]."""
    return np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()[..., ::-1])
