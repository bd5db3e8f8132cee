"""Maps on their images, scaled and ready to be drawn: what sheets, filmstrips and single overlays have in common.

b images, t targets, n maps, k of them shown, r regions, m map, s sides of the image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from lightning_cam.heat import has_evidence, rescale, value_range
from lightning_cam.render.overlay import Normalization
from lightning_cam.render.style import Style
from lightning_cam.render.views import displayable, flat, overlays, panels

_NO_EXTREMES = (torch.inf, -torch.inf)


@dataclass(frozen=True, eq=False)
class Cards:
    """The images of the maps that are shown.

    Attributes:
        base: one image a card, as it is drawn on.
        positions: which of the n maps have a card.
        style: how maps are shown.
        extremes: the smallest and largest value of the run so far, for ``Style(scale="run")``.
        regions: those of each card, to be drawn on it; None without any.
    """

    base: Shaped[Tensor, "k c *s"]
    positions: Sequence[int]
    style: Style
    extremes: tuple[float, float] = _NO_EXTREMES
    regions: Bool[Tensor, "k r *s"] | None = None

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

    def marked(self, regions: Mapping[str, Bool[Tensor, "b *s"]], maps: int) -> "Cards":
        """The cards with the images' regions drawn on them, where there are any and the style has outlines."""
        if not regions or not self.style.outlines:
            return self
        masks = torch.stack(list(regions.values()), 1)
        of_each = maps // len(masks)
        return replace(self, regions=masks[[position // of_each for position in self.positions]].to(self.base.device))

    def chosen(self, positions: Sequence[int]) -> "Cards":
        """The cards of these maps, in this order.

        Args:
            positions: among the n maps, each of one that has a card.
        """
        if list(positions) == list(self.positions):
            return self
        places = [list(self.positions).index(position) for position in positions]
        regions = None
        if self.regions is not None:
            regions = self.regions[places]
        return replace(self, base=self.base[places], positions=positions, regions=regions)

    def normalized(self, heat: Float[Tensor, "n *m"]) -> Float[Tensor, "k *m"]:
        """The maps shown, scaled to [0, 1] as the style says."""
        # over all maps, also those without a card: absent ones are NaN and do not count
        low, high = value_range(heat, self.style.norm, self.style.scale, self.extremes)
        # no evidence stays empty, also where zero lies between the extremes of other maps
        evident = has_evidence(heat.flatten(1)).reshape(-1, *[1] * (heat.ndim - 1))
        return rescale(heat.where(evident, torch.nan), low, high, self.style.neutral)[list(self.positions)]

    def panels(self, heat: Float[Tensor, "n *m"]) -> UInt8[Tensor, "k 3 y x"]:
        """What a sheet shows of each map: the style's panels."""
        return panels(self.base, self.normalized(heat), self.style, self.regions)

    def overlays(self, heat: Float[Tensor, "n *m"]) -> UInt8[Tensor, "k 3 *o"]:
        """Each map over its image at the image's size; of volumes every slice."""
        return overlays(self.base, self.normalized(heat), self.style)

    def pictures(self, heat: Float[Tensor, "n *m"]) -> UInt8[Tensor, "k 3 y x"]:
        """Each map over its image as one picture; of volumes the slices that hold the heat."""
        return flat(self.base, self.normalized(heat), self.style, self.regions)
