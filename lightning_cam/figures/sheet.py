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
from lightning_cam.render.outlines import DARK, Colour, region_colours
from lightning_cam.render.style import Style
from lightning_cam.render.text import FAINT, INK, PAPER, Caption, strips, to_tensor
from lightning_cam.render.text import font_size as font_size
from lightning_cam.render.typesetting import Line, clip, typeset, write
from lightning_cam.render.views import panel_row as panel_row

_ASPECT = 1.7  # width to height of a laptop's window
_SCALE = 260  # pixels, the colour scale at its longest


def sheet(
    base: Shaped[Tensor, "b c *s"],
    normalized: Float[Tensor, "b *m"],
    words: Sequence[Caption],
    title: tuple[str, str],
    style: Style,
    columns: int | None = None,
) -> UInt8[Tensor, "3 height width"]:
    """Panels of every sample over its caption, below one header with title and colour scale.

    Args:
        base: RGB images or volumes, or signals.
        normalized: maps scaled to [0, 1].
        words: a caption a sample.
        title: the header's bold line and its faint one.
        style: panels, colours and size.
        columns: cards a row; by default as many as make the sheet laptop-shaped.
    """
    return under_header(laid_out(views.panels(base, normalized, style), words, style, columns), title, style)


def laid_out(
    panels: UInt8[Tensor, "b 3 h w"], words: Sequence[Caption], style: Style, columns: int | None = None
) -> UInt8[Tensor, "3 height width"]:
    """A sheet without its header: every sample's panels over its caption."""
    strip = strips(words, panels.shape[-1], font_size(style), style.font).to(panels.device)
    cards = torch.cat([panels, strip], 2)
    gap = margin(style)
    if columns is None:
        columns = laptop_shaped(len(cards), cards.shape[-1] + gap, cards.shape[-2] + gap)
    return grid(cards, columns, gap)


def margin(style: Style) -> int:
    """The pixels between cards, and at the borders of a page."""
    return max(6, style.tile // 14)


def grid(cards: UInt8[Tensor, "b 3 h w"], columns: int, gap: int) -> UInt8[Tensor, "3 height width"]:
    """Cards row by row on white, a gap around each.

    Example:
        >>> grid(torch.zeros(5, 3, 10, 20, dtype=torch.uint8), 3, gap=2).shape
        torch.Size([3, 26, 68])
    """
    columns = min(columns, len(cards))
    rows = math.ceil(len(cards) / columns)
    # white cards fill the last row
    cards = F.pad(cards, (gap, 0, gap, 0, 0, 0, 0, rows * columns - len(cards)), value=255)
    table = cards.reshape(rows, columns, *cards.shape[1:]).permute(2, 0, 3, 1, 4)
    page = table.reshape(3, rows * cards.shape[2], columns * cards.shape[3])
    return F.pad(page, (0, gap, 0, gap), value=255)


def under_header(body: UInt8[Tensor, "3 h w"], title: tuple[str, str], style: Style) -> UInt8[Tensor, "3 height width"]:
    """Put a title, and the colour scale where there is room for it, above the picture."""
    width = body.shape[-1]
    size = header_size(style)
    canvas = Image.new("RGB", (width, round(3.2 * size)), PAPER)
    line = write_title(canvas, title, style)
    _draw_scale(canvas, line, style)
    return torch.cat([to_tensor(canvas).to(body.device), body], 1)


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


def in_lines(widths: Sequence[int], room: int, gap: int) -> list[list[int]]:
    """Which of these stand in which line.

    Example:
        >>> in_lines([50, 40, 60], room=100, gap=10)
        [[0, 1], [2]]
    """
    lines: list[list[int]] = [[]]
    left = 0
    for i, width in enumerate(widths):
        if lines[-1] and left + width > room:
            lines.append([])
            left = 0
        lines[-1].append(i)
        left += width + gap
    return lines


def header_size(style: Style) -> int:
    """The font size of a header's first line."""
    return round(1.25 * font_size(style))


def write_title(canvas: Image.Image, title: tuple[str, str], style: Style) -> Line:
    """Write both lines of a header, cut to its width; the first comes back whole."""
    size = header_size(style)
    edge = margin(style)
    room = canvas.width - 2 * edge
    draw = ImageDraw.Draw(canvas)
    line = typeset(title[0], size, style.font)
    under = typeset(title[1], font_size(style), style.font)
    write(draw, (edge, round(0.5 * size)), clip(line, room), INK)
    write(draw, (edge, round(1.9 * size)), clip(under, room), FAINT)
    return line


def laptop_shaped(cards: int, width: int, height: int) -> int:
    """How many columns of cards of this size make a picture nearest to a laptop's shape, with few places empty.

    Example:
        >>> laptop_shaped(16, 500, 210)
        4
    """

    def misfit(columns: int) -> float:
        rows = math.ceil(cards / columns)
        empty = (rows * columns - cards) / (rows * columns)
        return abs(math.log(columns * width / (rows * height) / _ASPECT)) + empty

    return min(range(1, cards + 1), key=misfit)


def _draw_scale(canvas: Image.Image, title: Line, style: Style) -> None:
    """The colour scale between the names of its ends, at the right of the title where that leaves room."""
    size = header_size(style)
    ends = ("low", "high")
    if style.norm == "symmetric":
        ends = ("against", "for")
    cold, hot = (typeset(end, font_size(style), style.font) for end in ends)
    words = round(cold.length + hot.length) + size
    left = canvas.width - 2 * margin(style) - round(title.length) - words - 2 * size
    # a shorter scale is not read
    if left < _SCALE // 4:
        return
    length = min(_SCALE, canvas.width // 4, left)
    if not length:
        return
    colours = table(style.colours, torch.device("cpu"))[None].numpy()
    bar = Image.fromarray(colours).resize((length, round(0.9 * size)))
    top = round(0.6 * size)
    right = canvas.width - margin(style) - round(hot.length)
    draw = ImageDraw.Draw(canvas)
    write(draw, (right, top), hot, FAINT)
    canvas.paste(bar, (right - length - size // 2, top))
    write(draw, (right - length - size - round(cold.length), top), cold, FAINT)


def _draw_entry(draw: ImageDraw.ImageDraw, place: tuple[int, int], word: Line, colour: Colour, size: int) -> None:
    """A piece of line as it is drawn on pictures, and the name behind it."""
    left, middle = place
    half = max(1, size // 8)
    right = left + 2 * size - 1
    draw.rectangle((left, middle - half - 1, right, middle + half + 1), DARK)
    draw.rectangle((left + 1, middle - half, right - 1, middle + half), colour)
    write(draw, (right + 1 + size // 2, middle), word, FAINT, "lm")
