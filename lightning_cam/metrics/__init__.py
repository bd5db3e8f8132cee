"""Metrics: ``(heat, seen) -> score [b]``, NaN where undefined. ``names()`` lists them, ``@register`` adds one.

``@register(range=(0, 1), higher_is_better=True, floor=...)`` says what values mean. A metric that compares with the baseline's
map, the previous look's or the best one's reads ``seen.earlier``.
"""

from lightning_cam.metrics.localization import energy_inside as energy_inside
from lightning_cam.registry import METRICS

find = METRICS.find
names = METRICS.names
register = METRICS.register
