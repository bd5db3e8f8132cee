"""Methods that weigh the activation by its gradient: one forward, and one backward of what follows the layer.

Shapley-CAM alone takes a second derivative. b batch, c channels, m map (u v for pictures), p places.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.gradient import derivative
from lightning_cam.capture.seen import Seen
from lightning_cam.heat import above_rounding
from lightning_cam.registry import METHODS

# of the denominator's regular value 2; only signed channels come near it
_POLE = 1e-3


@METHODS.register
def grad_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """Grad-CAM: channels weighted by the spatial mean of their gradient.

    ``sum_k mean_m(dS/dA_k) A_k``, signed, in units of the score; its positive part is the paper's map, and is what the
    default style shows. After global average pooling and one linear layer it is ``cam`` over the number of places.

    Source: Selvaraju et al. 2017, eq. 1 and 2, arXiv 1610.02391.

    Example:
        >>> from lightning_cam import explain
        >>> conv, head = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Linear(8, 5)
        >>> model = torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
        >>> explain(model, torch.rand(2, 3, 16, 12), layer="0", method="grad_cam").heat.shape
        torch.Size([2, 16, 12])
    """
    return weighted(seen.gradient.flatten(2).mean(2), seen.activation, seen.eps)


@METHODS.register
def hires_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """HiResCAM: the activation times its gradient, at each place, summed over channels.

    ``sum_k dS/dA_k A_k``, signed, in units of the score. Where what follows the layer is one linear map it sums to the
    score less its bias; after global average pooling it is Grad-CAM.

    Source: Draelos & Carin 2020, arXiv 2011.08891.
    """
    return summed(seen.gradient * seen.activation, seen.eps)


@METHODS.register
def grad_cam_elementwise(seen: Seen) -> Float[Tensor, "b *m"]:
    """Element-wise Grad-CAM: only what speaks for the score, place by place and channel by channel.

    ``sum_k ReLU(dS/dA_k A_k)``, >= 0, in units of the score. Equal to LayerCAM where activations are >= 0.

    Source: pytorch-grad-cam's GradCAMElementWise, after Pillai & Pirsiavash 2021, "Explainable models with consistent
    interpretations", AAAI, whose own code rectifies the sum over channels instead: ``hires_cam`` and its positive part.
    """
    return (seen.gradient * seen.activation).relu().sum(1)


@METHODS.register
def layer_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """LayerCAM: each place weighted by its own gradient, where that is positive.

    ``sum_k ReLU(dS/dA_k) A_k``, in units of the score; >= 0 where activations are, signed behind SiLU, GELU or a norm.

    Source: Jiang et al. 2021, IEEE TIP, doi 10.1109/TIP.2021.3089943.
    """
    return summed(seen.gradient.relu() * seen.activation, seen.eps)


@METHODS.register
def x_grad_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """XGrad-CAM: channels weighted by their gradient, averaged where they are active.

    ``sum_k w_k A_k`` with ``w_k = sum_m(dS/dA_k A_k) / sum_m A_k``, signed, in units of the score. It sums to what HiResCAM
    sums to. Where a signed channel cancels, so that its sum is rounding (below eps times its places times its largest
    magnitude), its weight is the mean gradient: the same for a constant gradient, and finite.

    Source: Fu et al. 2020, arXiv 2008.02312.
    """
    a = seen.activation.flatten(2)
    g = seen.gradient.flatten(2)
    total = a.sum(2)
    reliable = total.abs() > torch.finfo(a.dtype).eps * a.shape[2] * a.abs().amax(2)
    w = torch.where(reliable, (g * a).sum(2) / total.where(reliable, 1), g.mean(2))
    return weighted(w, seen.activation, seen.eps)


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
    w = (_alpha(seen) * g.relu()).sum(2)
    return weighted(w, seen.activation, seen.eps)


@METHODS.register
def grad_cam_pp_normalized(seen: Seen) -> Float[Tensor, "b *m"]:
    """Grad-CAM++ as its authors' code has it: the paper's alpha, made to sum to 1 over the places of a channel.

    ``sum_k w_k A_k`` with ``w_k = sum_m alpha ReLU(g) / sum_m alpha``, over places where g is not 0; in units of the score.
    After global average pooling it is LayerCAM, and it then scales with the score. A channel whose alpha sums to 0, as
    where no gradient arrives, counts nothing.

    Source: Chattopadhay et al. 2018, code (misc/utils.py of adityac94/Grad_CAM_plus_plus), arXiv 1710.11063.
    """
    g = seen.gradient.flatten(2)
    alpha = _alpha(seen)
    total = alpha.sum(2)
    reliable = total.abs() > torch.finfo(g.dtype).eps * alpha.abs().sum(2)
    w = (alpha * g.relu()).sum(2) / total.where(reliable, 1)
    return weighted(w.where(reliable, 0), seen.activation, seen.eps)


@METHODS.register
def shapley_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """Shapley-CAM: Grad-CAM with the score's curvature along the activation taken off the gradient.

    ``sum_k mean_m(g - H A / 2)_k A_k`` with H the Hessian of the score by the activation; signed, in units of the score. On
    what is piecewise linear behind the layer (ReLU, max pooling, linear layers) H A is 0 for a logit, and it is Grad-CAM.

    Source: Cai 2025, "CAMs as Shapley value-based explainers", arXiv 2501.06261; of a logit rather than the score
    proposed there.

    Raises:
        ValueError: if an operation behind the layer has no second derivative.
    """
    w = (seen.gradient - _curvature(seen) / 2).flatten(2).mean(2)
    return weighted(w, seen.activation, seen.eps)


def weighted(w: Float[Tensor, "b c"], a: Float[Tensor, "b c *m"], eps: float = 0.0) -> Float[Tensor, "b *m"]:
    """The sum over channels, each times its weight; zeros where that is rounding.

    Args:
        w: weights.
        a: channels.
        eps: the relative rounding of both; at least that of the type they are held in.
    """
    return above_rounding(_sum(w, a), _rounding(w, a, eps))


def summed(terms: Float[Tensor, "b c *m"], eps: float = 0.0) -> Float[Tensor, "b *m"]:
    """The sum over channels; zeros where that is rounding.

    Args:
        terms: what is summed.
        eps: their relative rounding; at least that of the type they are held in.
    """
    return above_rounding(terms.sum(1), _rounding(terms.new_ones(terms.shape[:2]), terms, eps))


def _sum(w: Float[Tensor, "b c"], a: Float[Tensor, "b c *m"]) -> Float[Tensor, "b *m"]:
    return torch.einsum("bc,bc...->b...", w, a)


def _rounding(w: Float[Tensor, "b c"], a: Float[Tensor, "b c *m"], eps: float) -> Float[Tensor, "b"]:
    """What of the sums over channels may be rounding: eps times the largest sum of magnitudes.

    In half precision that would be a hundredth of it, and what thousands of terms of either sign leave may be no larger. But
    rounding has either sign too, so it grows as the root of the sum of squares: three deviations are below 2 eps of it.
    """
    own = torch.finfo(a.dtype).eps
    rounding = own * _sum(w.abs(), a.abs()).flatten(1).amax(1)
    if eps > own:
        rounding = rounding + 2 * eps * _sum(w.square(), a.square()).flatten(1).amax(1).sqrt()
    return rounding


def _alpha(seen: Seen) -> Float[Tensor, "b c p"]:
    """Eq. 19 divided by g^2; 0 where g is 0, as in the paper, and on the pole."""
    g = seen.gradient.flatten(2)
    below = 2 + g * seen.activation.flatten(2).sum(2, keepdim=True)
    regular = (g != 0) & (below.abs() > _POLE)
    return (1 / below.where(regular, 1)).where(regular, 0)


def _curvature(seen: Seen) -> Float[Tensor, "b c *m"]:
    """The Hessian times the activation: the gradient's own gradient along it.

    Raises:
        ValueError: if an operation behind the layer has no second derivative.
    """
    layer = seen.forward.outputs[seen.layer]
    score = seen.forward.target_scores.score[:, seen.position]
    (g,) = derivative(score, [layer.output], create_graph=True)
    if g is None or not g.requires_grad:  # behind the layer all is linear
        return torch.zeros_like(seen.activation)
    slope = (g * layer.output.detach()).flatten(1).sum(1)
    try:
        (curvature,) = derivative(slope, [layer.output])
    except RuntimeError as error:
        if "derivative for" not in str(error) and "double backward" not in str(error):
            raise
        raise ValueError(
            f"shapley_cam differentiates twice, and an operation behind {seen.layer!r} can only be differentiated once: "
            f"{error} For attention, look under torch.nn.attention.sdpa_kernel(SDPBackend.MATH); or use grad_cam."
        ) from error
    if curvature is None:
        return torch.zeros_like(seen.activation)
    return layer.layout.to_map(curvature)
