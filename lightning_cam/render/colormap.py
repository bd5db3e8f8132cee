"""Colour maps as lookup tables on the device: OpenCV's, and one of our own for signed maps. h w image."""

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_cam.registry import did_you_mean

_PREFIX = "COLORMAP_"
_CODES = {name.removeprefix(_PREFIX).lower(): int(getattr(cv2, name)) for name in sorted(dir(cv2)) if name.startswith(_PREFIX)}
# hues in degrees, chosen so that what is left of their difference to colour-blind eyes is the largest
_BLUE = 258.0
_RED = 33.0
_LIGHT = 0.97  # lightness of the middle
_DARK = 0.47  # lightness of both ends
_CHROMA = 0.165  # of both ends

# Ottosson 2020, "A perceptual color space for image processing": the inverse of his two matrices
_LAB_TO_CONES = [
    [1, 0.3963377774, 0.2158037573],
    [1, -0.1055613458, -0.0638541728],
    [1, -0.0894841775, -1.2914855480],
]
_CONES_TO_RGB = [
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
]


def names() -> list[str]:
    """Every colour map by its lower-case name: those of the installed OpenCV, and ``blue_red``."""
    return [*_CODES, "blue_red"]


def check(name: str) -> None:
    """Refuse a name that no colour map has.

    Raises:
        ValueError: naming the nearest.
    """
    if name not in names():
        raise ValueError(f"No colour map {name!r}.{did_you_mean(name, names())} Known: {', '.join(names())}.")


@lru_cache(maxsize=64)
def table(name: str, device: torch.device) -> UInt8[Tensor, "256 3"]:
    """The colour map's 256 RGB colours, cold to hot.

    Raises:
        ValueError: for a name that no colour map has.
    """
    check(name)
    if name == "blue_red":
        return _blue_red().to(device)
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], _CODES[name])
    return torch.from_numpy(bgr[:, 0, ::-1].copy()).to(device)


def colour(normalized: Float[Tensor, "*b h w"], name: str) -> UInt8[Tensor, "*b 3 h w"]:
    """Colour values in [0, 1]; equal to ``cv2.applyColorMap`` of the same values rounded to 8 bits.

    Example:
        >>> colour(torch.tensor([[0.0, 1.0]]), "bone").squeeze().T.tolist()
        [[0, 0, 0], [255, 255, 255]]
    """
    index = (normalized * 255).round().long()
    return table(name, normalized.device)[index].movedim(-1, -3)


def _blue_red() -> UInt8[Tensor, "256 3"]:
    """From blue over near white to red, in OKLab: equal lightness and chroma at equal distance from the middle.

    The middle lies between two entries; 128, which a rounded 0.5 picks, is taken as the middle itself.
    """
    # fewer entries lie above the middle than below it
    half = torch.where(torch.arange(256) < 128, 128, 127)
    x = (torch.arange(256, dtype=torch.float64) - 128) / half
    distance = x.abs()
    light = _LIGHT + (_DARK - _LIGHT) * distance
    chroma = _CHROMA * (distance * torch.pi / 2).sin()
    hue = torch.where(x < 0, _BLUE, _RED) * torch.pi / 180
    lab = torch.stack([light, chroma * hue.cos(), chroma * hue.sin()], 1)
    cones = (lab @ lab.new_tensor(_LAB_TO_CONES).T) ** 3
    linear = (cones @ lab.new_tensor(_CONES_TO_RGB).T).clamp(0, 1)
    # the transfer function of sRGB
    encoded = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255).round().to(torch.uint8)
