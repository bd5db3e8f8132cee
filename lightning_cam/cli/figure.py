"""The three pictures of one explained photograph. s side, u v map."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam import render
from lightning_cam.figures.sheet import font_size, grid, panel_row, under_header
from lightning_cam.render.colormap import colour
from lightning_cam.render.style import Style
from lightning_cam.render.text import Caption, strips, to_tensor
from lightning_cam.render.typesetting import clip, typeset, write

SIDE = 512

_PLATE = (16, 17, 20, 190)  # RGBA, dark and see-through
_WHITE = (255, 255, 255, 255)
_GAP = 12  # pixels between the panels


@dataclass(frozen=True)
class FigureWords:
    """The words of the pictures: the class with its percentage, where the map is from, and a line under each panel."""

    headline: str
    source: str
    under_heat: str
    under_photo: str


def heat(normalized: Float[Tensor, "1 u v"], style: Style) -> UInt8[Tensor, "3 s s"]:
    """The heat map alone."""
    return colour(render.shown(normalized, (SIDE, SIDE)), style.colours)[0]


def overlay(
    photo: UInt8[Tensor, "1 3 s s"], normalized: Float[Tensor, "1 u v"], text: str, style: Style
) -> UInt8[Tensor, "3 s s"]:
    """The heat over the photograph, with the text on it."""
    side = photo.shape[-1]
    blended = render.blend(photo, render.shown(normalized, (side, side)), style)[0]
    return _written(blended, text, style)


def figure(
    photo: UInt8[Tensor, "1 3 s s"],
    normalized: Float[Tensor, "1 u v"],
    words: FigureWords,
    style: Style,
) -> UInt8[Tensor, "3 y x"]:
    """Two panels, the heat map and the photograph with it, under a header with the colour scale."""
    # type is set for a small tile, however large the panels are
    type_style = replace(style, tile=170)
    heat_style = replace(style, panels=("heat",))
    overlay_style = replace(style, panels=("overlay",))
    panels = torch.cat(
        [
            panel_row(photo, normalized, heat_style),
            panel_row(photo, normalized, overlay_style),
        ]
    )
    captions = [
        Caption("heat map", words.under_heat),
        Caption("original with heat map", words.under_photo),
    ]
    lines = strips(captions, panels.shape[-1], font_size(type_style), style.font)
    cards = grid(torch.cat([panels, lines], 2), 2, _GAP)
    return under_header(cards, (words.headline, words.source), type_style)


def _written(picture: UInt8[Tensor, "3 s s"], text: str, style: Style) -> UInt8[Tensor, "3 s s"]:
    """The picture with a line of text on a plate in its lower left corner."""
    side = picture.shape[-1]
    size = side // 20
    gap = side // 40
    line = clip(typeset(text, size, style.font), side - 4 * gap)
    pixels = np.ascontiguousarray(picture.movedim(0, -1).numpy())
    canvas = Image.fromarray(pixels).convert("RGBA")
    plate = Image.new("RGBA", canvas.size)
    draw = ImageDraw.Draw(plate)
    right = 3 * gap + line.length
    top = side - gap - 1.9 * size
    draw.rounded_rectangle((gap, top, right, side - gap), size // 3, _PLATE)
    middle = (top + side - gap) / 2
    write(draw, (2 * gap, middle), line, _WHITE, "lm")
    return to_tensor(Image.alpha_composite(canvas, plate).convert("RGB"))
