"""Look: one look of a run, from the forwards of its parts to the Records of the whole batch. b batch, t targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.change.noise import NoiseFloor
from lightning_cam.data.batch import FixedBatch
from lightning_cam.record import Event, Moment, Record
from lightning_cam.registry import Entry
from lightning_cam.targets.state import join
from lightning_cam.targets.target import Target
from lightning_cam.training.chunk import Attempt, floor_count
from lightning_cam.training.concept_tracker import ConceptTracker
from lightning_cam.training.history import History
from lightning_cam.training.look.computed import Computed
from lightning_cam.training.look.evidence import with_evidence
from lightning_cam.training.look.join import at_the_centre, join_maps, join_records, rate, remember, with_numbers_of_all
from lightning_cam.training.look.moves import note_moves
from lightning_cam.training.look.part import Map, Part
from lightning_cam.training.look.parts import PartShares, ShareRow
from lightning_cam.training.look.result import LookResult
from lightning_cam.training.notices import Notices


@dataclass(frozen=True, eq=False)
class Run:
    """What a look is compared with, and adds to.

    Attributes:
        target: which number of each sample is explained, with what it took up.
        histories: the run so far by the maps' tags; empty outside a run.
        noise: how far maps move by what should not move them.
        shares: what moved them, by parts of the net.
        concepts: where each concept was.
    """

    target: Target
    histories: dict[str, History]
    noise: NoiseFloor
    shares: PartShares
    concepts: ConceptTracker


@dataclass(eq=False)
class Look:
    """What one look gathers.

    Attributes:
        moment: when.
        metrics: what is measured of its maps.
        batch: the samples.
        run: what it is compared with.
        pictures: how many of the samples are shown, the first; None for all.
        centre: what the metrics of regions give for a bump in the middle, once a run.
        is_first: whether it is the first look of a run.
        events: what moved more than noise, once the Records are joined.
    """

    moment: Moment
    metrics: Sequence[Entry[Any]]
    batch: FixedBatch
    run: Run
    pictures: int | None = None
    centre: Mapping[str, float] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.histories, self.noise, self.shares = self.run.histories, self.run.noise, self.run.shares
        self.is_first = self.moment.fitting and not self.histories
        if self._has_floor:
            self.noise.begin(floor_count(len(self.batch), self.pictures))

    def begin_shares(self, model: nn.Module) -> str:
        """Find what of the model moved since the first look, where that is asked for; in words why there is nothing."""
        return self.shares.begin(self.moment, model, self.histories)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.batch)

    def compute(self, part: Part, notices: Notices) -> Computed:
        """What is computed of a part, while its session is open."""
        # of the metrics that read it, what maps are made of is taken once, at the first look
        first = self.is_first and self._reads("factors")
        maps = part.maps(self.moment, first)
        if self._has_floor:
            part.attempt("the floor of drift", self._measure_noise, part, maps, notices)
        apart = [metric for metric in self.metrics if "batch" not in _reads(metric)]
        runs = self._runs(part, maps)
        records = part.numbers(maps, apart, runs)
        shares = part.attempt("what moved, by parts", self.shares.of, part, maps, runs) or {}
        for tag, values in shares.items():
            records[tag] = replace(records[tag], values={**records[tag].values, **values})
        records = with_evidence(records, part.forward, notices)
        rows = part.chunk.rows
        moved, dropped = (self.noise.part(rows), [*self.noise.dropped]) if self._has_floor else ({}, [])
        return Computed(part.samples, maps, records, rows, moved, dropped)

    def _records(self, parts: Sequence[Computed], attempt: Attempt) -> list[Record]:
        """The Records of the whole batch."""
        batch = self.batch
        records = join_records([part.records for part in parts])
        if self._has_floor:
            known = [(part.rows, part.moved) for part in parts if part.rows.start < part.rows.stop]
            self.noise.join(known, {name for part in parts for name in part.dropped}, _shapes(parts))
        if self.moment.fitting:
            remember(records, join_maps([part.maps for part in parts]), self.histories)
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

    def result(self, parts: Sequence[Computed], attempt: Attempt) -> LookResult:
        """All that the look computed, in its parts, which the run remembers from now on."""
        parts = sorted(parts, key=lambda part: part.samples.start)
        if self.moment.fitting:
            join(self.run.target, [part.target for part in parts])
        return LookResult(
            moment=self.moment,
            batch=self.batch,
            records=self._records(parts, attempt),
            concepts=parts[0].concepts,
            events=self.events,
            shares=self._share_rows(),
            pictures=self.pictures,
            centre=self.centre,
            metrics=self.metrics,
        )

    @property
    def _has_floor(self) -> bool:
        # what is looked at outside a run may be other samples
        return self.moment.fitting and self._reads("noise")

    def _measure_noise(self, part: Part, maps: Mapping[str, Map], notices: Notices) -> None:
        """Measure the floor of these samples, as far as it is theirs and due."""
        rows = part.chunk.rows
        if rows.start == rows.stop:
            return
        heats = {tag: made.record.heat for tag, made in maps.items()}
        for failure in self.noise.measure(part.forward, part.plans, heats, rows):
            notices.say(f"the floor of drift is measured without {failure}")
        self.noise.compare({tag: made.record for tag, made in maps.items()}, rows)

    def _share_rows(self) -> dict[str, list[ShareRow]]:
        """The run's shares by parts of the net so far, by tag, where this look has some."""
        if self.shares.changes is None:
            return {}
        return {tag: list(rows) for tag, rows in self.shares.rows.items()}

    def _runs(self, part: Part, maps: Mapping[str, Map]) -> dict[str, History]:
        """The run up to this look, not yet this look in it."""
        if not self.moment.fitting:
            return {}
        runs = {}
        for tag, made in maps.items():
            runs[tag] = self.histories.get(tag, History())
            t = made.record.score.shape[1]
            runs[tag].noise = self._noise_of(tag, t)
            # whether it was measured of others, another process may know; of these it was not
            if self._has_floor and part.samples.start >= part.chunk.count:
                runs[tag].noise = torch.full((self.count, t), torch.nan)
        return runs

    def _noise_of(self, tag: str, targets: int) -> Float[Tensor, "b t"] | None:
        """The floor of each sample; it is measured of the first part, and so of those that are shown."""
        floor = self.noise.of(tag) if self._reads("noise") else None
        if floor is None:
            return None
        return padded(floor, (self.count, targets))

    def _reads(self, what: str) -> bool:
        return any(what in _reads(metric) for metric in self.metrics)


def _shapes(parts: Sequence[Computed]) -> dict[str, tuple[int, int]]:
    """[b t] of the maps of which the floor is measured, by tag."""
    measured = [part for part in parts if part.rows.start < part.rows.stop]
    tags = {tag for part in measured for tag in part.maps}
    shapes = {}
    for tag in tags:
        t = max(part.maps[tag].record.score.shape[1] for part in measured if tag in part.maps)
        shapes[tag] = measured[0].rows.count, t
    return shapes


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
