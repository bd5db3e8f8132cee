"""Metrics: ``(heat, seen) -> score [b]``, NaN where undefined. ``names()`` lists them, ``@register`` adds one.

``@register(range=(0, 1), higher_is_better=True, floor=..., cost="none", reads=())`` says what values mean; each is optional.
``floor`` is what a map without preference scores: a number, or a function of ``seen`` and the metric's options. ``cost`` is
what it takes beside the look, in words. ``reads`` names what a run keeps for it beside earlier maps (``noise``, ``factors``),
or ``batch`` where it must see all samples at once. The first metric with a direction says which look of a run is the best. A
metric that compares with the baseline's map, the previous look's or the best one's reads ``seen.earlier``; one that asks for
the map of changed images, ``seen.method``. One that gives None is not measured at this look.
"""

from lightning_cam.metrics.boxes import max_box_acc as max_box_acc
from lightning_cam.metrics.boxes import max_box_acc_v2 as max_box_acc_v2
from lightning_cam.metrics.by_class import by_class as by_class
from lightning_cam.metrics.centre import at_centre as at_centre
from lightning_cam.metrics.centre import centre_gaussian as centre_gaussian
from lightning_cam.metrics.comparison import centre_shift as centre_shift
from lightning_cam.metrics.comparison import cosine as cosine
from lightning_cam.metrics.comparison import drift as drift
from lightning_cam.metrics.comparison import drift_floor as drift_floor
from lightning_cam.metrics.comparison import feature_drift as feature_drift
from lightning_cam.metrics.comparison import head_drift as head_drift
from lightning_cam.metrics.comparison import jensen_shannon as jensen_shannon
from lightning_cam.metrics.comparison import settled_at as settled_at
from lightning_cam.metrics.comparison import spearman as spearman
from lightning_cam.metrics.comparison import top_iou as top_iou
from lightning_cam.metrics.comparison import wasserstein as wasserstein
from lightning_cam.metrics.evidence import bias_share as bias_share
from lightning_cam.metrics.evidence import on_map as on_map
from lightning_cam.metrics.faithfulness import adcc as adcc
from lightning_cam.metrics.faithfulness import average_drop as average_drop
from lightning_cam.metrics.faithfulness import average_gain as average_gain
from lightning_cam.metrics.faithfulness import coherency as coherency
from lightning_cam.metrics.faithfulness import complexity as complexity
from lightning_cam.metrics.faithfulness import deletion as deletion
from lightning_cam.metrics.faithfulness import increase as increase
from lightning_cam.metrics.faithfulness import insertion as insertion
from lightning_cam.metrics.faithfulness import road as road
from lightning_cam.metrics.localization import energy_inside as energy_inside
from lightning_cam.metrics.localization import enrichment as enrichment
from lightning_cam.metrics.localization import relevance_rank as relevance_rank
from lightning_cam.metrics.measure import defaults as defaults
from lightning_cam.metrics.overlap import iou as iou
from lightning_cam.metrics.overlap import px_ap as px_ap
from lightning_cam.metrics.pointing import pointing_game as pointing_game
from lightning_cam.metrics.shape import effective_area as effective_area
from lightning_cam.metrics.shape import entropy as entropy
from lightning_cam.metrics.shape import gini as gini
from lightning_cam.metrics.shape import norm as norm
from lightning_cam.metrics.shape import positive_share as positive_share
from lightning_cam.metrics.shape import strength as strength
from lightning_cam.metrics.wrappers import control as control
from lightning_cam.metrics.wrappers import every as every
from lightning_cam.registry import METRICS

find = METRICS.find
names = METRICS.names
register = METRICS.register
