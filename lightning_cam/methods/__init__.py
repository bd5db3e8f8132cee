"""Methods: ``Seen -> heat [b u v]``. ``names()`` lists them, ``@register`` adds one."""

from lightning_cam.family import METHODS
from lightning_cam.methods.activation import activation_mean as activation_mean
from lightning_cam.methods.activation import cam as cam
from lightning_cam.methods.attention import attention_relevance as attention_relevance
from lightning_cam.methods.attention import attention_rollout as attention_rollout
from lightning_cam.methods.attention import grad_eclip as grad_eclip
from lightning_cam.methods.attention import le_grad as le_grad
from lightning_cam.methods.gradient import grad_cam as grad_cam
from lightning_cam.methods.masking import is_cam as is_cam
from lightning_cam.methods.masking import score_cam as score_cam
from lightning_cam.methods.masking import ss_cam as ss_cam
from lightning_cam.methods.perturbation import ablation_cam as ablation_cam
from lightning_cam.methods.perturbation import recipro_cam as recipro_cam
from lightning_cam.methods.random import random_cam as random_cam
from lightning_cam.methods.wrap import flip_average as flip_average
from lightning_cam.methods.wrap import smooth as smooth
from lightning_cam.methods.wrap import smooth_grad_cam_pp as smooth_grad_cam_pp

find = METHODS.find
names = METHODS.names
register = METHODS.register
