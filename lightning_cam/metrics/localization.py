"""Whether the heat is where it should be. b batch, s sides of the image, m map (h w and u v for pictures)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import resize
from lightning_cam.metrics.region import known_region, prefers, region_of
from lightning_cam.registry import METRICS


def area_share(seen: Seen, *, region: str | None = None) -> Float[Tensor, "b"]:
    """The region's share of the image, 0 to 1: what ``energy_inside`` scores for a map without preference."""
    inside = known_region(seen, region)
    if inside is None:
        return seen.score.new_full((len(seen.image),), torch.nan)
    return inside.flatten(1).to(seen.score.dtype).mean(1)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, floor=area_share, cost="none")
def energy_inside(heat: Float[Tensor, "b *m"], seen: Seen, *, region: str | None = None) -> Float[Tensor, "b"]:
    """Energy-based pointing game: the share of the map's positive energy that lies inside a region.

    ``sum_inside M+ / sum M+`` in [0, 1], with ``M+`` the positive part of the map, linearly resized to the image: over time for
    signals, bilinearly for pictures, trilinearly for volumes. A map without preference scores the region's share of the image.
    NaN where the region is empty or the map has no energy.

    Source: Wang et al. 2020 (Score-CAM), section 4.3, arXiv 1910.01279.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        region: which of them; by default the union of all.

    Raises:
        ValueError: for a region that the batch does not have, or a map that has fewer sides than the image.
    """
    return energy_share(heat, region_of(heat, seen, region, "energy_inside"))


def energy_share(heat: Float[Tensor, "b *m"], inside: Bool[Tensor, "b *s"]) -> Float[Tensor, "b"]:
    """The share of each map's positive energy that lies inside a mask, in [0, 1]; NaN for an empty mask or no energy.

    Example:
        >>> heat = torch.tensor([[3.0, 1.0, -5.0]])
        >>> energy_share(heat, torch.tensor([[True, False, True]])).tolist()
        [0.75]
    """
    energy = resize(heat.relu(), inside.shape[1:])
    share = (energy * inside).flatten(1).sum(1) / energy.flatten(1).sum(1)
    return share.where(inside.flatten(1).any(1) & share.isfinite(), torch.nan)


@METRICS.register(range=(0.0, None), higher_is_better=True, floor=1.0, cost="none")
def enrichment(heat: Float[Tensor, "b *m"], seen: Seen, *, region: str | None = None) -> Float[Tensor, "b"]:
    """How many times denser the map's positive energy is inside a region than over the whole image.

    ``energy_inside / a`` in [0, 1/a], with ``a`` the region's share of the image: 1 for a map without preference, whatever the
    region's size, so that large regions are not favoured as they are by the energy alone. 1 where the region is the whole
    image. NaN where the region is empty or the map has no energy.

    Source: ``energy_inside`` (Wang et al. 2020, section 4.3, arXiv 1910.01279) over its own floor.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        region: which of them; by default the union of all.

    Raises:
        ValueError: for a region that the batch does not have, or a map that has fewer sides than the image.
    """
    inside = region_of(heat, seen, region, "enrichment")
    energy: Tensor = energy_inside(heat, seen, region=region)
    return energy / inside.flatten(1).to(heat.dtype).mean(1)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, floor=area_share, cost="a sort of the image's places")
def relevance_rank(heat: Float[Tensor, "b *m"], seen: Seen, *, region: str | None = None) -> Float[Tensor, "b"]:
    """Relevance rank accuracy: of as many hottest places as the region has, the share that lies inside it.

    ``|top_K and region| / K`` in [0, 1], ``K`` the places of the region, over the signed map linearly resized to the image.
    Only the order of values counts: no positive factor and no offset changes it. Of places tied at the K-th value each counts
    by the share of them that has room left, which is the mean over all their orders. Noise by pixels scores the region's share
    of the image; noise by cells of a 7x7 map a tenth less in the middle of the image, since the places at its borders are
    averages of fewer cells. NaN where the region is empty, and of a constant map.

    Source: Arras et al. 2022 (CLEVR-XAI), relevance rank accuracy, arXiv 2003.07258.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        region: which of them; by default the union of all.

    Raises:
        ValueError: for a region that the batch does not have, or a map that has fewer sides than the image.
    """
    mask = region_of(heat, seen, region, "relevance_rank")
    inside = mask.flatten(1)
    places = inside.sum(1, keepdim=True)
    large = resize(heat, mask.shape[1:]).flatten(1)
    last = large.sort(1, descending=True).values.gather(1, (places - 1).clamp(min=0))
    hotter = large > last
    tied = large == last
    room = (places - hotter.sum(1, keepdim=True)).to(heat.dtype) / tied.sum(1, keepdim=True)
    top = hotter + tied * room
    score = (top * inside).sum(1) / places[:, 0]
    return score.where(inside.any(1) & prefers(heat), torch.nan)
