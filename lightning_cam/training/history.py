"""The maps of a run so far, for the filmstrip and for metrics that compare; small, on the CPU, and kept in checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.change.past import PastLook, of_no_class, stored
from lightning_cam.heat import condense
from lightning_cam.record import Earlier, Factors, Moment

_MOST_LOOKS = 64


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
    factors: list[Factors] = field(default_factory=list)  # of each target's maps at the first look; none if they have none
    noise: Float[Tensor, "b t"] | None = None  # how far each map moves by what should not move it; NaN where not measured

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
        moment: Moment | None = None,
    ) -> None:
        """Add one look's condensed maps; those of another shape (another batch or input size) begin anew.

        Args:
            title: the column's heading.
            heat: maps as ``condense`` leaves them.
            low: the smallest value before condensing.
            high: the largest.
            classes: the class that each map explains, -1 where it is of none.
            moment: when, on the tracker's axis and in epochs.
        """
        epoch = None
        if moment is not None:
            self.last_step, epoch = moment.step, moment.epoch
        if self.looks and self.looks[-1].heat.shape != heat.shape:
            self.clear()
        place = self.looks[-1].place + 1 if self.looks else 0
        self.looks.append(replace(stored(title, place, heat, classes), epoch=epoch))
        self.lowest = min(self.lowest, low)
        self.highest = max(self.highest, high)
        if len(self.looks) > _MOST_LOOKS:
            del self.looks[self._most_crowded()]

    def clear(self) -> None:
        """Forget every look."""
        self.looks = []
        self.lowest, self.highest = torch.inf, -torch.inf
        self.best, self._best_value = None, torch.nan
        self.factors = []

    def rows(self, samples: slice, count: int, targets: int) -> "History":
        """The same of some of so many samples, of each the first targets; what is added to it is not added here.

        Where it is of another number of samples, or has fewer targets, there is nothing that could be compared.
        """
        noise = None if self.noise is None else self.noise[samples, :targets]
        if not self.looks:
            return History(noise=noise)
        width, rest = divmod(len(self.looks[-1].heat), count)
        if rest or width < targets:
            return History(noise=noise)
        first, end, _ = samples.indices(count)
        maps: slice | Tensor = slice(first * width, end * width)
        if width > targets:
            # of parts of a batch one may have fewer targets than all together
            maps = torch.arange(count * width).unflatten(0, (count, width))[samples, :targets].flatten()
        return replace(
            self,
            looks=[look.rows(maps) for look in self.looks],
            factors=[Factors(part.activation[samples], part.weight[samples]) for part in self.factors],
            noise=noise,
        )

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
        epochs = tuple(look.epoch for look in self.looks)
        noise = None
        if self.noise is not None:
            noise = self.noise[:, position].to(like)
        if not past:
            return Earlier(now, looks=self.looks[-1].place, epochs=epochs, noise=noise)

        best = next((look for look in past if look.place == self.best), None)
        return Earlier(
            now,
            maps(past[0]),
            maps(past[-1]),
            maps(best),
            self.looks[-1].place,
            torch.stack([look.values_of(present) for look in past]).unflatten(1, like.shape[:2])[:, :, position].to(like),
            epochs,
            self._factors_of(position, like),
            noise,
        )

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
            "epochs": [look.epoch for look in self.looks],
            "changes": [look.change for look in self.looks],
            "jumped": [look.jumped for look in self.looks],
            "factors": [[part.activation, part.weight] for part in self.factors],
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
            classes = state.get("classes", [of_no_class(heat) for heat in heats])
            later = [state.get(name, [None] * len(heats)) for name in ("epochs", "changes", "jumped")]
            kept = zip(titles, places, heats, state["scales"], classes, *later, strict=True)
            looks = [PastLook(*fields) for fields in kept]
        else:
            looks = [stored(title, place, condense(heat)) for title, place, heat in zip(titles, places, heats, strict=True)]
        best, best_value = state.get("best", [None, torch.nan])
        lowest, highest = state["extremes"]
        factors = [Factors(*part) for part in state.get("factors", [])]
        return cls(looks, lowest, highest, best, best_value, state.get("step"), factors)

    def _factors_of(self, position: int, like: Tensor) -> Factors | None:
        if not self.factors:
            return None
        part = self.factors[position]
        return Factors(part.activation.to(like.device), part.weight.to(like.device))

    def _most_crowded(self) -> int:
        """The position whose neighbours are closest, other than the ends and the best."""
        places = [look.place for look in self.looks]
        inner = [i for i in range(1, len(places) - 1) if places[i] != self.best]
        return min(inner, key=lambda i: places[i + 1] - places[i - 1])
