"""Metrics: ``(heat, seen) -> score [b]``, NaN where undefined. ``names()`` lists them, ``@register`` adds one."""

from lightning_cam.family import METRICS
from lightning_cam.metrics.localization import energy_inside as energy_inside

find = METRICS.find
names = METRICS.names
register = METRICS.register
