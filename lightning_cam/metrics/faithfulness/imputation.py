"""Pixels replaced by what their neighbours let one expect, so that neither a hole nor its outline tells the model anything.

b batch, z channels, s sides of the image.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.heat import resize

# the residual at which a solution is taken, as a share of the right side: values are then right to half a percent of the
# contrast of a picture of 224 pixels, half of the noise that is added
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}
_COARSE_TOLERANCE = 1e-3
_COARSEST = 8  # pixels of the longest side, from which on no coarser image is worth its while
_ROUNDS = 8  # between two questions whether it is enough, each of which waits for the device

System = Callable[[Float[Tensor, "b z *s"]], Float[Tensor, "b z *s"]]


def linear_imputation(images: Float[Tensor, "b z *s"], missing: Bool[Tensor, "b *s"]) -> Float[Tensor, "b z *s"]:
    """Images whose missing pixels are each the weighted mean of its neighbours, missing ones among them likewise.

    Neighbours are all that touch, diagonal ones at half the weight: in pictures 1/6 and 1/12, at the edge of what is left of
    them. That is a sparse linear system a sample, of as many unknowns as pixels are missing, symmetric and positive where any
    pixel is known; solved here for all samples and channels at once by conjugate gradients, to a residual of 1e-4 of the right
    side (1e-12 in double precision), beginning with the solution for an image of half the size.

    Source: Rong et al. 2022 (ROAD), arXiv 2202.00449, for pictures; in one and three dimensions likewise.

    Args:
        images: in single or double precision.
        missing: which pixels, at least one known in every image.
    """
    return _solved(images, missing, _TOLERANCE[images.dtype])


def neighbours(images: Float[Tensor, "b z *s"]) -> Float[Tensor, "b z *s"]:
    """Every pixel's weighted sum of its neighbours, 0 beyond the edge.

    A neighbour's weight halves with each side along which it is moved: the product of (1/2, 1, 1/2) over the sides, without
    the pixel itself, over what the weights then sum to.

    Example:
        >>> neighbours(torch.tensor([[[0.0, 4.0, 0.0]]])).tolist()
        [[[2.0, 0.0, 2.0]]]
    """
    total = images
    for dim in range(2, images.ndim):
        line = total.movedim(dim, -1)
        beside = F.pad(line[..., 1:], (0, 1)) + F.pad(line[..., :-1], (1, 0))
        total = (line + beside / 2).movedim(-1, dim)
    weights: int = 2 ** (images.ndim - 2) - 1
    return (total - images) / weights


def _solved(images: Float[Tensor, "b z *s"], missing: Bool[Tensor, "b *s"], tolerance: float) -> Float[Tensor, "b z *s"]:
    unknown = missing[:, None].to(images)
    sides = tuple(range(2, images.ndim))
    # what is solved for is the difference to the mean: a common brightness must not hide the contrast from the tolerance
    mean = (images * (1 - unknown)).sum(sides, keepdim=True) / (1 - unknown).sum(sides, keepdim=True)
    known = (images - mean) * (1 - unknown)
    weight = neighbours(torch.ones_like(unknown[:1]))

    def system(x: Tensor) -> Tensor:
        return unknown * (weight * x - neighbours(x))

    start = unknown * _coarse_guess(known, unknown)
    solution = _conjugate_gradients(system, unknown * neighbours(known), start, tolerance)
    return torch.where(missing[:, None], solution + mean, images)


def _coarse_guess(known: Float[Tensor, "b z *s"], unknown: Float[Tensor, "b 1 *s"]) -> Float[Tensor, "b z *s"]:
    """The solution for images of half the size, enlarged; of small ones 0, the mean of what is known."""
    size = known.shape[2:]
    if max(size) <= _COARSEST:
        return torch.zeros_like(known)
    half = [-(-side // 2) for side in size]
    share = F.interpolate(1 - unknown, half, mode="area")
    coarse = F.interpolate(known, half, mode="area") / share.where(share > 0, 1)
    return resize(_solved(coarse, share[:, 0] == 0, _COARSE_TOLERANCE), size)


def _conjugate_gradients(
    system: System, right: Float[Tensor, "b z *s"], start: Float[Tensor, "b z *s"], tolerance: float
) -> Float[Tensor, "b z *s"]:
    """The solution of a symmetric positive system, of every sample and channel by itself; Hestenes & Stiefel 1952."""
    size = _dot(right, right)
    x = start.where(size > 0, 0)
    residual = right - system(x)
    direction = residual
    left = _dot(residual, residual)
    for i in range(right[0, 0].numel() + _ROUNDS):
        # a NaN is above nothing, and ends it too
        if i % _ROUNDS == 0 and not bool((left > tolerance**2 * size).any()):
            break
        image = system(direction)
        step = _ratio(left, _dot(direction, image))
        x = x + step * direction
        residual = residual - step * image
        rest = _dot(residual, residual)
        direction = residual + _ratio(rest, left) * direction
        left = rest
    return x


def _dot(a: Float[Tensor, "b z *s"], b: Float[Tensor, "b z *s"]) -> Float[Tensor, "b z *ones"]:
    return (a * b).sum(tuple(range(2, a.ndim)), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, 0 where b is: of a system that is solved nothing more changes."""
    return (a / b.where(b > 0, 1)).where(b > 0, 0)
