"""Regions drawn over pictures as thin lines, and below signals as bars. b pictures, r regions, h w y x picture, t time."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from lightning_cam.render.curve import BORDER, paper
from lightning_cam.render.style import Style

Colour = tuple[int, int, int]

# light, as each lies between dark hairlines; chosen so that what is left of their difference to colour-blind eyes is large
_COLOURS: tuple[Colour, ...] = ((255, 255, 255), (75, 195, 255), (255, 195, 0), (240, 60, 15), (150, 90, 255))
DARK: Colour = (14, 15, 18)
_DARKNESS = 0.8  # opacity of a hairline
_FINE = 2  # how much finer lines are drawn than they are shown, which smooths them
_FINEST = 768  # pixels of a picture's longer side, beyond which they are not drawn finer


@dataclass(frozen=True, eq=False)
class Layer:
    """What lies over pictures: the light that it adds, 0 to 255, and the share that it lets through, 0 to 1."""

    added: Float[Tensor, "*b 3 h w"]
    through: Float[Tensor, "*b 1 h w"]

    def over(self, pictures: UInt8[Tensor, "*k 3 h w"]) -> UInt8[Tensor, "*k 3 h w"]:
        """The pictures below this layer."""
        mixed = pictures * self.through + self.added
        return mixed.round().clamp(0, 255).to(torch.uint8)


def region_colours(r: int) -> list[Colour]:
    """A colour a region: five that everyone can tell apart, beyond these evenly spaced hues.

    Example:
        >>> region_colours(2)
        [(255, 255, 255), (75, 195, 255)]
    """
    if r <= len(_COLOURS):
        return list(_COLOURS[:r])
    hues = [colorsys.hsv_to_rgb(i / r, 0.6, 1.0) for i in range(r)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues]


def outlines(masks: Bool[Tensor, "*b r y x"], size: tuple[int, int]) -> Layer:
    """The regions' outlines, for pictures of this size: a light line just inside its region, between two dark hairlines.

    Args:
        masks: of any size; those that are shrunk lose no part, however small.
        size: height and width of the pictures.
    """
    longer = max(size)
    fine = max(1, min(_FINE, _FINEST // longer))
    # a line grows slower than its picture, and is never less than a pixel
    line = round(fine * (1 + longer / 240))
    hairline = max(1, round(fine * (0.33 + longer / 640)))
    flat = masks.flatten(0, -4)
    added = torch.zeros(len(flat), 3, *size, device=masks.device)
    through = torch.ones(len(flat), 1, *size, device=masks.device)
    for i, colour in enumerate(region_colours(masks.shape[-3])):
        light, dark = _strokes(_resized(flat[:, i], (fine * size[0], fine * size[1])), line, hairline)
        light, dark = (F.avg_pool2d(stroke[:, None].float(), fine) for stroke in (light, dark))
        dark = _DARKNESS * dark
        share = 1 - light - dark
        added = added * share + light * _of(colour, added) + dark * _of(DARK, added)
        through = through * share
    shape = masks.shape[:-3]
    return Layer(added.reshape(*shape, 3, *size), through.reshape(*shape, 1, *size))


def bars(masks: Bool[Tensor, "b r t"], width: int, style: Style) -> UInt8[Tensor, "b 3 y x"]:
    """Where the regions of signals lie: a strip of bars to stand below curves of this width, a lane a region.

    Args:
        masks: at each time.
        width: of the curves.
        style: its tile says how thick a bar is.
    """
    thick = max(2, round(style.tile / 45))
    lanes = []
    for i, colour in enumerate(region_colours(masks.shape[1])):
        bar = _columns(masks[:, i], width)[:, None].expand(-1, thick, -1)
        bar = F.pad(bar, (0, 0, 3, 3), value=False)
        dark = _dilated(bar, 1) & ~bar
        pixels = _of(paper(style), bar).where(~dark[:, None], _of(DARK, bar))
        lanes.append(pixels.where(~bar[:, None], _of(colour, bar)))
    return torch.cat(lanes, 2).to(torch.uint8)


def _strokes(inside: Bool[Tensor, "b y x"], line: int, hairline: int) -> tuple[Bool[Tensor, "b y x"], Bool[Tensor, "b y x"]]:
    """The light line along the inner side of a region's border, and the dark ones on both sides of it."""
    within = _eroded(inside, line)
    dark = (_dilated(inside, hairline) & ~inside) | (within & ~_eroded(within, hairline))
    return inside & ~within, dark


def _dilated(inside: Bool[Tensor, "b y x"], reach: int) -> Bool[Tensor, "b y x"]:
    """Grown by so many pixels; what lies beyond the picture is outside."""
    return _any_near(_any_near(inside, reach, 1), reach, 2)


def _eroded(inside: Bool[Tensor, "b y x"], reach: int) -> Bool[Tensor, "b y x"]:
    """Shrunk by so many pixels, from the picture's own border too, so that a region that reaches it is closed there."""
    border = F.pad(~inside, [reach] * 4, value=True)
    return ~_dilated(border, reach)[:, reach:-reach, reach:-reach]


def _any_near(inside: Bool[Tensor, "b y x"], reach: int, axis: int) -> Bool[Tensor, "b y x"]:
    """Whether any place within reach along an axis is inside; by windows of twice the width each time."""
    ends = [0, 0, 0, 0]
    ends[4 - 2 * axis : 6 - 2 * axis] = [reach, reach]
    window = F.pad(inside, ends, value=False)
    width = 1
    while width < 2 * reach + 1:
        step = min(width, 2 * reach + 1 - width)
        left = window.shape[axis] - step
        window = window.narrow(axis, 0, left) | window.narrow(axis, step, left)
        width += step
    return window


def _resized(mask: Bool[Tensor, "b y x"], size: Sequence[int]) -> Bool[Tensor, "b h w"]:
    """A mask at another size: larger with a smooth border, smaller without losing any part."""
    values = mask[:, None].float()
    if mask.shape[-2] > size[0] or mask.shape[-1] > size[1]:
        return F.adaptive_max_pool2d(values, tuple(size))[:, 0] > 0
    enlarged = F.interpolate(values, tuple(size), mode="bilinear", align_corners=False)
    return enlarged[:, 0] > 0.5


def _columns(mask: Bool[Tensor, "b t"], width: int) -> Bool[Tensor, "b x"]:
    """Whether any of the times that a curve has in a column of pixels is inside."""
    last = mask.shape[1] - 1
    # where ``curve`` puts its corners
    place = (torch.arange(width, device=mask.device) - BORDER) / max(width - 2 * BORDER - 1, 1)
    half = 0.5 / max(width - 2 * BORDER - 1, 1)
    first, final = (((place + side) * last).round().long().clamp(0, last) for side in (-half, half))
    before = F.pad(mask.long().cumsum(1), (1, 0))
    inside: Bool[Tensor, "b x"] = before[:, final + 1] > before[:, first]
    # nothing is drawn left and right of a curve
    return inside & (place >= -half) & (place <= 1 + half)


def _of(colour: Colour, like: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(colour, dtype=torch.float32, device=like.device)[:, None, None]
