"""A run as one picture: rows are samples, columns are epochs. b samples, n columns, h w cell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.figures.sheet import laptop_shaped, under_header
from lightning_cam.render import views
from lightning_cam.render.style import Style
from lightning_cam.render.text import INK, PAPER, font_size, to_tensor
from lightning_cam.render.typesetting import clip, typeset, write

_LONGEST_NAME = 11  # of a row, in font sizes
_TRACK = 228  # grey of a bar's whole length
_MARK = (0, 114, 178)  # blue of Okabe and Ito


@dataclass(frozen=True, eq=False)
class Columns:
    """The moments of a run that a filmstrip shows.

    Attributes:
        titles: their names.
        normalized: maps scaled to [0, 1], one set a moment.
        strength: each map's largest raw value.
        jumps: which maps jumped since the moment before, and are marked; None where that is not known.
    """

    titles: Sequence[str]
    normalized: Float[Tensor, "n b *m"]
    strength: Float[Tensor, "n b"]
    jumps: Bool[Tensor, "n b"] | None = None


def filmstrip(
    base: Shaped[Tensor, "b c *s"],
    columns: Columns,
    rows: Sequence[str],
    title: tuple[str, str],
    style: Style,
) -> UInt8[Tensor, "3 height width"]:
    """Each sample's image, then its overlay at each moment of the run, the baseline first; many rows stand in blocks.

    Args:
        base: RGB images or volumes, or signals.
        columns: the moments of the run.
        rows: the samples' names.
        title: the header's bold line and its faint one.
        style: colours and size.
    """
    return under_header(film(base, columns, rows, style), title, style)


def film(
    base: Shaped[Tensor, "b c *s"],
    columns: Columns,
    rows: Sequence[str],
    style: Style,
    regions: Bool[Tensor, "b r *s"] | None = None,
) -> UInt8[Tensor, "3 height width"]:
    """A filmstrip without its header; the samples' regions are drawn on every picture."""
    gap = max(3, style.tile // 40)
    overlays = views.cells(base, columns.normalized, style, regions)
    if columns.jumps is not None:
        # the first column shows images alone
        overlays = marked(overlays, F.pad(columns.jumps, (0, 0, 1, 0), value=False))
    bars = strength_bars(columns.strength, overlays.shape[-1], gap)
    cells = F.pad(torch.cat([overlays, bars], 3), (0, gap, 0, 2 * gap), value=255)
    _, b, _, h, w = cells.shape
    first = "signal"
    if base.ndim > 3:
        first = "image"
    headings = [first, *columns.titles]
    left = _name_width(rows, style)
    blocks = laptop_shaped(b, left + len(headings) * w, h)
    block_rows = math.ceil(b / blocks)
    drawn = []
    for start in range(0, b, block_rows):
        part = slice(start, start + block_rows)
        body = cells[:, part].permute(2, 1, 3, 0, 4).flatten(3, 4).flatten(1, 2)
        names = _names(rows[part], left, h, style).to(body.device)
        top = _titles(headings, left, w, style).to(body.device)
        block = torch.cat([top, torch.cat([names, body], 2)], 1)
        # the last block may have fewer rows
        drawn.append(F.pad(block, (0, gap, 0, block_rows * h - body.shape[1]), value=255))
    return F.pad(torch.cat(drawn, 2), (0, gap, 0, gap), value=255)


def marked(cells: UInt8[Tensor, "n b 3 h w"], where: Bool[Tensor, "n b"]) -> UInt8[Tensor, "n b 3 h w"]:
    """The cells, some with a mark: their upper right corner in blue behind a white rim, to be seen on any picture."""
    h, w = cells.shape[-2:]
    side = max(9, min(h, w) // 6)
    rim = max(2, side // 5)
    device = cells.device
    # steps from the corner
    steps = torch.arange(h, device=device)[:, None] + torch.arange(w, device=device).flip(0)
    blue, white = ((reach - steps).clamp(0, 1).float() for reach in (side, side + rim))
    ink = torch.tensor(_MARK, dtype=torch.float32, device=device)[:, None, None]
    drawn = cells * (1 - white) + 255 * (white - blue) + ink * blue
    return cells.where(~where[..., None, None, None], drawn.round().to(torch.uint8))


def strength_bars(strength: Float[Tensor, "n b"], width: int, gap: int) -> UInt8[Tensor, "k b 3 y x"]:
    """Under each cell its map's strength as a share of the row's strongest, so that a faint map is not taken for a sharp one.

    Args:
        strength: each map's largest raw value; NaN where there is none.
        width: of a cell.
        gap: what is left free above a bar; the bar is as high.

    Returns:
        a strip for each cell, that of the first column, the images alone, empty.
    """
    positive = strength.nan_to_num(0).clamp(min=0)
    strongest = positive.amax(0)
    share = positive / strongest.where(strongest > 0, 1)
    place = (torch.arange(width, device=strength.device) + 0.5) / width
    # of a map with any evidence at least the bar's beginning is seen
    filled = (place < share[..., None]) | ((positive[..., None] > 0) & (place < 2 / width))
    ink = torch.where(filled[:, :, None, None], torch.tensor(INK)[:, None, None].to(filled.device), _TRACK)
    bars = ink.to(torch.uint8).expand(-1, -1, -1, gap, -1)
    return F.pad(bars, (0, 0, gap, 0, 0, 0, 0, 0, 1, 0), value=255)


def _name_width(rows: Sequence[str], style: Style) -> int:
    size = font_size(style)
    longest = max(typeset(row, size, style.font).length for row in rows)
    return round(min(longest, _LONGEST_NAME * size)) + 2 * size


def _names(rows: Sequence[str], width: int, height: int, style: Style) -> UInt8[Tensor, "3 h w"]:
    """The rows' names, a column that ends where the cells begin."""
    size = font_size(style)
    canvas = Image.new("RGB", (width, height * len(rows)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        # the name that sets the width was rounded down by less than a pixel
        name = clip(typeset(row, size, style.font), width - 2 * size + 1)
        write(draw, (width - size, i * height + height // 2), name, INK, "rm")
    return to_tensor(canvas)


def _titles(columns: Sequence[str], left: int, width: int, style: Style) -> UInt8[Tensor, "3 h w"]:
    """The columns' names, each in the middle over its cells."""
    size = font_size(style)
    canvas = Image.new("RGB", (left + width * len(columns), round(1.8 * size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, column in enumerate(columns):
        title = clip(typeset(column, size, style.font), width)
        write(draw, (left + i * width + width // 2, size), title, INK, "mm")
    return to_tensor(canvas)
