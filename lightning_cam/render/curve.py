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

_LANES = 8  # channels beyond these are not drawn
_FINE = 3
_NIGHT, _GREY = (22, 23, 28), (150, 153, 160)  # hot colours are light, so they are drawn on dark
_PAPER, _INK = (247, 247, 248), (120, 124, 130)  # those of signed maps are dark


def curves(
    signals: Float[Tensor, "b c t"], unit: Float[Tensor, "b m"] | None, size: tuple[int, int], style: Style
) -> UInt8[Tensor, "b 3 h w"]:
    """Each signal as a line, a lane a channel, grey where there is no heat and of the heat's colour where there is.

    Args:
        signals: values of any scale; each channel fills its own lane.
        unit: maps scaled to [0, 1]; None for the line alone.
        size: height and width of the picture.
        style: colours.
    """
    heat = None if unit is None else shown(unit, [signals.shape[2]]).cpu().numpy()
    values = signals[:, :_LANES].nan_to_num(0).float().cpu().numpy()
    drawn = [_draw(one, None if heat is None else heat[i], size, style) for i, one in enumerate(values)]
    return torch.from_numpy(np.stack(drawn).transpose(0, 3, 1, 2).copy()).to(signals.device)


def _draw(values: Any, heat: Any, size: tuple[int, int], style: Style) -> Any:
    """One signal, [h w 3], drawn larger and smoothed down."""
    h, w = size
    paper, ink = (_PAPER, _INK) if style.norm == "symmetric" else (_NIGHT, _GREY)
    canvas = np.full((_FINE * h, _FINE * w, 3), paper, np.uint8)
    lane = h / len(values)
    thick = round(_FINE * (1.7 if lane >= 60 else 1.2))
    for i, channel in enumerate(values):
        x, y, hot = _points(channel, heat, w)
        low, high = float(y.min()), float(y.max())
        y = (high - y) / (high - low) if high > low else np.full_like(y, 0.5)
        margin = max(3.0, 0.1 * lane)
        places = np.stack([3 + x * (w - 7), i * lane + margin + y * (lane - 2 * margin)], 1)
        corners = np.rint(_FINE * places).astype(int).tolist()
        colours = _colours(hot, len(corners) - 1, np.asarray(ink, np.float64), style)
        for first, second, colour in zip(corners[:-1], corners[1:], colours, strict=True):
            cv2.line(canvas, first, second, colour, thick)
    return cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA)


def _points(channel: Any, heat: Any, w: int) -> tuple[Any, Any, Any]:
    """Places in [0, 1], values, and the heat of each step; a long signal by its extremes, so that no spike is lost."""
    t = len(channel)
    hot = None if heat is None else (heat[:-1] + heat[1:]) / 2
    if t <= 2 * w:
        return np.arange(t) / max(t - 1, 1), channel, hot
    edges = np.linspace(0, t, w + 1).astype(int)
    low, high = np.minimum.reduceat(channel, edges[:-1]), np.maximum.reduceat(channel, edges[:-1])
    values = np.stack([low, high], 1).reshape(-1)
    x = np.repeat((edges[:-1] + edges[1:]) / 2 / t, 2)
    return x, values, None if heat is None else np.repeat(np.add.reduceat(heat, edges[:-1]) / np.diff(edges), 2)[:-1]


def _colours(hot: Any, steps: int, ink: Any, style: Style) -> list[Any]:
    """The colour of each step: the line's own, and over it the heat's as the heat grows."""
    if hot is None:
        return [ink.tolist()] * steps
    strength = np.minimum(1, 2 * np.abs(hot - style.neutral) / (1 - style.neutral))[:, None]  # a thin line needs more of it
    colours = table(style.colours, torch.device("cpu")).numpy()[np.rint(hot * 255).astype(int)]
    mixed: list[Any] = (ink * (1 - strength) + colours * strength).round().tolist()
    return mixed
