"""Methods by the statistics of the activation over its places. b batch, c channels, m map, p places.

Components come with either sign; the one that agrees with a map named in each docstring is taken, so maps do not flip
between looks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import above_rounding
from lightning_cam.registry import METHODS

_KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": lambda x, gamma: torch.tanh(gamma * x @ x.mT + 1),
    "rbf": lambda x, gamma: torch.exp(-gamma * torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()),
    "linear": lambda x, gamma: x @ x.mT,
}


@METHODS.register
def eigen_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """Eigen-CAM: the activation's projection on its first principal direction.

    ``A v`` with v the first right singular vector of the places x channels matrix, in units of the activation, signed;
    class-agnostic, and close to the activation mean, with which its sign agrees. With each channel less its mean, as
    pytorch-grad-cam has it, it shows the largest contrast instead: that is kpca_cam with the linear kernel.

    Source: Muhammad & Yeasin 2020, arXiv 2008.00299.
    """
    return _signed(_principal(seen.activation), seen.activation.mean(1))


@METHODS.register
def eigen_grad_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """Eigen-Grad-CAM: the first principal component of the activation times its gradient, channels centred.

    ``X v`` with ``X_k = g_k A_k`` less its mean, v its first right singular vector; signed, in units of the score. The sign
    agrees with HiResCAM, which is the sum over the same channels.

    Source: pytorch-grad-cam's EigenGradCAM, after Muhammad & Yeasin 2020, arXiv 2008.00299.
    """
    x = seen.gradient * seen.activation
    return _signed(_contrast(x), x.sum(1))


@METHODS.register
def seg_eigen_cam(seen: Seen) -> Float[Tensor, "b *m"]:
    """Seg-Eigen-CAM: the first principal component of the activation times the gradient's magnitude, channels centred.

    ``X v`` with ``X_k = |g_k| A_k`` less its mean, v its first right singular vector; signed, in units of the score: places
    that matter for it, whether for or against. Of its two signs the one whose largest magnitude is positive is taken.

    Source: Chung & Ying 2025, eq. 10 to 13, Applied Sciences 15 (13) 7562, there for segmentation.
    """
    heat = _contrast(seen.gradient.abs() * seen.activation)
    places = heat.flatten(1)
    strongest = torch.zeros_like(places).scatter(1, places.abs().argmax(1, keepdim=True), 1)
    return _signed(heat, strongest.reshape_as(heat))


@METHODS.register
def kpca_cam(seen: Seen, *, kernel: str = "sigmoid", gamma: float | None = None) -> Float[Tensor, "b *m"]:
    """KPCA-CAM: the first kernel principal component of the places, each described by its channels.

    ``sqrt(l) u`` with l, u the first eigenpair of the centred kernel matrix of the centred activation; signed, no units,
    class-agnostic. Kernels: ``tanh(gamma x.y + 1)`` and ``exp(-gamma |x - y|^2)``. The sign agrees with the activation mean.

    Source: Karmani et al. 2024, arXiv 2410.00267.

    Args:
        seen: what one forward showed.
        kernel: ``"sigmoid"``, ``"rbf"`` or ``"linear"``, which is centred Eigen-CAM.
        gamma: the kernel's width; by default one over the number of channels.

    Raises:
        ValueError: for another kernel.
    """
    if kernel not in _KERNELS:
        raise ValueError(f"No kernel {kernel!r}; known: {', '.join(_KERNELS)}.")
    a = seen.activation
    x = _centered(a).flatten(2).mT
    if gamma is None:
        gamma = 1 / x.shape[2]
    k = _KERNELS[kernel](x, gamma)
    rounding = torch.finfo(k.dtype).eps * k.shape[1] * k.abs().amax((1, 2))
    value, vector = _first(k - k.mean(1, keepdim=True) - k.mean(2, keepdim=True) + k.mean((1, 2), keepdim=True))
    # places that are all alike have no component, and rounding may give them a negative one
    length = torch.where(value <= rounding, 0, value).sqrt()
    return _signed((length[:, None] * vector).reshape_as(a[:, 0]), a.mean(1))


@METHODS.register
def fem(seen: Seen, *, sigmas: float = 2.0) -> Float[Tensor, "b *m"]:
    """FEM: where channels are unusually strong, each counted by its mean activation.

    ``sum_k mu_k [A_k > mu_k + sigmas s_k]`` with mu and s each channel's mean and standard deviation over its places, in
    units of the activation; >= 0 where activations are; class-agnostic. (pytorch-grad-cam's FEM weights A_k by the share of
    such places instead.)

    Source: Fuad et al. 2020, "Features understanding in 3D CNNs for actions recognition in video", IPTA.

    Args:
        seen: what one forward showed.
        sigmas: how many standard deviations above its mean a place is strong.

    Raises:
        ValueError: for a map so small that no place can be that strong: of n places none lies sqrt(n - 1) above the mean.
    """
    a = seen.activation.flatten(2)
    if a.shape[2] <= 1 + max(sigmas, 0) ** 2:
        raise ValueError(
            f"fem looks for places {sigmas:g} standard deviations above the mean, and of the {a.shape[2]} places of the map at "
            f"{seen.layer!r} none can be. Name an earlier layer, use larger images, or {{'fem': {{'sigmas': ...}}}} with less."
        )
    mean = a.mean(2, keepdim=True)
    spread = a.std(2, correction=0, keepdim=True)
    return (mean * (a > mean + sigmas * spread)).sum(1).reshape_as(seen.activation[:, 0])


def _centered(a: Float[Tensor, "b c *m"]) -> Float[Tensor, "b c *m"]:
    return a - a.flatten(2).mean(2).reshape(*a.shape[:2], *[1] * (a.ndim - 2))


def _contrast(a: Float[Tensor, "b c *m"]) -> Float[Tensor, "b *m"]:
    """The first principal component, channels centred; zeros where these are the same at all places but for rounding."""
    # of each channel the value itself and the mean taken off it are rounded
    rounding = 2 * torch.finfo(a.dtype).eps * a.flatten(2).norm(dim=1).amax(1)
    return above_rounding(_principal(_centered(a)), rounding)


def _principal(a: Float[Tensor, "b c *m"]) -> Float[Tensor, "b *m"]:
    """Projection on the first right singular vector, by the smaller of the two Gram matrices."""
    x = a.flatten(2).mT
    if x.shape[2] <= x.shape[1]:
        _, direction = _first(x.mT @ x)
    else:
        _, left = _first(x @ x.mT)
        direction = F.normalize(torch.einsum("bpc,bp->bc", x, left), dim=1)
    return torch.einsum("bpc,bc->bp", x, direction).reshape_as(a[:, 0])


def _first(gram: Float[Tensor, "b n n"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b n"]]:
    """The largest eigenvalue and its vector; NaN where the matrix is not finite, of which eigh would refuse all."""
    finite = gram.isfinite().all(2).all(1)
    values, vectors = torch.linalg.eigh(gram.where(finite[:, None, None], 0))
    value = values[:, -1].where(finite, torch.nan)
    vector = vectors[:, :, -1].where(finite[:, None], torch.nan)
    return value, vector


def _signed(heat: Float[Tensor, "b *m"], like: Float[Tensor, "b *m"]) -> Float[Tensor, "b *m"]:
    """The map or its negative, whichever agrees with another."""
    against = (heat * like).flatten(1).sum(1) < 0
    return torch.where(against.reshape(-1, *[1] * (heat.ndim - 1)), -heat, heat)
