"""Words under a picture. Type is set with Pillow on the host; only the finished strips go to the device."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_cam.render.style import Style

PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (110, 114, 120)
RIGHT = (0, 114, 178)  # blue and vermilion of Okabe and Ito, told apart by colour-blind eyes
WRONG = (213, 94, 0)


@dataclass(frozen=True)
class Caption:
    """Two lines and a verdict: right, wrong, or none where there is no label."""

    line: str
    under: str = ""
    right: bool | None = None


def strips(captions: Sequence[Caption], width: int, size: int, font: str | None) -> UInt8[Tensor, "b 3 s w"]:
    """One strip a caption, of one height; text too long is cut with an ellipsis."""
    return torch.stack([_strip(caption, width, size, font) for caption in captions])


def height(size: int) -> int:
    """The height of a strip at a font size."""
    return round(2.75 * size)


@lru_cache(maxsize=512)
def _strip(caption: Caption, width: int, size: int, font: str | None) -> UInt8[Tensor, "3 s w"]:
    face = load(size, font)
    canvas = Image.new("RGB", (width, height(size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    left = 0
    if caption.right is not None:
        bar = max(4, size // 4)
        draw.rectangle((0, round(0.25 * size), bar - 1, round(2.5 * size)), RIGHT if caption.right else WRONG)
        left = 2 * bar
    ink = WRONG if caption.right is False else INK
    draw.text((left, round(0.2 * size)), clip(caption.line, face, width - left), ink, face)
    draw.text((left, round(1.4 * size)), clip(caption.under, face, width - left), FAINT, face)
    return to_tensor(canvas)


def to_tensor(canvas: Image.Image) -> UInt8[Tensor, "3 s w"]:
    """A Pillow picture as a tensor."""
    return torch.from_numpy(np.asarray(canvas).transpose(2, 0, 1).copy())


def clip(text: str, face: Any, width: int) -> str:
    """The text, cut to a width in pixels."""
    text = legible(text, face)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def legible(text: str, face: Any) -> str:
    """The text in letters that the font has: accents it lacks are dropped, and so are letters of other scripts."""
    if text.isascii():
        return text
    known = "".join(c if _has(face, c) else unicodedata.normalize("NFKD", c) for c in text)
    return "".join(c for c in known if _has(face, c)) or "?"


@lru_cache(maxsize=4096)
def _has(face: Any, letter: str) -> bool:
    """Whether the font draws a letter as something else than what it draws for letters it lacks."""
    return letter.isascii() or bytes(face.getmask(letter)) != bytes(face.getmask("\uffff"))


def font_size(style: Style) -> int:
    """A size that stays legible when a sheet is shown at half its width."""
    return max(11, round(style.tile * 0.115))


@lru_cache(maxsize=16)
def load(size: int, font: str | None) -> Any:
    """The font file given, or Pillow's own."""
    return ImageFont.truetype(font, size) if font else ImageFont.load_default(size)
