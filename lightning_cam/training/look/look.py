"""Look: one look of a run, from the forwards of its parts to the Records of the whole batch. b batch, t targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.change.noise import NoiseFloor
from lightning_cam.concepts import Concepts
from lightning_cam.data.batch import FixedBatch
from lightning_cam.record import Event, Moment, Record
from lightning_cam.registry import Entry
from lightning_cam.training.history import History
from lightning_cam.training.look.evidence import with_evidence
from lightning_cam.training.look.join import at_the_centre, join_maps, join_records, rate, remember, with_numbers_of_all
from lightning_cam.training.look.moves import note_moves
from lightning_cam.training.look.part import Attempt, Map, Part
from lightning_cam.training.look.parts import PartShares, ShareRow
from lightning_cam.training.look.result import LookResult
from lightning_cam.training.notices import Notices


@dataclass(eq=False)
class Look:
    """What one look gathers.

    Attributes:
        moment: when.
        metrics: what is measured of its maps.
        histories: the run so far by the maps' tags; empty outside a run.
        noise: how far maps move by what should not move them.
        shares: what moved them, by parts of the net.
        count: how many samples there are.
        maps: of each part, what the run keeps, by tag.
        parts: the Records of each part by tag.
        concepts: of each layer, of the first part.
        centre: what the metrics of regions give for a bump in the middle, once a run.
        is_first: whether it is the first look of a run.
        events: what moved more than noise, once the Records are joined.
    """

    moment: Moment
    metrics: Sequence[Entry[Any]]
    histories: dict[str, History]
    noise: NoiseFloor
    shares: PartShares
    count: int
    maps: list[Mapping[str, Map]] = field(default_factory=list)
    parts: list[Mapping[str, Record]] = field(default_factory=list)
    concepts: Sequence[Concepts] = ()
    centre: Mapping[str, float] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.is_first = self.moment.fitting and not self.histories

    def add(self, part: Part, notices: Notices) -> None:
        """Compute a part, while its session is open."""
        # of the metrics that read it, what maps are made of is taken once, at the first look
        first = self.is_first and self._reads("factors")
        maps = part.maps(self.moment, first)
        # what is looked at outside a run may be other samples
        if self.moment.fitting and not part.samples.start:
            self.noise.fit({tag: made.record.score.shape for tag, made in maps.items()})
        if self.moment.fitting and self._reads("noise") and not part.samples.start:
            heats = {tag: made.record.heat for tag, made in maps.items()}
            for failure in self.noise.measure(part.forward, part.plans, heats):
                notices.say(f"the floor of drift is measured without {failure}")
            self.noise.compare({tag: made.record for tag, made in maps.items()})
        apart = [metric for metric in self.metrics if "batch" not in _reads(metric)]
        runs = self._runs(maps)
        records = part.numbers(maps, apart, runs)
        shares = part.attempt("what moved, by parts", self.shares.of, part, maps, runs) or {}
        for tag, values in shares.items():
            records[tag] = replace(records[tag], values={**records[tag].values, **values})
        self.maps.append(maps)
        self.parts.append(with_evidence(records, part.forward, notices))

    def records(self, batch: FixedBatch, attempt: Attempt) -> list[Record]:
        """The Records of the whole batch, which the run remembers from now on."""
        records = join_records(self.parts)
        if self.moment.fitting:
            remember(records, join_maps(self.maps), self.histories)
            for record in records:
                history = self.histories[record.tag]
                history.noise = self._noise_of(record.tag, record.score.shape[1])
                # of a run that asks for none now, what a checkpoint holds may be of other samples
                moved = self.noise.by_kind(record.tag) if self._reads("noise") else []
                moved = [padded(values, record.score.shape) for values in moved]
                self.events += note_moves(record, history, moved)
        records = with_numbers_of_all(records, self.metrics, batch, self.histories, attempt)
        if self.is_first and records:
            # the same at every look, of whichever map
            self.centre = attempt("the centre-Gaussian", at_the_centre, records[0], self.metrics, batch) or {}
        if self.moment.fitting:
            rate(records, self.metrics, self.histories)
            for record in records:
                self.shares.keep(record)
        return records

    def result(self, batch: FixedBatch, records: Sequence[Record], pictures: int | None) -> LookResult:
        """All that the look computed, of which so many samples are shown."""
        return LookResult(
            self.moment, batch, records, self.concepts, self.events, self._share_rows(), pictures, self.centre, self.metrics
        )

    def _share_rows(self) -> dict[str, list[ShareRow]]:
        """The run's shares by parts of the net so far, by tag, where this look has some."""
        if self.shares.changes is None:
            return {}
        return {tag: list(rows) for tag, rows in self.shares.rows.items()}

    def _runs(self, maps: Mapping[str, Map]) -> dict[str, History]:
        """The run up to this look, not yet this look in it."""
        if not self.moment.fitting:
            return {}
        runs = {}
        for tag, made in maps.items():
            runs[tag] = self.histories.get(tag, History())
            runs[tag].noise = self._noise_of(tag, made.record.score.shape[1])
        return runs

    def _noise_of(self, tag: str, targets: int) -> Float[Tensor, "b t"] | None:
        """The floor of each sample; it is measured of the first part, and so of those that are shown."""
        floor = self.noise.of(tag) if self._reads("noise") else None
        if floor is None:
            return None
        return padded(floor, (self.count, targets))

    def _reads(self, what: str) -> bool:
        return any(what in _reads(metric) for metric in self.metrics)


def padded(values: Float[Tensor, "k s"], shape: Sequence[int]) -> Float[Tensor, "b t"]:
    """Numbers of the first samples and targets, with NaN for all others; what is beyond the shape is left out."""
    b, t = shape
    whole = values.new_full((b, t), torch.nan)
    known = values[:b, :t]
    whole[: known.shape[0], : known.shape[1]] = known
    return whole


def _reads(metric: Entry[Any]) -> Sequence[str]:
    reads: Sequence[str] = metric.facts.get("reads", ())
    return reads
