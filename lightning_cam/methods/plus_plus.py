"""Grad-CAM++ in its two forms. b batch, c channels, m map, p places.

``grad_cam_pp`` is the paper's, which the name stands for elsewhere too. For maps compared over training take
``grad_cam_pp_normalized``: the paper's weights bend with the size of the gradient, so its maps drift when logits merely grow.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.family import METHODS
from lightning_cam.methods.gradient import weighted
from lightning_cam.seen import Seen

_POLE = 1e-3  # of the denominator's regular value 2; only signed channels come near it


@METHODS.register
def grad_cam_pp(seen: Seen) -> Float[Tensor, "b *m"]:
    """Grad-CAM++: positive gradients, weighted by the closed form of the paper.

    ``sum_k w_k A_k`` with ``w_k = sum_m alpha ReLU(g)`` and ``alpha = g^2 / (2 g^2 + sum_m(A_k) g^3)``, multiplied out to
    ``1 / (2 + g sum_m A_k)``. The paper's factor exp(S) is left out: one positive number an image. Not homogeneous in the
    score, so only the map's shape is meaningful; >= 0 where activations are. Places on the pole of a signed channel
    (denominator within 1e-3 of 0) count nothing.

    Source: Chattopadhay et al. 2018, eq. 7 and 19, arXiv 1710.11063.
    """
    g = seen.gradient.flatten(2)
    return weighted((_alpha(seen) * g.relu()).sum(2), seen.activation)


@METHODS.register
def grad_cam_pp_normalized(seen: Seen) -> Float[Tensor, "b *m"]:
    """Grad-CAM++ as its authors' code has it: the paper's alpha, made to sum to 1 over the places of a channel.

    ``sum_k w_k A_k`` with ``w_k = sum_m alpha ReLU(g) / sum_m alpha``, over places where g is not 0; in units of the score.
    After global average pooling it is LayerCAM, and it then scales with the score. A channel whose alpha sums to 0, as
    where no gradient arrives, counts nothing.

    Source: Chattopadhay et al. 2018, code (misc/utils.py of adityac94/Grad_CAM_plus_plus), arXiv 1710.11063.
    """
    g, alpha = seen.gradient.flatten(2), _alpha(seen)
    total = alpha.sum(2)
    reliable = total.abs() > torch.finfo(g.dtype).eps * alpha.abs().sum(2)
    w = (alpha * g.relu()).sum(2) / total.where(reliable, 1)
    return weighted(w.where(reliable, 0), seen.activation)


def _alpha(seen: Seen) -> Float[Tensor, "b c p"]:
    """Eq. 19 divided by g^2; 0 where g is 0, as in the paper, and on the pole."""
    g = seen.gradient.flatten(2)
    below = 2 + g * seen.activation.flatten(2).sum(2, keepdim=True)
    regular = (g != 0) & (below.abs() > _POLE)
    return (1 / below.where(regular, 1)).where(regular, 0)
