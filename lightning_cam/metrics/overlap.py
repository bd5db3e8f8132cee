"""How well the hot part of a map covers a region. b batch, s sides of the image, m map (u v for pictures)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import resize
from lightning_cam.metrics.localization import area_share
from lightning_cam.metrics.region import enlarged, known_region, prefers, region_of
from lightning_cam.registry import METRICS


def noise_iou(seen: Seen, *, threshold: float = 0.5, region: str | None = None) -> Float[Tensor, "b"]:
    """What ``iou`` scores on average for a map of uniform noise by pixels: its hot part is any ``1 - threshold`` of the image.

    ``(1 - t) a / ((1 - t) + a - (1 - t) a)`` with ``a`` the region's share of the image.
    """
    area = area_share(seen, region=region)
    both = (1 - threshold) * area
    share = both / ((1 - threshold) + area - both)
    return share.where(area > 0, torch.nan)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, floor=noise_iou, cost="none")
def iou(heat: Float[Tensor, "b *m"], seen: Seen, *, threshold: float = 0.5, region: str | None = None) -> Float[Tensor, "b"]:
    """Intersection over union of a region and of where the map exceeds a share of its maximum.

    ``|hot and region| / |hot or region|`` in [0, 1], ``hot`` the places of the linearly resized map that are strictly above
    ``threshold`` times its maximum. At a half, a single hot cell is enlarged to an area as wide as that cell; at .2, the
    share that CAM's boxes use, to one 1.6 times as wide, which is the resizing's doing and not the model's. NaN where the
    region is empty, of a constant map, and where no value is positive.

    Source: Zhou et al. 2016 (CAM), section 3.2, arXiv 1512.04150, for the threshold as a share of the maximum.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        threshold: the share of the maximum, at least 0 and below 1.
        region: which of them; by default the union of all.

    Raises:
        ValueError: for a region that the batch does not have, a map that has fewer sides than the image, or another threshold.
    """
    if not 0 <= threshold < 1:
        raise ValueError(
            f"The threshold of iou is a share of the map's maximum, at least 0 and below 1; got {threshold!r}. "
            'For half the maximum write {"iou": {"threshold": 0.5}}.'
        )
    inside = region_of(heat, seen, region, "iou")
    large = resize(heat.relu(), inside.shape[1:]).flatten(1)
    hot = large > threshold * large.amax(1, keepdim=True)
    mask = inside.flatten(1)
    score = (hot & mask).sum(1).to(heat.dtype) / (hot | mask).sum(1)
    return score.where(mask.any(1) & prefers(heat.relu()), torch.nan)


def pooled_area(seen: Seen, *, region: str | None = None, scaled: str = "positive") -> Float[Tensor, "b"]:
    """The region's share of all pixels of the batch, 0 to 1: what ``px_ap`` scores for a random order of the pixels."""
    inside = known_region(seen, region)
    if inside is None:
        return seen.score.new_full((len(seen.image),), torch.nan)
    marked = inside.flatten(1).any(1)
    share = inside[marked].to(seen.score.dtype).mean()
    return share.expand(len(marked)).where(marked, torch.nan)


@METRICS.register(
    range=(0.0, 1.0), higher_is_better=True, floor=pooled_area, cost="a sort of all pixels of the batch", reads=("batch",)
)
def px_ap(
    heat: Float[Tensor, "b *m"], seen: Seen, *, region: str | None = None, scaled: str = "positive"
) -> Float[Tensor, "b"]:
    """Pixel average precision: how well one threshold for all maps of the batch tells pixels of a region from others.

    ``sum_n (R_n - R_n-1) P_n`` in [0, 1] over every value there is as a threshold, ``P`` and ``R`` precision and recall of the
    pixels of all samples together; which is the mean over pixels inside of the share that lies inside of all pixels at least
    as hot. It is one number for the batch, given to each of its samples, and of another batch another one. Each map is
    resized linearly and scaled to [0, 1]. A sample without a region, with a constant map, or for ``positive`` without a
    positive value, is left out and NaN.

    Source: Choe et al. 2020, PxAP, section 3.3, arXiv 2001.07437, whose code takes ``scaled="minmax"``, resizes bicubically and
    counts in a thousand bins; here it is exact.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        region: which of them; by default the union of all.
        scaled: ``positive``, the positive part over its maximum, or ``minmax``.

    Raises:
        ValueError: for a region that the batch does not have, a map that has fewer sides than the image, or another scale.
    """
    inside = region_of(heat, seen, region, "px_ap")
    large = enlarged(heat, inside, scaled)
    defined = inside.flatten(1).any(1) & prefers(heat) & prefers(large)
    precision = average_precision(large[defined].flatten(), inside[defined].flatten())
    return precision.expand(len(heat)).where(defined, torch.nan)


def average_precision(values: Float[Tensor, "n"], positive: Bool[Tensor, "n"]) -> Float[Tensor, ""]:
    """The mean over positives of the precision at their value; ties count together, and NaN where there is no positive.

    Example:
        >>> average_precision(torch.tensor([0.9, 0.7, 0.7, 0.1]), torch.tensor([True, True, False, False])).item()
        0.8333333730697632
    """
    own = values[positive].sort().values
    as_hot = len(values) - torch.searchsorted(values.sort().values, own)
    of_these = len(own) - torch.searchsorted(own, own)
    return (of_these.to(values.dtype) / as_hot).mean()
