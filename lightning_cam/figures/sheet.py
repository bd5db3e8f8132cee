"""One look as one picture: a card a sample and target, in a grid that reads at a glance. b cards, h w panel."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.render import views
from lightning_cam.render.colormap import table
from lightning_cam.render.style import Style
from lightning_cam.render.text import FAINT, INK, PAPER, Caption, clip, legible, load, strips, to_tensor
from lightning_cam.render.text import font_size as font_size
from lightning_cam.render.views import panel_row as panel_row

_ASPECT = 1.7  # width to height of a laptop's window
_SCALE = 260  # pixels, the colour scale at its longest


def sheet(
    base: Shaped[Tensor, "b c *s"],
    unit: Float[Tensor, "b *m"],
    words: Sequence[Caption],
    title: tuple[str, str],
    style: Style,
    columns: int | None = None,
) -> UInt8[Tensor, "3 height width"]:
    """Panels of every sample over its caption, below one header with title and colour scale.

    Args:
        base: RGB images or volumes, or signals.
        unit: maps scaled to [0, 1].
        words: a caption a sample.
        title: the header's bold line and its faint one.
        style: panels, colours and size.
        columns: cards a row; by default as many as make the sheet laptop-shaped.
    """
    panels = views.panels(base, unit, style)
    size = font_size(style)
    gap = max(6, style.tile // 14)
    strip = strips(words, panels.shape[-1], size, style.font).to(panels.device)
    cards = torch.cat([panels, strip], 2)
    if columns is None:
        columns = laptop_shaped(len(cards), cards.shape[-1] + gap, cards.shape[-2] + gap)
    return under_header(grid(cards, columns, gap), title, style)


def grid(cards: UInt8[Tensor, "b 3 h w"], columns: int, gap: int) -> UInt8[Tensor, "3 height width"]:
    """Cards row by row on white, a gap around each."""
    columns = min(columns, len(cards))
    rows = math.ceil(len(cards) / columns)
    cards = F.pad(cards, (gap, 0, gap, 0, 0, 0, 0, rows * columns - len(cards)), value=255)
    table = cards.reshape(rows, columns, *cards.shape[1:]).permute(2, 0, 3, 1, 4)
    return F.pad(table.reshape(3, rows * cards.shape[2], columns * cards.shape[3]), (0, gap, 0, gap), value=255)


def under_header(body: UInt8[Tensor, "3 h w"], title: tuple[str, str], style: Style) -> UInt8[Tensor, "3 height w"]:
    """Put a title, and the colour scale where there is room for it, above the picture."""
    size, width = round(1.25 * font_size(style)), body.shape[-1]
    face, small = load(size, style.font), load(font_size(style), style.font)
    canvas = Image.new("RGB", (width, round(3.2 * size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    margin = max(6, style.tile // 14)
    cold, hot = ("against", "for") if style.norm == "symmetric" else ("low", "high")
    ends = round(small.getlength(cold) + small.getlength(hot)) + size
    # the scale takes what the title leaves, if that is enough to read it by
    left = width - 2 * margin - round(face.getlength(legible(title[0], face))) - ends - 2 * size
    legend = min(_SCALE, width // 4, left) if left >= _SCALE // 4 else 0
    room = width - 2 * margin
    draw.text((margin, round(0.5 * size)), clip(title[0], face, room), INK, face)
    draw.text((margin, round(1.9 * size)), clip(title[1], small, room), FAINT, small)
    if legend:
        right = width - margin - round(small.getlength(hot))
        bar = Image.fromarray(table(style.colours, torch.device("cpu"))[None].numpy()).resize((legend, round(0.9 * size)))
        top = round(0.6 * size)
        draw.text((right, top), hot, FAINT, small)
        canvas.paste(bar, (right - legend - size // 2, top))
        draw.text((right - legend - size - round(small.getlength(cold)), top), cold, FAINT, small)
    return torch.cat([to_tensor(canvas).to(body.device), body], 1)


def laptop_shaped(cards: int, width: int, height: int) -> int:
    """How many columns of cards of this size make a picture nearest to a laptop's shape, with few places empty."""

    def misfit(columns: int) -> float:
        rows = math.ceil(cards / columns)
        empty = (rows * columns - cards) / (rows * columns)
        return abs(math.log(columns * width / (rows * height) / _ASPECT)) + empty

    return min(range(1, cards + 1), key=misfit)
