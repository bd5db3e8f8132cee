"""A run as one picture: rows are samples, columns are epochs. b samples, n columns, h w cell."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.figures.sheet import laptop_shaped, under_header
from lightning_cam.render import views
from lightning_cam.render.style import Style
from lightning_cam.render.text import INK, PAPER, clip, font_size, legible, load, to_tensor


def filmstrip(
    base: Shaped[Tensor, "b c *s"],
    units: Float[Tensor, "n b *m"],
    rows: Sequence[str],
    columns: Sequence[str],
    title: tuple[str, str],
    style: Style,
) -> UInt8[Tensor, "3 height width"]:
    """Each sample's image, then its overlay at each moment of the run, the baseline first; many rows stand in blocks.

    Args:
        base: RGB images or volumes, or signals.
        units: maps scaled to [0, 1], one set a column.
        rows: the samples' names.
        columns: the moments' names.
        title: the header's bold line and its faint one.
        style: colours and size.
    """
    cells = views.cells(base, units, style)
    n, b, (h, w) = len(units), len(base), cells.shape[-2:]
    gap = max(3, style.tile // 40)
    cells = F.pad(cells, (0, gap, 0, gap), value=255)
    name_width = _name_width(rows, style)
    per = math.ceil(b / laptop_shaped(b, name_width + (n + 1) * (w + gap), h + gap))  # rows a block
    blocks = []
    for start in range(0, b, per):
        shown_rows = slice(start, start + per)
        body = cells[:, shown_rows].permute(2, 1, 3, 0, 4).flatten(3, 4).flatten(1, 2)
        left = _names(rows[shown_rows], name_width, h + gap, style).to(body.device)
        top = _titles(["image" if base.ndim > 3 else "signal", *columns], name_width, w + gap, style).to(body.device)
        block = torch.cat([top, torch.cat([left, body], 2)], 1)
        blocks.append(F.pad(block, (0, gap, 0, per * (h + gap) - body.shape[1]), value=255))
    return under_header(F.pad(torch.cat(blocks, 2), (0, gap, 0, gap), value=255), title, style)


def _name_width(rows: Sequence[str], style: Style) -> int:
    size = font_size(style)
    face = load(size, style.font)
    longest = max(float(face.getlength(legible(row, face))) for row in rows)
    return round(min(longest, 11 * size)) + 2 * size


def _names(rows: Sequence[str], width: int, height: int, style: Style) -> UInt8[Tensor, "3 h w"]:
    size = font_size(style)
    face = load(size, style.font)
    canvas = Image.new("RGB", (width, height * len(rows)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        text = clip(row, face, width - 2 * size + 1)
        draw.text((width - size, i * height + height // 2), text, INK, face, anchor="rm")
    return to_tensor(canvas)


def _titles(columns: Sequence[str], left: int, width: int, style: Style) -> UInt8[Tensor, "3 h w"]:
    size = font_size(style)
    face = load(size, style.font)
    canvas = Image.new("RGB", (left + width * len(columns), round(1.8 * size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, column in enumerate(columns):
        text = clip(column, face, width)
        draw.text((left + i * width + width // 2, size), text, INK, face, anchor="mm")
    return to_tensor(canvas)
