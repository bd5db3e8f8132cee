"""Colour maps as lookup tables on the device: OpenCV's, and one of our own for signed maps. h w image."""

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_cam.registry import did_you_mean

_CODES = {name[9:].lower(): int(getattr(cv2, name)) for name in sorted(dir(cv2)) if name.startswith("COLORMAP_")}
_BLUE, _RED = 258.0, 33.0  # hues in degrees; what is left of their difference to colour-blind eyes is the largest
_LIGHT, _DARK, _CHROMA = 0.97, 0.47, 0.165  # lightness at the middle and at both ends, and the chroma of the ends


def names() -> list[str]:
    """Every colour map by its lower-case name: those of the installed OpenCV, and ``blue_red``."""
    return [*_CODES, "blue_red"]


def check(name: str) -> None:
    """Raise ValueError, naming the nearest, if there is no such colour map."""
    if name not in names():
        raise ValueError(f"No colour map {name!r}.{did_you_mean(name, names())} Known: {', '.join(names())}.")


@lru_cache(maxsize=64)
def table(name: str, device: torch.device) -> UInt8[Tensor, "256 3"]:
    """The colour map's 256 RGB colours, cold to hot."""
    check(name)
    if name == "blue_red":
        return _blue_red().to(device)
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], _CODES[name])
    return torch.from_numpy(bgr[:, 0, ::-1].copy()).to(device)


def colour(unit: Float[Tensor, "*b h w"], name: str) -> UInt8[Tensor, "*b 3 h w"]:
    """Colour values in [0, 1]; equal to ``cv2.applyColorMap`` of the same values rounded to 8 bits."""
    return table(name, unit.device)[(unit * 255).round().long()].movedim(-1, -3)


def _blue_red() -> UInt8[Tensor, "256 3"]:
    """From blue over near white to red, in OKLab: equal lightness and chroma at equal distance from the middle.

    The middle lies between two entries; 128, which a rounded 0.5 picks, is taken as the middle itself. Source of the colour
    space: Ottosson 2020, "A perceptual color space for image processing".
    """
    x = (torch.arange(256, dtype=torch.float64) - 128) / torch.where(torch.arange(256) < 128, 128, 127)
    far = x.abs()
    light, chroma = _LIGHT + (_DARK - _LIGHT) * far, _CHROMA * (far * torch.pi / 2).sin()
    hue = torch.where(x < 0, _BLUE, _RED) * torch.pi / 180
    lab = torch.stack([light, chroma * hue.cos(), chroma * hue.sin()], 1)
    to_cone = lab.new_tensor(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_rgb = lab.new_tensor(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = ((lab @ to_cone.T) ** 3 @ to_rgb.T).clamp(0, 1)
    encoded = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255).round().to(torch.uint8)
