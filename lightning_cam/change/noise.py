"""The floor of drift, measured in the run: how far maps move by what should not move them. b samples, t targets, m map."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.change.disturbance import DISTURBANCES, Disturbance
from lightning_cam.heat import condense
from lightning_cam.methods.apply import MapPlan
from lightning_cam.metrics.comparison.direction import cosine_distance
from lightning_cam.record import Record

_SIXTEENTH = 16
_BATCHES = "batches"


@dataclass
class NoiseFloor:
    """How far each map of a run moves by each disturbance: all at the first look, then a few at every look, in turn.

    Attributes:
        moved: cosine distances by map and disturbance, NaN where not measured; on the CPU.
        turn: how many measurements there were, which tells whose turn it is.
        dropped: disturbances that this model cannot be run with.
        before: maps and their classes some batches before the next look, by tag; on their device.
    """

    moved: dict[str, dict[str, Float[Tensor, "b t"]]] = field(default_factory=dict)
    turn: int = 0
    dropped: set[str] = field(default_factory=set)
    before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def fit(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Begin anew where a run goes on with other samples or targets than it had: [b t] of each map by its tag."""
        for tag, kinds in self.moved.items():
            for values in kinds.values():
                if tag in shapes and values.shape != tuple(shapes[tag]):
                    self.moved, self.turn = {}, 0
                    return

    def measure(self, forward: Forward, plans: Sequence[MapPlan], heats: Mapping[str, Float[Tensor, "b t *m"]]) -> list[str]:
        """Measure what is due at this look.

        Args:
            forward: the look, its session open.
            plans: its maps.
            heats: the maps by their tags.

        Returns:
            what went wrong, in words.
        """
        b = len(forward.images)
        block = math.ceil(b / _SIXTEENTH)
        kinds = [kind for kind in DISTURBANCES if kind.name not in self.dropped and kind.applies(forward)]
        blocks = math.ceil(b / block)
        if not kinds or not heats:
            return []
        if not all(self.moved.get(tag) for tag in heats):  # a run may go on with other methods
            self.moved, self.turn = {}, 0
        # of fewer samples than sixteen one is more than a sixteenth, and its turn comes at fewer looks
        turn, rest = divmod(self.turn, math.ceil(_SIXTEENTH / b))
        at, which = divmod((turn - 1) % (blocks * len(kinds)), len(kinds))
        due = [(kinds[which], slice(at * block, min((at + 1) * block, b)))]
        if not self.turn:
            due = [(kind, slice(0, b)) for kind in kinds]
        elif rest:
            due = []
        self.turn += 1
        failures = []
        for kind, samples in due:
            try:
                self._measure(forward, plans, heats, kind, samples)
            except Exception as error:  # a model may not bear another precision, nor a method
                self.dropped.add(kind.name)
                failures.append(f"{kind.name}: {error}")
        return failures

    def keep(self, records: Sequence[Record]) -> None:
        """Keep maps that were taken some batches before the next look."""
        self.before = {record.tag: (record.heat, record.predictions.classes) for record in records}

    def compare(self, records: Mapping[str, Record]) -> None:
        """Measure how far maps moved since they were kept, at the same class; elsewhere the floor stays as it is."""
        for tag, (heat, classes) in self.before.items():
            b, t = (0, 0) if tag not in records else records[tag].score.shape
            if heat.shape[:2] < (b, t) or not b:
                continue
            distance = _distance(heat[:b], records[tag].heat).float().cpu()
            same = classes[:b] == records[tag].predictions.classes
            kinds = self.moved.setdefault(tag, {})
            known = kinds.get(_BATCHES, self.of(tag))
            kinds[_BATCHES] = distance.where(same, torch.nan if known is None else known)
        self.before = {}

    def of(self, tag: str) -> Float[Tensor, "b t"] | None:
        """The floor of each map, the median over the disturbances; NaN where one is still to come, None where none was."""
        moved = self.by_kind(tag)
        if not moved:
            return None
        # of an even number of them the mean of the middle ones, which median does not give
        return torch.stack(moved).quantile(0.5, dim=0)

    def by_kind(self, tag: str) -> list[Float[Tensor, "b t"]]:
        """How far each map moves by each disturbance that this model bears."""
        return [values for name, values in self.moved.get(tag, {}).items() if name not in self.dropped]

    def state_dict(self) -> dict[str, Any]:
        """Plain values and CPU tensors, as a checkpoint may hold them."""
        return {"moved": {tag: dict(kinds) for tag, kinds in self.moved.items()}, "turn": self.turn, "dropped": [*self.dropped]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "NoiseFloor":
        """The floor that a checkpoint holds; older ones hold none."""
        if not state:
            return cls()
        return cls(dict(state["moved"]), state["turn"], set(state["dropped"]))

    def _measure(
        self,
        forward: Forward,
        plans: Sequence[MapPlan],
        heats: Mapping[str, Tensor],
        kind: Disturbance,
        samples: slice,
    ) -> None:
        session = forward.session.part(samples, kind.context(forward.session.context, forward.images))
        disturbed = session.forward_again(forward, kind.images(forward.images[samples]), samples)
        for plan in plans:
            if plan.tag not in heats:
                continue
            plain = heats[plan.tag]
            stride = forward.images.shape[-1] / plain.shape[-1]
            moved = kind.back(plan.heat(disturbed), stride).to(plain)
            distance = _distance(plain[samples], moved)
            kinds = self.moved.setdefault(plan.tag, {})
            if kind.name not in kinds:
                kinds[kind.name] = torch.full(plain.shape[:2], torch.nan)
            kinds[kind.name][samples] = distance.float().cpu()


def _distance(one: Float[Tensor, "n t *m"], other: Float[Tensor, "n t *m"]) -> Float[Tensor, "n t"]:
    """As drift compares them: large maps averaged down."""
    distance = cosine_distance(condense(one.flatten(0, 1)), condense(other.flatten(0, 1)))
    unflat: Tensor = distance.unflatten(0, one.shape[:2])
    return unflat
