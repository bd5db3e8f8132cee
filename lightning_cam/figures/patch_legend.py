"""The head of a page of patches: title, and a legend that goes on in the next line where the page is narrow. h w picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.figures.sheet import font_size, header_size, in_lines, margin, write_title
from lightning_cam.render import colormap
from lightning_cam.render.style import Style
from lightning_cam.render.text import FAINT, INK, PAPER, to_tensor
from lightning_cam.render.typesetting import typeset, write

UNKNOWN = (150, 153, 158)
_NEGATIVE, _POSITIVE = (201, 214, 226), (17, 78, 132)
# from pale to dark, so that it reads like the labels: none so light that it might be taken for the page
_PROBABILITY = ((250, 228, 186), (249, 183, 112), (232, 121, 71), (186, 57, 62), (104, 12, 44))


@dataclass(frozen=True, eq=False)
class Swatch:
    """A colour, or a row of colours, and the words at its ends."""

    colours: Shaped[Tensor, "k 3"]
    after: str
    before: str = ""


@dataclass(frozen=True)
class Key:
    """What some colours mean: a word for them all, and each."""

    title: str
    swatches: Sequence[Swatch]


@dataclass(frozen=True)
class PatchHeader:
    """What stands above the panels: a bold line, a faint one, and what the colours mean."""

    title: str
    summary: str
    keys: Sequence[Key]

    def above(self, body: UInt8[Tensor, "3 h w"], style: Style) -> UInt8[Tensor, "3 height width"]:
        """The body below this header, made wider where it is too narrow for words."""
        size = font_size(style)
        edge = margin(style)
        drawn = [_draw_key(key, style) for key in self.keys]
        width = max(body.shape[-1], *(key.width + 2 * edge for key in drawn))
        body = F.pad(body, (0, width - body.shape[-1]), value=255)
        lines = in_lines([key.width for key in drawn], width - 2 * edge, 2 * size)
        line = round(1.7 * size)
        top = round(3.3 * header_size(style))
        canvas = Image.new("RGB", (width, top + len(lines) * line + size // 2), PAPER)
        write_title(canvas, (self.title, self.summary), style)
        for i, positions in enumerate(lines):
            left = edge
            for position in positions:
                canvas.paste(drawn[position], (left, top + i * line))
                left += drawn[position].width + 2 * size
        return torch.cat([to_tensor(canvas).to(body.device), body], 1)


def probability_colours(style: Style) -> UInt8[Tensor, "256 3"]:
    """The style's own colour map; by default from pale to dark."""
    if style.colormap:
        return colormap.table(style.colormap, torch.device("cpu"))
    return _scale(_PROBABILITY)


def _scale(stops: Sequence[tuple[int, int, int]]) -> UInt8[Tensor, "256 3"]:
    """256 colours through these, evenly spaced."""
    colours = torch.tensor(stops, dtype=torch.float32).T[None]
    return F.interpolate(colours, 256, mode="linear", align_corners=True)[0].T.round().to(torch.uint8)


def _draw_key(key: Key, style: Style) -> Image.Image:
    """A key by itself, as wide as it needs."""
    size = font_size(style)
    gap = round(0.4 * size)
    title = typeset(key.title, size, style.font)
    words = [(typeset(swatch.before, size, style.font), typeset(swatch.after, size, style.font)) for swatch in key.swatches]
    longest = title.length + sum(before.length + after.length + 9 * size for before, after in words)
    canvas = Image.new("RGB", (round(longest), round(1.5 * size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    middle = canvas.height // 2
    write(draw, (0, middle), title, INK, "lm")
    left = round(title.length)
    for swatch, (before, after) in zip(key.swatches, words, strict=True):
        if left:
            left += 2 * gap
        if before.text:
            write(draw, (left, middle), before, FAINT, "lm")
            left += round(before.length) + gap
        wide = size if len(swatch.colours) == 1 else 6 * size
        colours = Image.fromarray(swatch.colours[None].to(torch.uint8).numpy())
        canvas.paste(colours.resize((wide, size)), (left, middle - size // 2))
        left += wide + gap
        write(draw, (left, middle), after, FAINT, "lm")
        left += round(after.length)
    return canvas.crop((0, 0, left, canvas.height))


LABELS = _scale([_NEGATIVE, _POSITIVE])
