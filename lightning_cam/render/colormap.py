"""OpenCV's colour maps as lookup tables on the device. h w image."""

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_cam.family import nearest

_CODES = {name[9:].lower(): int(getattr(cv2, name)) for name in sorted(dir(cv2)) if name.startswith("COLORMAP_")}


def names() -> list[str]:
    """Every colour map of the installed OpenCV, by its lower-case name."""
    return list(_CODES)


def check(name: str) -> None:
    """Raise ValueError, naming the nearest, if OpenCV has no such colour map."""
    if name not in _CODES:
        raise ValueError(f"No colour map {name!r}.{nearest(name, _CODES)} Known: {', '.join(_CODES)}.")


@lru_cache(maxsize=64)
def table(name: str, device: torch.device) -> UInt8[Tensor, "256 3"]:
    """The colour map's 256 RGB colours, cold to hot."""
    check(name)
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], _CODES[name])
    return torch.from_numpy(bgr[:, 0, ::-1].copy()).to(device)


def colour(unit: Float[Tensor, "*b h w"], name: str) -> UInt8[Tensor, "*b 3 h w"]:
    """Colour values in [0, 1]; equal to ``cv2.applyColorMap`` of the same values rounded to 8 bits."""
    return table(name, unit.device)[(unit * 255).round().long()].movedim(-1, -3)
