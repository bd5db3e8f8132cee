"""Targets: which number is explained, as ``choose`` and ``score``. ``names()`` lists them, ``@register`` adds one.

A function ``(output, label)`` that gives classes or scores is a target too.
"""

from lightning_cam.registry import TARGETS
from lightning_cam.targets.adapters import find as find
from lightning_cam.targets.classes import label as label
from lightning_cam.targets.classes import positives as positives
from lightning_cam.targets.classes import predicted as predicted
from lightning_cam.targets.classes import runner_up as runner_up
from lightning_cam.targets.classes import top_k as top_k
from lightning_cam.targets.contrast import contrast as contrast
from lightning_cam.targets.contrast import rivals as rivals
from lightning_cam.targets.detection import detection as detection
from lightning_cam.targets.embedding import projection as projection
from lightning_cam.targets.embedding import similarity as similarity
from lightning_cam.targets.scores import binary as binary
from lightning_cam.targets.scores import counterfactual as counterfactual
from lightning_cam.targets.scores import log_probability as log_probability
from lightning_cam.targets.scores import softmax_probability as softmax_probability
from lightning_cam.targets.scores import value as value
from lightning_cam.targets.segmentation import segment as segment
from lightning_cam.targets.target import Choice as Choice
from lightning_cam.targets.target import Target as Target
from lightning_cam.targets.text import text as text

names = TARGETS.names
register = TARGETS.register
