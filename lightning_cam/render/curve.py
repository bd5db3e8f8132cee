"""Signals as curves, coloured by their heat. Drawn by OpenCV on the host. b signals, c channels, t time, h w picture."""

from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_cam.render.colormap import table
from lightning_cam.render.overlay import shown
from lightning_cam.render.style import Style

# hot colours are light, so they are drawn on dark
NIGHT = (22, 23, 28)
GREY = (150, 153, 160)
# those of signed maps are dark
PAPER = (247, 247, 248)
INK = (120, 124, 130)

BORDER = 3  # pixels left and right of a curve

_LANES = 8  # channels beyond these are not drawn
_FINE = 3  # how much larger a curve is drawn than it is shown, which smooths it
_THICK = 1.7  # pixels, of a line in a lane of 60 pixels or more
_THIN = 1.2


def curves(
    signals: Float[Tensor, "b c t"], normalized: Float[Tensor, "b m"] | None, size: tuple[int, int], style: Style
) -> UInt8[Tensor, "b 3 h w"]:
    """Each signal as a line, a lane a channel, grey where there is no heat and of the heat's colour where there is.

    Args:
        signals: values of any scale; each channel fills its own lane.
        normalized: maps scaled to [0, 1]; None for the line alone.
        size: height and width of the picture.
        style: colours.
    """
    values = signals[:, :_LANES].nan_to_num(0).float().cpu().numpy()
    heats: Any = [None] * len(values)
    if normalized is not None:
        heats = shown(normalized, [signals.shape[2]]).cpu().numpy()
    drawn = [_draw(signal, heat, size, style) for signal, heat in zip(values, heats, strict=True)]
    return torch.from_numpy(np.stack(drawn).transpose(0, 3, 1, 2).copy()).to(signals.device)


def paper(style: Style) -> tuple[int, int, int]:
    """What curves are drawn on."""
    if style.norm == "symmetric":
        return PAPER
    return NIGHT


def _draw(signal: Any, heat: Any, size: tuple[int, int], style: Style) -> Any:
    """One signal, [h w 3], drawn larger and smoothed down."""
    h, w = size
    ink = GREY
    if style.norm == "symmetric":
        ink = INK
    canvas = np.full((_FINE * h, _FINE * w, 3), paper(style), np.uint8)
    lane = h / len(signal)
    thickness = round(_FINE * _THIN)
    if lane >= 60:
        thickness = round(_FINE * _THICK)
    margin = max(3.0, 0.1 * lane)
    for i, channel in enumerate(signal):
        x, y, hot = _points(channel, heat, w)
        across = BORDER + x * (w - 2 * BORDER - 1)
        down = i * lane + margin + _depth(y) * (lane - 2 * margin)
        corners = np.rint(_FINE * np.stack([across, down], 1)).astype(int).tolist()
        colours = _colours(hot, len(corners) - 1, np.asarray(ink, np.float64), style)
        for start, end, colour in zip(corners[:-1], corners[1:], colours, strict=True):
            cv2.line(canvas, start, end, colour, thickness)
    return cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA)


def _points(channel: Any, heat: Any, w: int) -> tuple[Any, Any, Any]:
    """Places in [0, 1], values, and the heat of each step; a long signal by its extremes, so that no spike is lost."""
    t = len(channel)
    hot = None
    if t <= 2 * w:
        if heat is not None:
            hot = (heat[:-1] + heat[1:]) / 2
        return np.arange(t) / max(t - 1, 1), channel, hot
    # two corners a pixel column
    edges = np.linspace(0, t, w + 1).astype(int)
    low = np.minimum.reduceat(channel, edges[:-1])
    high = np.maximum.reduceat(channel, edges[:-1])
    values = np.stack([low, high], 1).reshape(-1)
    x = np.repeat((edges[:-1] + edges[1:]) / 2 / t, 2)
    if heat is not None:
        mean = np.add.reduceat(heat, edges[:-1]) / np.diff(edges)
        hot = np.repeat(mean, 2)[:-1]
    return x, values, hot


def _depth(y: Any) -> Any:
    """How far below the top of its lane each value lies, 0 to 1; a constant channel in the middle."""
    low = float(y.min())
    high = float(y.max())
    if high > low:
        return (high - y) / (high - low)
    return np.full_like(y, 0.5)


def _colours(hot: Any, steps: int, ink: Any, style: Style) -> list[Any]:
    """The colour of each step: the line's own, and over it the heat's as the heat grows."""
    if hot is None:
        return [ink.tolist()] * steps
    # a thin line needs more of the colour than an area does, hence twice
    strength = np.minimum(1, 2 * np.abs(hot - style.neutral) / (1 - style.neutral))[:, None]
    entries = table(style.colours, torch.device("cpu")).numpy()
    colours = entries[np.rint(hot * 255).astype(int)]
    mixed: list[Any] = (ink * (1 - strength) + colours * strength).round().tolist()
    return mixed
