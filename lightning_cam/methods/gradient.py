"""Methods that need one forward and one backward of what follows the layer. b batch, c channels, m map (u v for pictures)."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.family import METHODS
from lightning_cam.seen import Seen


@METHODS.register
def grad_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """Grad-CAM: channels weighted by the spatial mean of their gradient.

    ``sum_k mean_m(dS/dA_k) A_k``, signed, in units of the score; its positive part is the paper's map, and is what the
    default style shows. After global average pooling and one linear layer it is ``cam`` over the number of places.

    Source: Selvaraju et al. 2017, eq. 1 and 2, arXiv 1610.02391.
    """
    return weighted(seen.gradient.flatten(2).mean(2), seen.activation)


@METHODS.register
def hires_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """HiResCAM: the activation times its gradient, at each place, summed over channels.

    ``sum_k dS/dA_k A_k``, signed, in units of the score. Where what follows the layer is one linear map it sums to the
    score less its bias; after global average pooling it is Grad-CAM.

    Source: Draelos & Carin 2020, arXiv 2011.08891.
    """
    return (seen.gradient * seen.activation).sum(1)


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
    return (seen.gradient.relu() * seen.activation).sum(1)


@METHODS.register
def x_grad_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """XGrad-CAM: channels weighted by their gradient, averaged where they are active.

    ``sum_k w_k A_k`` with ``w_k = sum_m(dS/dA_k A_k) / sum_m A_k``, signed, in units of the score. It sums to what HiResCAM
    sums to. Where a signed channel cancels, so that its sum is rounding (below eps times its places times its largest
    magnitude), its weight is the mean gradient: the same for a constant gradient, and finite.

    Source: Fu et al. 2020, arXiv 2008.02312.
    """
    a, g = seen.activation.flatten(2), seen.gradient.flatten(2)
    total = a.sum(2)
    reliable = total.abs() > torch.finfo(a.dtype).eps * a.shape[2] * a.abs().amax(2)
    w = torch.where(reliable, (g * a).sum(2) / total.where(reliable, 1), g.mean(2))
    return weighted(w, seen.activation)


def weighted(w: Float[Tensor, "b c"], a: Float[Tensor, "b c *m"]) -> Float[Tensor, "b *m"]:
    """The sum over channels, each times its weight."""
    return torch.einsum("bc,bc...->b...", w, a)
