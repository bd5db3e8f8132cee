"""Targets: ``(output, label) -> classes or scores``. ``names()`` lists them, ``@register`` adds one."""

from lightning_cam.family import TARGETS
from lightning_cam.target import Pinned as Pinned
from lightning_cam.targets.boxes import detection as detection
from lightning_cam.targets.choice import label as label
from lightning_cam.targets.choice import positives as positives
from lightning_cam.targets.choice import predicted as predicted
from lightning_cam.targets.choice import runner_up as runner_up
from lightning_cam.targets.choice import top_k as top_k
from lightning_cam.targets.dense import segment as segment
from lightning_cam.targets.reference import projection as projection
from lightning_cam.targets.reference import similarity as similarity
from lightning_cam.targets.scores import binary as binary
from lightning_cam.targets.scores import contrast as contrast
from lightning_cam.targets.scores import counterfactual as counterfactual
from lightning_cam.targets.scores import log_probability as log_probability
from lightning_cam.targets.scores import rivals as rivals
from lightning_cam.targets.scores import softmax_probability as softmax_probability
from lightning_cam.targets.scores import value as value

find = TARGETS.find
names = TARGETS.names
register = TARGETS.register
