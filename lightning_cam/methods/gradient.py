"""Methods that need one forward and one backward of what follows the layer. b batch, c channels, u v map."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.family import METHODS
from lightning_cam.seen import Seen


@METHODS.register
def grad_cam(seen: Seen) -> Float[Tensor, "b u v"]:
    """Grad-CAM: channels weighted by the spatial mean of their gradient.

    ``sum_k mean_uv(dS/dA_k) A_k``, signed, in units of the score; its positive part is the paper's map, and is what the
    default style shows. After global average pooling and one linear layer it is ``cam / (u v)``.

    Source: Selvaraju et al. 2017, eq. 1 and 2, arXiv 1610.02391.
    """
    w = seen.gradient.mean((2, 3))
    return torch.einsum("bc,bcuv->buv", w, seen.activation)
