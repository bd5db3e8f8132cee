"""Words under a picture. Type is set with Pillow on the host; only the finished strips go to the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.render import typesetting
from lightning_cam.render.style import Style
from lightning_cam.render.typesetting import Line, clip, typeset, write

PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (110, 114, 120)
RIGHT = (0, 114, 178)  # blue and vermilion of Okabe and Ito, told apart by colour-blind eyes
WRONG = (213, 94, 0)


@dataclass(frozen=True)
class Caption:
    """Two lines, a verdict (right, wrong, or none where there is no label), and a remark on a dark plate."""

    line: str
    under: str = ""
    right: bool | None = None
    remark: str = ""


def strips(captions: Sequence[Caption], width: int, size: int, font: str | None) -> UInt8[Tensor, "b 3 s w"]:
    """One strip a caption, of one height; text too long is cut with an ellipsis."""
    return torch.stack([_strip(caption, width, size, font) for caption in captions])


def height(size: int) -> int:
    """The height of a strip at a font size."""
    return round(2.75 * size)


def font_size(style: Style) -> int:
    """A size that stays legible when a sheet is shown at half its width."""
    return max(11, round(style.tile * 0.115))


def to_tensor(canvas: Image.Image) -> UInt8[Tensor, "3 s w"]:
    """A Pillow picture as a tensor."""
    return torch.from_numpy(np.asarray(canvas).transpose(2, 0, 1).copy())


def forget() -> None:
    """Drop the strips set so far, the fonts found, and which warnings were given."""
    _strip.cache_clear()
    typesetting.forget()


# a sample's caption is often the same at every look
@lru_cache(maxsize=512)
def _strip(caption: Caption, width: int, size: int, font: str | None) -> UInt8[Tensor, "3 s w"]:
    canvas = Image.new("RGB", (width, height(size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    left = 0
    ink = INK
    if caption.right is not None:
        bar = max(4, size // 4)
        verdict = RIGHT
        if not caption.right:
            verdict = WRONG
            ink = WRONG
        draw.rectangle((0, round(0.25 * size), bar - 1, round(2.5 * size)), verdict)
        left = 2 * bar
    line = clip(typeset(caption.line, size, font), width - left)
    write(draw, (left, round(0.2 * size)), line, ink)
    if caption.remark:
        remark = clip(typeset(caption.remark, size, font), width - left - size)
        plate = round(remark.length) + 2 * (size // 3)
        # at the right of the first line if there is room, else in front of the second
        if left + line.length + size // 2 + plate <= width:
            _write_on_plate(draw, (width - plate, 0.2 * size), remark, size)
        else:
            _write_on_plate(draw, (left, 1.4 * size), remark, size)
            left += plate + size // 2
    under = clip(typeset(caption.under, size, font), width - left)
    write(draw, (left, round(1.4 * size)), under, FAINT)
    return to_tensor(canvas)


def _write_on_plate(draw: ImageDraw.ImageDraw, place: tuple[int, float], words: Line, size: int) -> None:
    """White on a dark ground, rounded at its corners."""
    left, top = place
    edge = size // 3
    right = left + round(words.length) + 2 * edge - 1
    draw.rounded_rectangle((left, round(top - 0.06 * size), right, round(top + 1.2 * size)), edge, INK)
    write(draw, (left + edge, round(top)), words, PAPER)
