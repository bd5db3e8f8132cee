"""Methods that integrate gradients along a path from a baseline. b batch, c channels, m map."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.gradient import derivative
from lightning_cam.capture.seen import Seen
from lightning_cam.methods.gradient import summed, weighted
from lightning_cam.registry import METHODS


@METHODS.register
def integrated_grad_cam(seen: Seen, *, baseline: float | Tensor = 0.0, steps: int = 20) -> Float[Tensor, "b *m"]:
    """Integrated Grad-CAM: Grad-CAM's weights averaged over images between a baseline and the image.

    ``sum_k (1/T sum_t mean_m(g_k(x_t))) (A_k(x) - A_k(x_0))`` with ``x_t = x_0 + t (x - x_0)`` at the T midpoints; signed,
    in units of the score. After global average pooling and one linear layer it is the Grad-CAM of the image less that of
    the baseline. (The authors' code rectifies each step and weights A_k(x_t), so it has no signed form.)

    Source: after Sattarzadeh et al. 2021 (ICASSP), arXiv 2102.07805.

    Args:
        seen: what one forward showed.
        baseline: the image the path starts from, or its one value, in the units of the model's input.
        steps: T, the forwards and backwards it takes.

    Raises:
        ValueError: for steps below 1.
    """
    start = torch.zeros_like(seen.image) + baseline
    rise = seen.activation - seen.with_image(start).activation
    w = rise.new_zeros(rise.shape[:2])
    for t in _midpoints(steps):
        g = seen.with_image(torch.lerp(start, seen.image, t)).gradient
        w = w + g.flatten(2).mean(2) / steps
    return weighted(w, rise, seen.eps)


@METHODS.register
def integrated_gradients(seen: Seen, *, baseline: float | Tensor = 0.0, steps: int = 50) -> Float[Tensor, "b *m"]:
    """Integrated gradients of the layer: HiResCAM with the gradient averaged on the way from a baseline's activation.

    ``sum_k (A - A_0)_k (1/T sum_t g_k(A_0 + t (A - A_0)))`` at the T midpoints; signed, in units of the score. It sums to
    S(A) - S(A_0) as T grows, and for any T where what follows is one linear map. Tokens without a place stay as they are.

    Source: Sundararajan et al. 2017, eq. 1, arXiv 1703.01365, at a layer.

    Args:
        seen: what one forward showed.
        baseline: the image whose activation the path starts from, or its one value, in the units of the model's input.
        steps: T, the backwards it takes.

    Raises:
        ValueError: for steps below 1.
    """
    start = seen.with_image(torch.zeros_like(seen.image) + baseline).activation
    rise = seen.activation - start
    mean_gradient = torch.zeros_like(seen.gradient)
    for t in _midpoints(steps):
        a = (start + t * rise).requires_grad_()
        (g,) = derivative(seen.rerun(activation=a), [a])
        assert g is not None  # or seen.gradient had none
        mean_gradient = mean_gradient + g / steps
    return summed(rise * mean_gradient, seen.eps)


def _midpoints(steps: int) -> Iterator[float]:
    if steps < 1:
        raise ValueError(f"A path has at least one step; got steps={steps}.")
    return ((i + 0.5) / steps for i in range(steps))
