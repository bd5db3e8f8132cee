"""Methods: ``Seen -> heat [b u v]``. ``names()`` lists them, ``@register`` adds one."""

from lightning_cam.methods.activation import activation_mean as activation_mean
from lightning_cam.methods.activation import cam as cam
from lightning_cam.methods.activation import random_cam as random_cam
from lightning_cam.methods.attention import attention_relevance as attention_relevance
from lightning_cam.methods.attention import attention_rollout as attention_rollout
from lightning_cam.methods.attention import grad_eclip as grad_eclip
from lightning_cam.methods.attention import le_grad as le_grad
from lightning_cam.methods.backprop import full_grad as full_grad
from lightning_cam.methods.backprop import guided_grad_cam as guided_grad_cam
from lightning_cam.methods.eigen import eigen_cam as eigen_cam
from lightning_cam.methods.eigen import eigen_grad_cam as eigen_grad_cam
from lightning_cam.methods.eigen import fem as fem
from lightning_cam.methods.eigen import kpca_cam as kpca_cam
from lightning_cam.methods.eigen import seg_eigen_cam as seg_eigen_cam
from lightning_cam.methods.gradient import grad_cam as grad_cam
from lightning_cam.methods.gradient import grad_cam_elementwise as grad_cam_elementwise
from lightning_cam.methods.gradient import grad_cam_pp as grad_cam_pp
from lightning_cam.methods.gradient import grad_cam_pp_normalized as grad_cam_pp_normalized
from lightning_cam.methods.gradient import hires_cam as hires_cam
from lightning_cam.methods.gradient import layer_cam as layer_cam
from lightning_cam.methods.gradient import shapley_cam as shapley_cam
from lightning_cam.methods.gradient import x_grad_cam as x_grad_cam
from lightning_cam.methods.libra import libra as libra
from lightning_cam.methods.path import integrated_grad_cam as integrated_grad_cam
from lightning_cam.methods.path import integrated_gradients as integrated_gradients
from lightning_cam.methods.perturbation import ablation_cam as ablation_cam
from lightning_cam.methods.perturbation import is_cam as is_cam
from lightning_cam.methods.perturbation import occlusion as occlusion
from lightning_cam.methods.perturbation import recipro_cam as recipro_cam
from lightning_cam.methods.perturbation import rise as rise
from lightning_cam.methods.perturbation import score_cam as score_cam
from lightning_cam.methods.perturbation import ss_cam as ss_cam
from lightning_cam.methods.perturbation import token_ablation as token_ablation
from lightning_cam.methods.wrappers import flip_average as flip_average
from lightning_cam.methods.wrappers import sess as sess
from lightning_cam.methods.wrappers import smooth as smooth
from lightning_cam.methods.wrappers import smooth_grad_cam_pp as smooth_grad_cam_pp
from lightning_cam.registry import METHODS

find = METHODS.find
names = METHODS.names
register = METHODS.register
