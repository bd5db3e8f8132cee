"""A batch's concepts as one picture: images beside their concepts, a colour each. b batch, k concepts, h w image, u v map."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.figures.sheet import font_size, grid, laptop_shaped
from lightning_cam.render.overlay import fit, shown
from lightning_cam.render.style import Style
from lightning_cam.render.text import FAINT, INK, PAPER, Caption, clip, legible, load, strips, to_tensor

# Okabe and Ito, told apart by colour-blind eyes, neighbours far apart
_COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (240, 228, 66), (204, 121, 167), (86, 180, 233), (230, 159, 0))
_LEAST = 0.03  # of an image: smaller patches carry no letter


@dataclass(frozen=True)
class Legend:
    """What is written: the images' names, what each concept stands for, and each concept's part in each image."""

    images: Sequence[str]
    concepts: Sequence[str]
    parts: Sequence[Sequence[float]]


def palette(k: int) -> UInt8[Tensor, "k 3"]:
    """A colour a concept: seven that everyone can tell apart, beyond these evenly spaced hues."""
    hues = [tuple(round(255 * v) for v in colorsys.hsv_to_rgb(i / k, 0.75, 0.85)) for i in range(k)]
    return torch.tensor(list(_COLOURS[:k]) if k <= len(_COLOURS) else hues, dtype=torch.uint8)


def letter(j: int) -> str:
    """A concept's letter, A to Z, then A1 and on."""
    return chr(65 + j % 26) + (str(j // 26) if j >= 26 else "")


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
    cards, gap = torch.cat([pair, strip], 2), max(6, style.tile // 14)
    body = grid(cards, laptop_shaped(len(cards), cards.shape[-1] + gap, cards.shape[-2] + gap), gap)
    return torch.cat([_header(body.shape[-1], title, legend.concepts, style).to(body.device), body], 1)


def coloured(pictures: UInt8[Tensor, "b 3 h w"], shares: Float[Tensor, "b k u v"]) -> UInt8[Tensor, "b 3 h w"]:
    """The images in light grey, and at each place the strongest concept's colour, the stronger the more opaque."""
    large = shown(shares, (pictures.shape[-2], pictures.shape[-1]))
    best = large.max(1)
    colours = palette(shares.shape[1]).to(pictures.device)[best.indices].movedim(-1, 1).float()
    grey = pictures.float().mean(1, keepdim=True)
    light = 255 - (255 - grey) * 0.75
    tinted = colours * (0.65 + 0.35 * grey / 255)  # the photograph's own light and shade stay to be seen
    opacity = 0.92 * best.values.clamp(0, 1)[:, None].sqrt()
    mixed = light * (1 - opacity) + tinted * opacity
    border = _borders(best.indices)[:, None] * opacity
    return (mixed * (1 - border) + 255 * border).round().clamp(0, 255).to(torch.uint8)


def _borders(which: Int[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Pixels whose right or lower neighbour belongs to another concept."""
    right = F.pad(which[:, :, 1:] != which[:, :, :-1], (0, 1))
    return right | F.pad(which[:, 1:] != which[:, :-1], (0, 0, 0, 1))


def _lettered(pictures: UInt8[Tensor, "b 3 h w"], shares: Float[Tensor, "b k u v"], style: Style) -> UInt8[Tensor, "b 3 h w"]:
    """The pictures with each concept's letter where it is strongest."""
    h, w = pictures.shape[-2:]
    large = shown(shares, (h, w))
    own = F.one_hot(large.argmax(1), shares.shape[1]).movedim(-1, 1)
    area = own.flatten(2).float().mean(2).tolist()
    place = (large * own).flatten(2).argmax(2).tolist()
    face, edge = load(font_size(style), style.font), font_size(style)
    drawn = []
    for i, picture in enumerate(pictures.movedim(1, -1).cpu().numpy()):
        canvas = Image.fromarray(picture)
        draw = ImageDraw.Draw(canvas)
        for j in range(shares.shape[1]):
            if area[i][j] >= _LEAST:
                y, x = divmod(place[i][j], w)
                at = min(max(x, edge), w - edge), min(max(y, edge), h - edge)
                draw.text(at, letter(j), PAPER, face, anchor="mm", stroke_width=2, stroke_fill=INK)
        drawn.append(to_tensor(canvas))
    return torch.stack(drawn).to(pictures.device)


def _parts(parts: Sequence[float], most: int = 3) -> str:
    """The strongest concepts of an image, by letter."""
    best = sorted(range(len(parts)), key=lambda j: -parts[j])[:most]
    return " · ".join(f"{letter(j)} {100 * parts[j]:.0f}%" for j in best if parts[j] >= 0.05)


def _header(width: int, title: tuple[str, str], concepts: Sequence[str], style: Style) -> UInt8[Tensor, "3 s w"]:
    size, margin = round(1.25 * font_size(style)), max(6, style.tile // 14)
    bold, small = load(size, style.font), load(font_size(style), style.font)
    room = width - 2 * margin
    entries = [f"{letter(j)}  {text}".rstrip() for j, text in enumerate(concepts)]
    chip = round(1.1 * size)
    wide = min(room, max(round(small.getlength(legible(entry, small))) for entry in entries) + 3 * chip)
    columns = max(1, min(len(entries), room // wide))
    rows, line = -(-len(entries) // columns), round(1.55 * size)
    top = round(3.4 * size)
    canvas = Image.new("RGB", (width, top + rows * line + round(0.4 * size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((margin, round(0.5 * size)), clip(title[0], bold, room), INK, bold)
    draw.text((margin, round(1.9 * size)), clip(title[1], small, room), FAINT, small)
    for j, (entry, colour) in enumerate(zip(entries, palette(len(entries)).tolist(), strict=True)):
        left, y = margin + j // rows * (room // columns), top + j % rows * line
        draw.rounded_rectangle((left, y, left + chip, y + chip), chip // 4, tuple(colour))
        text = clip(entry, small, room // columns - 2 * chip)
        draw.text((left + round(1.5 * chip), y + chip / 2), text, INK, small, anchor="lm")
    return to_tensor(canvas)
