"""Where heat is suspicious: in a region, or outside the object. b batch, t targets, s sides of the image, m map."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.metrics.localization import energy_share
from lightning_cam.metrics.region import named_region, refuse_fewer_sides

_OBJECT = "object"  # a region of this name is what the model should look at


@dataclass(frozen=True, eq=False)
class Suspect:
    """Where heat is suspicious.

    Attributes:
        inside: the mask of the region named, or of what the heat should not leave.
        outside: whether heat outside of the mask is meant.
        words: where that is.
    """

    inside: Bool[Tensor, "b *s"]
    outside: bool
    words: str

    def shares(self, heat: Float[Tensor, "b t *m"], layer: str) -> Float[Tensor, "b"]:
        """Each sample's share of positive heat there, the mean over its targets; NaN without any heat, or any region.

        Raises:
            ValueError: for maps of fewer sides than the image has.
        """
        mask = self.inside.to(heat.device)
        refuse_fewer_sides(heat[:, 0], mask, "ShortcutAlarm", layer)
        inside = torch.stack([energy_share(heat[:, i], mask) for i in range(heat.shape[1])], 1).nanmean(1)
        if self.outside:
            return 1 - inside
        return inside

    def area(self) -> float:
        """Its share of the images that have the region."""
        covered = self.inside.flatten(1).double().mean(1)
        area = float(covered[covered > 0].mean())
        if self.outside:
            return 1 - area
        return area


def find_suspect(regions: Mapping[str, Bool[Tensor, "b *s"]], region: str | None) -> Suspect:
    """The region of that name; without a name all outside the region ``object``, or if there is none outside all regions.

    Raises:
        ValueError: for a region that the batch does not have, or a batch without any.
    """
    name = region
    if name is None and _OBJECT in regions:
        name = _OBJECT
    inside = named_region(regions, name)
    if inside is None:
        raise ValueError(
            "ShortcutAlarm compares the heat with regions, and the batch has none. Say where it holds boxes or masks: "
            f'CAMCallback(batch=Batch(regions={{"{region or _OBJECT}": "box"}})).'
        )
    if region is not None:
        return Suspect(inside, False, f"in the region {region!r}")
    if name is not None:
        return Suspect(inside, True, f"outside the region {name!r}")
    return Suspect(inside, True, f"outside the regions {', '.join(map(repr, regions))}")
