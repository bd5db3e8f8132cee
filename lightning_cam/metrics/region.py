"""The region that a metric is asked about, and maps enlarged to it. b batch, s sides of the image, m map (u v for pictures)."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import min_max, resize, share_of_maximum
from lightning_cam.registry import did_you_mean

Scaled = Literal["positive", "minmax"]


def known_region(seen: Seen, region: str | None) -> Bool[Tensor, "b *s"] | None:
    """The mask of a region of a look, or of the union of all; None where the batch has none.

    Raises:
        ValueError: for a region that the batch does not have.
    """
    return named_region(seen.regions, region)


def named_region(regions: Mapping[str, Bool[Tensor, "b *s"]], region: str | None) -> Bool[Tensor, "b *s"] | None:
    """The mask of that name, or of the union of all; None where there is none.

    Raises:
        ValueError: for a name that none has.
    """
    if not regions:
        return None
    if region is None:
        return torch.stack(list(regions.values())).any(0)
    if region not in regions:
        raise ValueError(f"The batch has no region {region!r}.{did_you_mean(region, regions)} Known: {', '.join(regions)}.")
    return regions[region]


def region_of(heat: Float[Tensor, "b *m"], seen: Seen, region: str | None, metric: str) -> Bool[Tensor, "b *s"]:
    """The mask of a region for maps of as many sides; one without a place inside where the batch has none.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        region: which of them; the union of all without a name.
        metric: who asks, for the message.

    Raises:
        ValueError: for a region that the batch does not have, or maps of another number of sides than the image has.
    """
    inside = known_region(seen, region)
    if inside is None:
        return torch.zeros_like(heat, dtype=torch.bool)
    refuse_fewer_sides(heat, inside, metric, seen.layer)
    return inside


def refuse_fewer_sides(heat: Float[Tensor, "b *m"], inside: Bool[Tensor, "b *s"], asking: str, layer: str) -> None:
    """Refuse maps of another number of sides than the region has.

    Raises:
        ValueError: for such maps.
    """
    if heat.ndim != inside.ndim:
        raise ValueError(
            f"{asking} needs a map of as many sides as the image; at {layer!r} the map is {tuple(heat.shape)} "
            f"and the region {tuple(inside.shape)}. Name a layer whose map has them all, layer=..., "
            "or a method that keeps them, such as method='grad_cam'."
        )


def enlarged(heat: Float[Tensor, "b *m"], inside: Bool[Tensor, "b *s"], scaled: str = "positive") -> Float[Tensor, "b *s"]:
    """Maps linearly resized to the size of a region, and each scaled to [0, 1].

    Args:
        heat: raw maps.
        inside: the region.
        scaled: ``positive``, the positive part over its maximum, so that 0 stays no evidence; or ``minmax``, from the map's
            own minimum to its maximum, as benchmarks of localization have it.

    Raises:
        ValueError: for another scale.
    """
    large = resize(heat, inside.shape[1:])
    if scaled == "positive":
        return share_of_maximum(large)
    if scaled == "minmax":
        return min_max(large)
    raise ValueError(
        f"Maps are scaled to [0, 1] as scaled='positive' or scaled='minmax'; got {scaled!r}."
        f"{did_you_mean(str(scaled), ['positive', 'minmax'])}"
    )


def prefers(heat: Float[Tensor, "b *m"]) -> Bool[Tensor, "b"]:
    """Whether a map has a preference: finite everywhere, and not the same everywhere.

    Example:
        >>> prefers(torch.tensor([[0.0, 2.0], [2.0, 2.0], [torch.nan, 1.0]])).tolist()
        [True, False, False]
    """
    flat = heat.flatten(1)
    return flat.isfinite().all(1) & (flat.amax(1) > flat.amin(1))
