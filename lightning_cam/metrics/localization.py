"""Whether the heat is where it should be. b batch, s sides of the image, m map (h w and u v for pictures)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import resize
from lightning_cam.registry import METRICS, did_you_mean


def area_share(seen: Seen, *, region: str | None = None) -> Float[Tensor, "b"]:
    """The region's share of the image, 0 to 1: what ``energy_inside`` scores for a map without preference."""
    inside = _inside(seen, region)
    if inside is None:
        return seen.score.new_full((len(seen.image),), torch.nan)
    return inside.flatten(1).to(seen.score.dtype).mean(1)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, floor=area_share)
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
    inside = _inside(seen, region)
    if inside is None:
        return heat.new_full((len(heat),), torch.nan)
    if heat.ndim != inside.ndim:
        raise ValueError(
            f"energy_inside needs a map of as many sides as the image; at {seen.layer!r} the map is {tuple(heat.shape)} "
            f"and the region {tuple(inside.shape)}. Name a layer whose map has them all, layer=..., "
            "or a method that keeps them, such as method='grad_cam'."
        )
    energy = resize(heat.relu(), inside.shape[1:])
    share = (energy * inside).flatten(1).sum(1) / energy.flatten(1).sum(1)
    return share.where(inside.flatten(1).any(1) & share.isfinite(), torch.nan)


def _inside(seen: Seen, region: str | None) -> Bool[Tensor, "b *s"] | None:
    """The mask of a region, or of the union of all; None where the batch has none."""
    regions = seen.regions
    if not regions:
        return None
    if region is None:
        return torch.stack(list(regions.values())).any(0)
    if region not in regions:
        raise ValueError(f"The batch has no region {region!r}.{did_you_mean(region, regions)} Known: {', '.join(regions)}.")
    return regions[region]
