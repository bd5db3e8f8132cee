"""The maps of a run so far, for the filmstrip and for metrics that compare; small, on the CPU, and kept in checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.heat import condense
from lightning_cam.record import Earlier

_MOST_LOOKS = 64
_EXACT_CELLS = 512  # a map of more cells is kept in half precision: 64 looks at sixteen samples then take 2 MiB at most


@dataclass(frozen=True, eq=False)
class PastLook:
    """What is kept of a look: its heading, its number, its maps, whose values are ``heat * scale``, and what they explain.

    Attributes:
        classes: the class that each map explains, -1 where it is of none, or not known.
    """

    title: str
    place: int
    heat: Float[Tensor, "n *m"]
    scale: float
    classes: Int[Tensor, "n"]

    @property
    def values(self) -> Float[Tensor, "n *m"]:
        """The maps in single precision."""
        if self.heat.dtype == torch.float32:
            return self.heat
        return self.heat.float() * self.scale

    def values_of(self, classes: Int[Tensor, "n"]) -> Float[Tensor, "n *m"]:
        """The maps in single precision; NaN where another class than these was explained."""
        other = (self.classes != classes) & (self.classes >= 0) & (classes >= 0)
        return self.values.masked_fill(other.reshape(-1, *[1] * (self.heat.ndim - 1)), torch.nan)


@dataclass
class History:
    """Maps of one layer and method over a run; n maps, the targets of all samples.

    Raw values are kept, so that every column of a filmstrip can be shown at one scale; of maps with more than 1024 cells only
    averages. Beyond 64 looks those are dropped whose neighbours are closest, never the first, the last or the best.
    """

    looks: list[PastLook] = field(default_factory=list)
    # of all looks there were, also of those that are dropped: a scale must not change when a column goes
    lowest: float = torch.inf
    highest: float = -torch.inf
    best: int | None = None  # the place of the look with the best value of the metric that was rated

    _best_value: float = torch.nan
    last_step: int | None = None  # of the last look, on the tracker's axis

    @property
    def titles(self) -> list[str]:
        """The headings of the looks."""
        return [look.title for look in self.looks]

    @property
    def heats(self) -> list[Float[Tensor, "n *m"]]:
        """The maps of the looks."""
        return [look.values for look in self.looks]

    def add(
        self,
        title: str,
        heat: Float[Tensor, "n *m"],
        low: float,
        high: float,
        classes: Int[Tensor, "n"] | None = None,
        step: int | None = None,
    ) -> None:
        """Add one look's condensed maps; those of another shape (another batch or input size) begin anew.

        Args:
            title: the column's heading.
            heat: maps as ``condense`` leaves them.
            low: the smallest value before condensing.
            high: the largest.
            classes: the class that each map explains, -1 where it is of none.
            step: the look's place on the tracker's axis.
        """
        self.last_step = step
        if self.looks and self.looks[-1].heat.shape != heat.shape:
            self.clear()
        place = self.looks[-1].place + 1 if self.looks else 0
        self.looks.append(_stored(title, place, heat, classes))
        self.lowest = min(self.lowest, low)
        self.highest = max(self.highest, high)
        if len(self.looks) > _MOST_LOOKS:
            del self.looks[self._most_crowded()]

    def clear(self) -> None:
        """Forget every look."""
        self.looks = []
        self.lowest, self.highest = torch.inf, -torch.inf
        self.best, self._best_value = None, torch.nan

    def rate(self, value: float, higher_is_better: bool) -> None:
        """Say how good the last look is; the best so far is kept."""
        if not self.looks or value != value:
            return
        better = value > self._best_value if higher_is_better else value < self._best_value
        if self.best is None or better:
            self.best, self._best_value = self.looks[-1].place, value

    def earlier(self, position: int, like: Float[Tensor, "b t *m"]) -> Earlier:
        """One target's maps at the last look, which is the present one, and at those before; where and as its maps are.

        Where an earlier look explained another class, its map is NaN.
        """
        if not self.looks:
            return Earlier()
        past = self.looks[:-1]
        present = self.looks[-1].classes

        def maps(look: PastLook | None) -> Tensor | None:
            if look is None:
                return None
            values: Tensor = look.values_of(present).unflatten(0, like.shape[:2])
            return values[:, position].to(like)

        now = maps(self.looks[-1])
        if not past:
            return Earlier(now, looks=self.looks[-1].place)

        best = next((look for look in past if look.place == self.best), None)
        return Earlier(now, maps(past[0]), maps(past[-1]), maps(best), self.looks[-1].place)

    def spread(self, columns: int) -> list[int]:
        """Positions of at most so many looks: the first, the last, and between them evenly over the run."""
        places = [look.place for look in self.looks]
        last = len(places) - 1
        if last < columns:
            return list(range(last + 1))
        wanted = [places[-1] * i / (columns - 1) for i in range(columns)]
        nearest = {min(range(last + 1), key=lambda i: abs(places[i] - place)) for place in wanted}
        return sorted(nearest)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and CPU tensors, as a checkpoint may hold them."""
        return {
            "titles": self.titles,
            "places": [look.place for look in self.looks],
            "heats": [look.heat for look in self.looks],
            "scales": [look.scale for look in self.looks],
            "classes": [look.classes for look in self.looks],
            "extremes": [self.lowest, self.highest],
            "best": [self.best, self._best_value],
            "step": self.last_step,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "History":
        """The history that a checkpoint holds.

        Those of the second layout held no classes; those of the first no scales either, and maps of any size.
        """
        titles, places, heats = state["titles"], state["places"], state["heats"]
        if "scales" in state:
            classes = state.get("classes", [_of_no_class(heat) for heat in heats])
            looks = [PastLook(*fields) for fields in zip(titles, places, heats, state["scales"], classes, strict=True)]
        else:
            looks = [_stored(title, place, condense(heat)) for title, place, heat in zip(titles, places, heats, strict=True)]
        best, best_value = state.get("best", [None, torch.nan])
        lowest, highest = state["extremes"]
        return cls(looks, lowest, highest, best, best_value, state.get("step"))

    def _most_crowded(self) -> int:
        """The position whose neighbours are closest, other than the ends and the best."""
        places = [look.place for look in self.looks]
        inner = [i for i in range(1, len(places) - 1) if places[i] != self.best]
        return min(inner, key=lambda i: places[i + 1] - places[i - 1])


def _stored(title: str, place: int, heat: Float[Tensor, "n *m"], classes: Int[Tensor, "n"] | None = None) -> PastLook:
    """Single precision for small maps; for others half, scaled so that neither large nor small values are lost."""
    heat = heat.cpu().float()
    classes = _of_no_class(heat) if classes is None else classes.cpu().int()
    if heat[0].numel() <= _EXACT_CELLS:
        return PastLook(title, place, heat, 1.0, classes)
    finite = heat[heat.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    scale = scale or 1.0  # maps of zeros
    return PastLook(title, place, (heat / scale).half(), scale, classes)


def _of_no_class(heat: Float[Tensor, "n *m"]) -> Int[Tensor, "n"]:
    return torch.full((len(heat),), -1, dtype=torch.int32)
