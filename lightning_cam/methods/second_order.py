"""Methods that need a second derivative. b batch, c channels, m map."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.family import METHODS
from lightning_cam.methods.gradient import weighted
from lightning_cam.seen import Seen, derivative


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
    return weighted((seen.gradient - _bend(seen) / 2).flatten(2).mean(2), seen.activation)


def _bend(seen: Seen) -> Float[Tensor, "b c *m"]:
    """The Hessian times the activation: the gradient's own gradient along it."""
    kept = seen.look.kept[seen.layer]
    (g,) = derivative(seen.look.aim.score[:, seen.position], [kept.output], create_graph=True)
    along = None
    if g is not None and g.requires_grad:
        try:
            (along,) = derivative((g * kept.output.detach()).flatten(1).sum(1), [kept.output])
        except RuntimeError as error:
            if "derivative for" not in str(error) and "double backward" not in str(error):
                raise
            raise ValueError(
                f"shapley_cam differentiates twice, and an operation behind {seen.layer!r} can only be differentiated once: "
                f"{error} For attention, look under torch.nn.attention.sdpa_kernel(SDPBackend.MATH); or use grad_cam."
            ) from error
    return torch.zeros_like(seen.activation) if along is None else kept.layout.to_map(along)
