"""The floor of drift, measured in the run: how far maps move by what should not move them. b samples, t targets, m map."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
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


Moved = dict[str, dict[str, Tensor]]  # cosine distances [b t] by map and disturbance


@dataclass(frozen=True)
class Rows:
    """Some of the samples that the floor is measured of.

    Attributes:
        start: the first of them.
        stop: the one behind the last.
        count: of how many.
    """

    start: int
    stop: int
    count: int

    def within(self, samples: slice) -> slice:
        """Which of these rows some of all samples are."""
        start, stop = max(samples.start, self.start), min(samples.stop, self.stop)
        return slice(start - self.start, max(start, stop) - self.start)


@dataclass
class NoiseFloor:
    """How far each map of a run moves by each disturbance: all at the first look, then a few at every look, in turn.

    Attributes:
        moved: cosine distances by map and disturbance, NaN where not measured; on the CPU.
        turn: how many looks measured, which tells whose turn it is.
        dropped: disturbances that this model cannot be run with.
        before: maps and their classes some batches before the next look, by tag; on their device.
        first: the sample with which these begin.
    """

    moved: Moved = field(default_factory=dict)
    turn: int = 0
    dropped: set[str] = field(default_factory=set)
    before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    first: int = 0

    def begin(self, count: int) -> None:
        """Begin a look: all is measured anew where a run goes on with other samples, or the look before asked for that."""
        rows = {len(values) for kinds in self.moved.values() for values in kinds.values()}
        if not self.turn or rows != {count}:
            self.moved, self.turn = {}, 0

    def fits(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether it is of maps of these shapes [b t], by tag: a run may go on with other targets or methods."""
        known = {tag: tuple(values.shape) for tag, kinds in self.moved.items() for values in kinds.values()}
        return all(known.get(tag) == tuple(shape) for tag, shape in shapes.items())

    def measure(
        self,
        forward: Forward,
        plans: Sequence[MapPlan],
        heats: Mapping[str, Float[Tensor, "n t *m"]],
        rows: Rows,
    ) -> list[str]:
        """Measure of some of the samples what is due at this look.

        Args:
            forward: their look, its session open.
            plans: its maps.
            heats: the maps by their tags.
            rows: which samples these are.

        Returns:
            what went wrong, in words.
        """
        kinds = [kind for kind in DISTURBANCES if kind.name not in self.dropped and kind.applies(forward)]
        if not heats:
            return []
        failures = []
        if rows.start == 0 and rows.stop == rows.count and not self.fits({tag: heat.shape[:2] for tag, heat in heats.items()}):
            self.moved, self.turn = {}, 0
        for kind, block in self._due(kinds, rows.count):
            samples = rows.within(block)
            if samples.start == samples.stop:
                continue
            try:
                self._measure(forward, plans, heats, kind, (rows, samples))
            except (MemoryError, torch.OutOfMemoryError):  # of fewer samples at once it may come off
                raise
            except Exception as error:  # a model may not bear another precision, nor a method
                self.dropped.add(kind.name)
                failures.append(f"{kind.name}: {error}")
        return failures

    def _due(self, kinds: Sequence[Disturbance], count: int) -> list[tuple[Disturbance, slice]]:
        """What is measured at this look: at the first everything, later a sixteenth of the samples by one disturbance."""
        block = math.ceil(count / _SIXTEENTH)
        blocks = math.ceil(count / block)
        if not self.turn:
            return [(kind, slice(0, count)) for kind in kinds]
        # of fewer samples than sixteen one is more than a sixteenth, and its turn comes at fewer looks
        turn, rest = divmod(self.turn, math.ceil(_SIXTEENTH / count))
        if rest or not kinds:
            return []
        at, which = divmod((turn - 1) % (blocks * len(kinds)), len(kinds))
        return [(kinds[which], slice(at * block, min((at + 1) * block, count)))]

    def keep(self, maps: Mapping[str, tuple[Tensor, Tensor]], first: int) -> None:
        """Keep maps and their classes that were taken some batches before the next look, from this sample on."""
        self.before, self.first = dict(maps), first

    def compare(self, records: Mapping[str, Record], rows: Rows) -> None:
        """Measure how far maps moved since they were kept, at the same class; elsewhere the floor stays as it is."""
        kept = slice(rows.start - self.first, rows.stop - self.first)
        for tag, (heat, classes) in self.before.items():
            n, t = (0, 0) if tag not in records else records[tag].score.shape
            if kept.start < 0 or kept.stop > len(heat) or heat.shape[1] < t or not n:
                continue
            record = records[tag].first(rows.stop - rows.start)
            distance = _distance(heat[kept, :t], record.heat).float().cpu()
            same = classes[kept, :t] == record.predictions.classes
            floor = self.of(tag)
            known = math.nan if floor is None else floor[rows.start : rows.stop, :t]
            self._set(tag, _BATCHES, rows, distance.where(same, known))

    def part(self, rows: Rows) -> Moved:
        """What is known of some of the samples."""
        samples = slice(rows.start, rows.stop)
        return {tag: {kind: values[samples].clone() for kind, values in kinds.items()} for tag, kinds in self.moved.items()}

    def join(self, parts: Sequence[tuple[Rows, Moved]], dropped: Iterable[str], shapes: Mapping[str, Sequence[int]]) -> None:
        """End a look: take up what was measured of parts of the samples, wherever that was.

        Args:
            parts: of which samples, and what.
            dropped: disturbances that failed anywhere.
            shapes: [b t] of all maps by tag.
        """
        self.dropped |= set(dropped)
        for rows, moved in parts:
            for tag, kinds in moved.items():
                for kind, values in kinds.items():
                    self._set(tag, kind, rows, values)
        self.before = {}
        self.turn += 1
        if not self.moved or not self.fits(shapes):
            self.turn = 0

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
        where: tuple[Rows, slice],
    ) -> None:
        rows, samples = where
        session = forward.session.part(samples, kind.context(forward.session.context, forward.images))
        disturbed = session.forward_again(forward, kind.images(forward.images[samples]), samples)
        for plan in plans:
            if plan.tag not in heats:
                continue
            plain = heats[plan.tag]
            stride = forward.images.shape[-1] / plain.shape[-1]
            moved = kind.back(plan.heat(disturbed), stride).to(plain)
            distance = _distance(plain[samples], moved).float().cpu()
            measured = Rows(rows.start + samples.start, rows.start + samples.stop, rows.count)
            self._set(plan.tag, kind.name, measured, distance)

    def _set(self, tag: str, kind: str, rows: Rows, values: Float[Tensor, "n t"]) -> None:
        """Write distances of some samples, of which parts may differ in how many targets they have."""
        kinds = self.moved.setdefault(tag, {})
        t = values.shape[1]
        kinds.setdefault(kind, torch.full((rows.count, t), torch.nan))
        t = max(values.shape[1] for values in kinds.values())
        for name, known in kinds.items():
            kinds[name] = F.pad(known, (0, t - known.shape[1]), value=torch.nan)
        kinds[kind][rows.start : rows.stop, : values.shape[1]] = values


def _distance(one: Float[Tensor, "n t *m"], other: Float[Tensor, "n t *m"]) -> Float[Tensor, "n t"]:
    """As drift compares them: large maps averaged down."""
    distance = cosine_distance(condense(one.flatten(0, 1)), condense(other.flatten(0, 1)))
    unflat: Tensor = distance.unflatten(0, one.shape[:2])
    return unflat
