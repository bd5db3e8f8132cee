"""A run as one picture: rows are samples, columns are epochs. b samples, n columns, h w cell."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.render import caption as captions
from lightning_cam.render.overlay import blend, fit, shown
from lightning_cam.render.sheet import font_size, under_header
from lightning_cam.render.style import Style


def filmstrip(
    pictures: UInt8[Tensor, "b 3 y x"],
    units: Float[Tensor, "n b u v"],
    rows: Sequence[str],
    columns: Sequence[str],
    title: tuple[str, str],
    style: Style,
) -> UInt8[Tensor, "3 height width"]:
    """Each sample's image, then its overlay at each moment of the run, the baseline first.

    Args:
        pictures: RGB images.
        units: maps scaled to [0, 1], one set a column.
        rows: the samples' names.
        columns: the moments' names.
        title: the header's bold line and its faint one.
        style: colours and size.
    """
    base = fit(pictures, max(48, round(style.tile * 0.7)))
    b, _, h, w = base.shape
    n, gap, size = len(units), max(3, style.tile // 40), font_size(style)
    overlays = blend(base.expand(n, -1, -1, -1, -1), shown(units, (h, w)), style)
    cells = torch.cat([base[None], overlays])  # [n + 1, b, 3, h, w]
    cells = F.pad(cells, (0, gap, 0, gap), value=255)
    body = cells.permute(2, 1, 3, 0, 4).reshape(3, b * (h + gap), (n + 1) * (w + gap))
    left = _names(rows, h + gap, size, style).to(body.device)
    body = torch.cat([left, body], 2)
    top = _titles(["image", *columns], left.shape[-1], w + gap, size, style).to(body.device)
    return under_header(F.pad(torch.cat([top, body], 1), (0, 2 * gap, 0, gap), value=255), title, style)


def _names(rows: Sequence[str], height: int, size: int, style: Style) -> UInt8[Tensor, "3 h w"]:
    face = captions.load(size, style.font)
    width = round(min(max(face.getlength(captions.legible(row, face)) for row in rows), 11 * size)) + 2 * size
    canvas = Image.new("RGB", (width, height * len(rows)), captions.PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        text = captions.clip(row, face, width - 2 * size + 1)
        draw.text((width - size, i * height + height // 2), text, captions.INK, face, anchor="rm")
    return captions.to_tensor(canvas)


def _titles(columns: Sequence[str], left: int, width: int, size: int, style: Style) -> UInt8[Tensor, "3 h w"]:
    face = captions.load(size, style.font)
    canvas = Image.new("RGB", (left + width * len(columns), round(1.8 * size)), captions.PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, column in enumerate(columns):
        text = captions.clip(column, face, width)
        draw.text((left + i * width + width // 2, size), text, captions.INK, face, anchor="mm")
    return captions.to_tensor(canvas)
