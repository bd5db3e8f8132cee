"""A batch's concepts as one picture: images beside their concepts, a colour each. b batch, k concepts, h w image, u v map."""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.figures.sheet import font_size, grid, header_size, laptop_shaped, margin, write_title
from lightning_cam.render.overlay import fit, shown
from lightning_cam.render.style import Style
from lightning_cam.render.text import INK, PAPER, Caption, strips, to_tensor
from lightning_cam.render.typesetting import clip, typeset, write

# Okabe and Ito, told apart by colour-blind eyes, neighbours far apart
_COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (240, 228, 66), (204, 121, 167), (86, 180, 233), (230, 159, 0))
_LEAST_AREA = 0.03  # of an image: smaller patches carry no letter
_LEAST_PART = 0.05  # of an image's concepts: smaller ones are not named below it


@dataclass(frozen=True)
class Legend:
    """What is written: the images' names, what each concept stands for, and each concept's part in each image."""

    images: Sequence[str]
    concepts: Sequence[str]
    parts: Sequence[Sequence[float]]


def palette(k: int) -> UInt8[Tensor, "k 3"]:
    """A colour a concept: seven that everyone can tell apart, beyond these evenly spaced hues."""
    colours: Sequence[tuple[float, ...]] = _COLOURS[:k]
    if k > len(_COLOURS):
        hues = [colorsys.hsv_to_rgb(i / k, 0.75, 0.85) for i in range(k)]
        colours = [tuple(round(255 * v) for v in hue) for hue in hues]
    return torch.tensor(colours, dtype=torch.uint8)


def letter(j: int) -> str:
    """A concept's letter, A to Z, then A1 and on.

    Example:
        >>> letter(1), letter(27)
        ('B', 'B1')
    """
    alphabet = chr(65 + j % 26)
    if j < 26:
        return alphabet
    return f"{alphabet}{j // 26}"


def concept_sheet(
    pictures: UInt8[Tensor, "b 3 y x"], shares: Float[Tensor, "b k u v"], legend: Legend, title: tuple[str, str], style: Style
) -> UInt8[Tensor, "3 height width"]:
    """Cards of image and coloured concepts, below the title and the legend.

    Args:
        pictures: RGB images.
        shares: each concept at each place, 0 to 1.
        legend: the words.
        title: the header's bold line and its faint one.
        style: size and font.
    """
    pictures = fit(pictures, style.tile)
    tinted = _lettered(coloured(pictures, shares), shares, style)
    pair = torch.cat([F.pad(pictures, (0, 2), value=255), tinted], 3)
    words = [Caption(name, _parts(part)) for name, part in zip(legend.images, legend.parts, strict=True)]
    strip = strips(words, pair.shape[-1], font_size(style), style.font).to(pair.device)
    cards = torch.cat([pair, strip], 2)
    gap = margin(style)
    columns = laptop_shaped(len(cards), cards.shape[-1] + gap, cards.shape[-2] + gap)
    body = grid(cards, columns, gap)
    header = _header(body.shape[-1], title, legend.concepts, style).to(body.device)
    return torch.cat([header, body], 1)


def coloured(pictures: UInt8[Tensor, "b 3 h w"], shares: Float[Tensor, "b k u v"]) -> UInt8[Tensor, "b 3 h w"]:
    """The images in light grey, and at each place the strongest concept's colour, the stronger the more opaque."""
    large = shown(shares, (pictures.shape[-2], pictures.shape[-1]))
    best = large.max(1)
    colours = palette(shares.shape[1]).to(pictures.device)[best.indices].movedim(-1, 1).float()
    grey = pictures.float().mean(1, keepdim=True)
    light = 255 - (255 - grey) * 0.75
    # the photograph's own light and shade stay to be seen
    tinted = colours * (0.65 + 0.35 * grey / 255)
    opacity = 0.92 * best.values.clamp(0, 1)[:, None].sqrt()
    mixed = light * (1 - opacity) + tinted * opacity
    border = _borders(best.indices)[:, None] * opacity
    return (mixed * (1 - border) + 255 * border).round().clamp(0, 255).to(torch.uint8)


def _borders(strongest: Int[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Pixels whose right or lower neighbour belongs to another concept."""
    right = F.pad(strongest[:, :, 1:] != strongest[:, :, :-1], (0, 1))
    return right | F.pad(strongest[:, 1:] != strongest[:, :-1], (0, 0, 0, 1))


def _lettered(pictures: UInt8[Tensor, "b 3 h w"], shares: Float[Tensor, "b k u v"], style: Style) -> UInt8[Tensor, "b 3 h w"]:
    """The pictures with each concept's letter where it is strongest."""
    h, w = pictures.shape[-2:]
    large = shown(shares, (h, w))
    # its letter stands where the concept wins, which its largest value alone need not be
    own = F.one_hot(large.argmax(1), shares.shape[1]).movedim(-1, 1)
    area = own.flatten(2).float().mean(2).tolist()
    place = (large * own).flatten(2).argmax(2).tolist()
    drawn = []
    for i, picture in enumerate(pictures.movedim(1, -1).cpu().numpy()):
        centres = {j: divmod(place[i][j], w) for j in range(shares.shape[1]) if area[i][j] >= _LEAST_AREA}
        drawn.append(_with_letters(picture, centres, style))
    return torch.stack(drawn).to(pictures.device)


def _with_letters(picture: Any, centres: dict[int, tuple[int, int]], style: Style) -> UInt8[Tensor, "3 h w"]:
    """A picture [h w 3] with the letters of concepts at their rows and columns, none beyond the border."""
    h, w = picture.shape[:2]
    edge = font_size(style)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for j, (y, x) in centres.items():
        centre = min(max(x, edge), w - edge), min(max(y, edge), h - edge)
        text = typeset(letter(j), edge, style.font)
        write(draw, centre, text, PAPER, "mm", stroke_width=2, stroke_fill=INK)
    return to_tensor(canvas)


def _parts(parts: Sequence[float], most: int = 3) -> str:
    """The strongest concepts of an image, by letter."""
    best = sorted(range(len(parts)), key=lambda j: -parts[j])[:most]
    return " · ".join(f"{letter(j)} {100 * parts[j]:.0f}%" for j in best if parts[j] >= _LEAST_PART)


def _header(width: int, title: tuple[str, str], concepts: Sequence[str], style: Style) -> UInt8[Tensor, "3 s w"]:
    """The title above the legend: a chip of colour, a letter and words a concept, in columns."""
    size = header_size(style)
    edge = margin(style)
    room = width - 2 * edge
    chip = round(1.1 * size)
    # two spaces set the letter apart from the words
    entries = [typeset(f"{letter(j)}  {text}".rstrip(), font_size(style), style.font) for j, text in enumerate(concepts)]
    widest = min(room, max(round(entry.length) for entry in entries) + 3 * chip)
    columns = max(1, min(len(entries), room // widest))
    rows = math.ceil(len(entries) / columns)
    column = room // columns
    line = round(1.55 * size)
    top = round(3.4 * size)
    canvas = Image.new("RGB", (width, top + rows * line + round(0.4 * size)), PAPER)
    write_title(canvas, title, style)
    draw = ImageDraw.Draw(canvas)
    for j, (entry, colour) in enumerate(zip(entries, palette(len(entries)).tolist(), strict=True)):
        left = edge + j // rows * column
        y = top + j % rows * line
        draw.rounded_rectangle((left, y, left + chip, y + chip), chip // 4, tuple(colour))
        text = clip(entry, column - 2 * chip)
        write(draw, (left + round(1.5 * chip), y + chip / 2), text, INK, "lm")
    return to_tensor(canvas)
