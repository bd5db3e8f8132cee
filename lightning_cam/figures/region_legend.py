"""What the lines drawn around regions mean: their names, above a page. h w picture."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.figures.patch_legend import in_lines
from lightning_cam.figures.sheet import font_size, margin
from lightning_cam.render.outlines import DARK, Colour, region_colours
from lightning_cam.render.style import Style
from lightning_cam.render.text import FAINT, PAPER, to_tensor
from lightning_cam.render.typesetting import Line, clip, typeset, write


def with_legend(page: UInt8[Tensor, "3 h w"], names: Sequence[str], style: Style) -> UInt8[Tensor, "3 height w"]:
    """The page below the regions' names, each behind its line; as it is where a single name leaves nothing to tell apart."""
    if len(names) < 2:
        return page
    size = font_size(style)
    edge = margin(style)
    room = page.shape[-1] - 2 * edge
    sample = 2 * size
    words = [clip(typeset(name, size, style.font), room - 3 * size) for name in names]
    widths = [round(word.length) + sample + size // 2 for word in words]
    lines = in_lines(widths, room, size)
    line = round(1.5 * size)
    canvas = Image.new("RGB", (page.shape[-1], len(lines) * line), PAPER)
    draw = ImageDraw.Draw(canvas)
    colours = region_colours(len(names))
    for i, places in enumerate(lines):
        left = edge
        for place in places:
            _draw_entry(draw, (left, i * line + line // 2), words[place], colours[place], size)
            left += widths[place] + size
    return torch.cat([to_tensor(canvas).to(page.device), page], 1)


def _draw_entry(draw: ImageDraw.ImageDraw, place: tuple[int, int], word: Line, colour: Colour, size: int) -> None:
    """A piece of line as it is drawn on pictures, and the name behind it."""
    left, middle = place
    half = max(1, size // 8)
    right = left + 2 * size - 1
    draw.rectangle((left, middle - half - 1, right, middle + half + 1), DARK)
    draw.rectangle((left + 1, middle - half, right - 1, middle + half), colour)
    write(draw, (right + 1 + size // 2, middle), word, FAINT, "lm")
