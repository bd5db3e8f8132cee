"""Metrics: ``(heat, seen) -> score [b]``, NaN where undefined. ``names()`` lists them, ``@register`` adds one."""

from lightning_cam.metrics.localization import energy_inside as energy_inside
from lightning_cam.registry import METRICS

find = METRICS.find
names = METRICS.names
register = METRICS.register
