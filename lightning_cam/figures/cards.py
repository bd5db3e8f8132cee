"""Maps on their images, scaled and ready to be drawn: what sheets, filmstrips and single overlays have in common.

b images, t targets, n maps, k of them shown, m map, s sides of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from lightning_cam.heat import has_evidence, rescale, value_range
from lightning_cam.render.overlay import Normalization
from lightning_cam.render.style import Style
from lightning_cam.render.views import displayable, flat, overlays

_NO_EXTREMES = (torch.inf, -torch.inf)


@dataclass(frozen=True, eq=False)
class Cards:
    """The images of the maps that are shown.

    Attributes:
        base: one image a card, as it is drawn on.
        positions: which of the n maps have a card.
        style: how maps are shown.
        extremes: the smallest and largest value of the run so far, for ``Style(scale="run")``.
    """

    base: Shaped[Tensor, "k c *s"]
    positions: Sequence[int]
    style: Style
    extremes: tuple[float, float] = _NO_EXTREMES

    @classmethod
    def of(
        cls,
        images: Shaped[Tensor, "b ..."],
        positions: Sequence[int],
        maps: int,
        style: Style,
        normalization: Normalization | None,
        extremes: tuple[float, float] = _NO_EXTREMES,
    ) -> "Cards":
        """Cards for some of the maps of these images.

        Args:
            images: the model's input.
            positions: which maps are shown.
            maps: how many maps there are in all, as many for each image.
            style: how they are shown.
            normalization: what is undone for showing.
            extremes: of the run so far.
        """
        base = displayable(images, normalization, style.bands).repeat_interleave(maps // len(images), 0)
        return cls(base[list(positions)], positions, style, extremes)

    def normalized(self, heat: Float[Tensor, "n *m"]) -> Float[Tensor, "k *m"]:
        """The maps shown, scaled to [0, 1] as the style says."""
        # over all maps, also those without a card: absent ones are NaN and do not count
        low, high = value_range(heat, self.style.norm, self.style.scale, self.extremes)
        # no evidence stays empty, also where zero lies between the extremes of other maps
        evident = has_evidence(heat.flatten(1)).reshape(-1, *[1] * (heat.ndim - 1))
        return rescale(heat.where(evident, torch.nan), low, high, self.style.neutral)[list(self.positions)]

    def overlays(self, heat: Float[Tensor, "n *m"]) -> UInt8[Tensor, "k 3 *o"]:
        """Each map over its image at the image's size; of volumes every slice."""
        return overlays(self.base, self.normalized(heat), self.style)

    def pictures(self, heat: Float[Tensor, "n *m"]) -> UInt8[Tensor, "k 3 y x"]:
        """Each map over its image as one picture; of volumes the slices that hold the heat."""
        return flat(self.base, self.normalized(heat), self.style)
