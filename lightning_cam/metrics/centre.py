"""The centre-Gaussian: what a metric gives for a map that looks at the middle of every image. b batch, s sides of the image."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.record import Earlier

Metric = Callable[..., Tensor]


def centre_gaussian(images: Shaped[Tensor, "b c *s"], *, sigma: float = 0.25) -> Float[Tensor, "b *s"]:
    """A Gaussian bump in the middle of each image, of the image's size, 1 at the middle: a map that has learned nothing.

    ``exp(-sum_i x_i^2 / (2 sigma^2))`` with ``x_i`` the distance from the middle in lengths of the i-th side. Photographs have
    their object in the middle, so it is a strong baseline: a look at pictures says little if its numbers are not above these.

    Source: Choe et al. 2020, the centre-Gaussian baseline, arXiv 2001.07437. What reads only the order of a map's values
    (``px_ap``, ``relevance_rank``, ``pointing_game``, and ``max_box_acc`` but for its steps) is the same for every sigma. For
    ``iou`` and the energies a quarter is our choice: half the maximum is then exceeded on 27 % of the image.

    Args:
        images: of any kind; only their shape is read, and where they are.
        sigma: the standard deviation as a share of each side.

    Raises:
        ValueError: for a sigma that is not above 0.

    Example:
        >>> centre_gaussian(torch.zeros(1, 3, 2, 4)).shape
        torch.Size([1, 2, 4])
        >>> [round(value, 4) for value in centre_gaussian(torch.zeros(1, 1, 3))[0].tolist()]
        [0.4111, 1.0, 0.4111]
    """
    if not sigma > 0:
        raise ValueError(
            f"The sigma of a centre-Gaussian is a share of each side, above 0; got {sigma!r}. "
            "A quarter is centre_gaussian(images, sigma=0.25)."
        )
    bump = _bump(images.shape[2:], sigma, images.device)
    return bump.expand(len(images), *bump.shape)


def at_centre(metric: Metric, seen: Seen) -> Float[Tensor, "b"]:
    """The value of a metric for the centre-Gaussian, on the samples and with the regions of a look; NaN as the metric is.

    Nothing of the model is in it but what the metric itself reads, and nothing of earlier looks: of the metrics of localization
    it is the same at every look of a run. A threshold that is chosen is chosen for the centre-Gaussian itself.

    Args:
        metric: ``(heat [b *m], seen) -> [b]``, its options bound.
        seen: what one forward showed.
    """
    size = next((mask.shape[1:] for mask in seen.regions.values()), seen.image.shape[2:])
    heat = _bump(size, 0.25, seen.score.device).to(seen.score.dtype).expand(len(seen.score), *size)
    return metric(heat, replace(seen, earlier=Earlier()))


def _bump(size: Sequence[int], sigma: float, device: torch.device) -> Float[Tensor, "*s"]:
    exponent = torch.zeros((), device=device)
    for side in size:
        # whole numbers, so that both halves are the same to the last bit
        along = (2 * torch.arange(side, device=device) + 1 - side) / (2 * side)
        exponent = exponent[..., None] + (along / sigma).square() / 2
    return (-exponent).exp()
