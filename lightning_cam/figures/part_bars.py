"""What moved, by parts: a stacked bar a look, as high as the drift, in a colour a part. n looks, p parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.figures.axis import Axis
from lightning_cam.figures.patch_legend import Key, PatchHeader, Swatch
from lightning_cam.figures.sheet import font_size, margin
from lightning_cam.render.style import Style
from lightning_cam.render.text import FAINT, INK, PAPER, to_tensor
from lightning_cam.render.typesetting import Ink, Line, Place, typeset, write

# of Okabe and Ito the five, with this grey, that eyes of any kind tell apart best
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (86, 180, 233), (213, 94, 0))
_REST = (178, 182, 188)
_GRID = (230, 231, 233)
_DARK = 140  # of 255, the brightness up to which a colour bears white letters
_NOTHING = 0.002  # of the highest bar
_PARTED = 4  # pixels, from which on a segment gives one to the line above it
# in tiles
_HEIGHT = 2.1
_WIDTH = 4.5
_NARROW = 0.14  # a bar and the gap beside it
_THICK = 0.6  # a bar at its widest
_BAR = 0.75  # of bar and gap


@dataclass(frozen=True, eq=False)
class PartColumns:
    """The looks of a run, and the share of the drift that each part accounts for.

    Attributes:
        titles: the looks' names, as a filmstrip heads its columns.
        parts: the parts' names, in the order in which they are stacked from the zero line on.
        shares: in units of the drift, which they sum to; a row of NaN where there are none.
    """

    titles: Sequence[str]
    parts: Sequence[str]
    shares: Float[Tensor, "n p"]

    @property
    def extent(self) -> tuple[float, float]:
        """How far bars reach below zero and above it; what would be no pixel below it is rounding, or might as well be."""
        shares = self.shares.double().nan_to_num(0)
        low = float(shares.clamp(max=0).sum(1).min())
        high = float(shares.clamp(min=0).sum(1).max())
        if -low < _NOTHING * high:
            low = 0.0
        return low, high


def part_bars(columns: PartColumns, title: tuple[str, str], style: Style) -> UInt8[Tensor, "3 height width"]:
    """A stacked bar a look, as high as the drift, a segment a part; shares below zero hang from the zero line.

    Where any part has a share below zero, a dark line across each bar tells the drift: what stands above the zero line less
    what hangs below it. Where there is room, the drift stands over its bar, and each share in its segment, in percent of the
    drift. A look without shares has a dash.

    Args:
        columns: the looks, the parts, and each part's share.
        title: the header's bold line and its faint one.
        style: font and size.
    """
    plot = _Plot.of(columns, style)
    plot.draw_axis()
    for look, shares in enumerate(columns.shares.double().tolist()):
        plot.draw_bar(look, shares, part_colours(columns.parts))
        plot.draw_drift(look, sum(shares))
    plot.draw_zero()
    plot.draw_titles(columns.titles)
    return PatchHeader(*title, _legend(columns)).above(to_tensor(plot.canvas), style)


def part_colours(parts: Sequence[str]) -> list[tuple[int, int, int]]:
    """A colour a part; grey for the one called ``rest``.

    Example:
        >>> part_colours(["head", "rest"])
        [(0, 114, 178), (178, 182, 188)]
    """
    colours = []
    for i, part in enumerate(parts):
        colour = _COLOURS[i % len(_COLOURS)]
        if part == "rest":
            colour = _REST
        colours.append(colour)
    return colours


@dataclass(frozen=True, eq=False)
class _Plot:
    """The bars over their titles, the axis at their left.

    Attributes:
        canvas: what is drawn on.
        axis: from its lowest number to its highest.
        corner: the left end and the upper end of the axis, in pixels.
        place: the width of a bar and the gap beside it.
        signed: whether any share is below zero.
        style: font and size.
    """

    canvas: Image.Image
    axis: Axis
    corner: tuple[int, int]
    place: float
    signed: bool
    style: Style

    @classmethod
    def of(cls, columns: PartColumns, style: Style) -> "_Plot":
        """An empty plot; the page grows where bars would stand too close."""
        size = font_size(style)
        looks = len(columns.titles)
        axis = Axis.over(*columns.extent, round(_HEIGHT * style.tile))
        words = max(typeset(word, size, style.font).length for word in axis.words)
        left = margin(style) + math.ceil(words) + size // 2
        # over the highest bar stands its drift
        top = round(1.4 * size)
        place = style.tile * max(_NARROW, _WIDTH / looks)
        width = math.ceil(place * looks)
        page = (left + width + margin(style), top + axis.height + round(2.2 * size))
        return cls(Image.new("RGB", page, PAPER), axis, (left, top), place, columns.extent[0] < 0, style)

    @property
    def size(self) -> int:
        """Of the letters."""
        return font_size(self.style)

    @property
    def right(self) -> int:
        return self.canvas.width - margin(self.style)

    @property
    def pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.canvas)

    def row(self, value: float) -> int:
        """The pixel row at which a value lies."""
        return self.corner[1] + self.axis.row(value)

    def middle(self, look: int) -> float:
        """The pixel column in which a bar has its middle."""
        return self.corner[0] + (look + 0.5) * self.place

    def sides(self, look: int) -> tuple[int, int]:
        """The first and the last pixel column of a bar."""
        wide = max(2, round(min(_BAR * self.place, _THICK * self.style.tile)))
        left = round(self.middle(look) - wide / 2)
        return left, left + wide - 1

    def line(self, text: str) -> Line:
        return typeset(text, self.size, self.style.font)

    def write(self, text: str, place: Place, ink: Ink, room: int | float = math.inf) -> None:
        """Words around a place, if there is room for them."""
        line = self.line(text)
        if line.length <= room:
            write(self.pen, place, line, ink, "mm")

    def draw_axis(self) -> None:
        left = self.corner[0]
        for tick, word in zip(self.axis.ticks, self.axis.words, strict=True):
            self.pen.line((left, self.row(tick), self.right, self.row(tick)), _GRID)
            write(self.pen, (left - self.size // 2, self.row(tick)), self.line(word), FAINT, "rm")

    def draw_zero(self) -> None:
        self.pen.line((self.corner[0], self.row(0.0), self.right, self.row(0.0)), FAINT)

    def draw_bar(self, look: int, shares: Sequence[float], colours: Sequence[Ink]) -> None:
        """The shares above zero stacked upwards, those below it downwards, and the drift in words over them."""
        drift = sum(shares)
        if math.isnan(drift):
            self.write("-", (self.middle(look), self.row(0.0) - self.size // 2), FAINT)
            return
        lowest = highest = 0.0
        for share, colour in zip(shares, colours, strict=True):
            if share < 0:
                lowest += share
                self.draw_segment(look, (lowest, share), colour, drift)
            elif share > 0:
                self.draw_segment(look, (highest, share), colour, drift)
                highest += share
        # all of the same length, so that all have room or none
        word = self.axis.word(drift, finer=1)
        self.write(word, (self.middle(look), self.row(highest) - round(0.7 * self.size)), INK, self.place - self.size // 2)

    def draw_segment(self, look: int, segment: tuple[float, float], colour: Ink, drift: float) -> None:
        """A segment by its lower end and its share, parted from the one above it by a white line."""
        low, share = segment
        bottom, top = self.row(low), self.row(low + abs(share))
        if bottom - top >= _PARTED:
            top += 1
        if bottom <= top:
            return
        left, right = self.sides(look)
        self.pen.rectangle((left, top, right, bottom - 1), colour)
        # a number is written where it has room and the drift's line does not strike it out
        middle = (bottom + top) / 2
        struck = self.signed and abs(middle - self.row(drift)) < 0.8 * self.size
        if drift and bottom - top > 1.3 * self.size and not struck:
            self.write(f"{share / drift:.0%}", (self.middle(look), middle), _ink_on(colour), right - left)

    def draw_drift(self, look: int, drift: float) -> None:
        """A line across a bar and a little beyond, where it does not end at its drift anyway."""
        if math.isnan(drift) or not self.signed:
            return
        left, right = self.sides(look)
        beyond = round(0.1 * (right - left))
        self.pen.line((left - beyond, self.row(drift), right + beyond, self.row(drift)), INK, max(2, self.size // 6))

    def draw_titles(self, titles: Sequence[str]) -> None:
        """As many of the looks' names, evenly, as have room."""
        widest = max(self.line(title).length for title in titles) + self.size
        step = math.ceil(widest / self.place)
        row = self.corner[1] + self.axis.height + round(1.2 * self.size)
        for look in range(0, len(titles), step):
            self.write(titles[look], (self.middle(look), row), INK)


def _ink_on(colour: Ink) -> Ink:
    """White on dark colours, else dark."""
    red, green, blue = colour
    if 0.299 * red + 0.587 * green + 0.114 * blue < _DARK:
        return PAPER
    return INK


def _legend(columns: PartColumns) -> list[Key]:
    """Each part by its colour, and the drift's own line where there is one."""
    colours = list(zip(columns.parts, part_colours(columns.parts), strict=True))
    if columns.extent[0] < 0:
        colours.append(("drift", INK))
    return [Key("", [Swatch(torch.tensor([colour]), word)]) for word, colour in colours]
