"""The raw maps of a run so far, from which the filmstrip is drawn; small, and kept in checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_MOST = 64


@dataclass
class History:
    """Maps of one layer and method over a run.

    Raw values at layer resolution are kept, so every column can be shown at one scale. Beyond 64 looks those are dropped
    whose neighbours are closest, never the first or the last.
    """

    titles: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    heats: list[Float[Tensor, "b *m"]] = field(default_factory=list)
    lowest: float = torch.inf
    highest: float = -torch.inf

    def add(self, title: str, heat: Float[Tensor, "b *m"], low: float, high: float) -> None:
        """Add one look; maps of another shape (another batch or input size) begin anew."""
        if self.heats and self.heats[-1].shape != heat.shape:
            self.titles, self.places, self.heats = [], [], []
            self.lowest, self.highest = torch.inf, -torch.inf
        self.titles.append(title)
        self.places.append(self.places[-1] + 1 if self.places else 0)
        self.heats.append(heat)
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        if len(self.heats) > _MOST:
            gaps = [self.places[i + 1] - self.places[i - 1] for i in range(1, _MOST)]
            crowded = gaps.index(min(gaps)) + 1
            for kept in (self.titles, self.places, self.heats):
                del kept[crowded]

    def spread(self, columns: int) -> list[int]:
        """Positions of at most so many looks: the first, the last, and between them evenly over the run."""
        last = len(self.places) - 1
        if last < columns:
            return list(range(last + 1))
        wanted = [self.places[-1] * i / (columns - 1) for i in range(columns)]
        nearest = {min(range(last + 1), key=lambda i: abs(self.places[i] - place)) for place in wanted}
        return sorted(nearest)

    def state(self) -> dict[str, Any]:
        """Plain values and CPU tensors, as a checkpoint may hold them."""
        return {
            "titles": list(self.titles),
            "places": list(self.places),
            "heats": [heat.cpu() for heat in self.heats],
            "extremes": [self.lowest, self.highest],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "History":
        """The history that a checkpoint holds."""
        return cls(list(state["titles"]), list(state["places"]), list(state["heats"]), *state["extremes"])
