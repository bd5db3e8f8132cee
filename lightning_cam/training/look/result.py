"""What a look computed, and the numbers of it that are logged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_cam.concepts import Concepts
from lightning_cam.data.batch import FixedBatch
from lightning_cam.metrics.by_class import by_class
from lightning_cam.metrics.measure import MOST_CURVES, summarize
from lightning_cam.record import Event, Moment, Record
from lightning_cam.registry import Entry
from lightning_cam.training.look.parts import SHARE, ShareRow

_FLOOR = "drift_floor"


@dataclass(frozen=True, eq=False)
class LookResult:
    """All that one look computed; what reporting reads.

    Attributes:
        moment: when.
        batch: the samples.
        records: one for each layer and method.
        concepts: one for each layer, where concepts are drawn.
        events: what moved more than noise since the look before.
        shares: what moved the maps over the run, by parts of the net, by tag; none where none are due.
        pictures: how many of the samples are shown, the first.
        centre: what the metrics of regions give for a bump in the middle of every picture; at the first look of a run.
        metrics: what was measured.
    """

    moment: Moment
    batch: FixedBatch
    records: Sequence[Record]
    concepts: Sequence[Concepts]
    events: Sequence[Event] = ()
    shares: Mapping[str, Sequence[ShareRow]] = field(default_factory=dict)
    pictures: int | None = None
    centre: Mapping[str, float] = field(default_factory=dict)
    metrics: Sequence[Entry[Any]] = ()


@dataclass(frozen=True)
class Tags:
    """Under which tags numbers are logged, and which.

    Attributes:
        tag: first part of every tag.
        alone: whether there can be no other record, so that its own tag is left out.
        named: whether the metrics were asked for by name; of those that nobody asked for eight are logged, and nothing that
            says nothing.
        per_class: whether the means of each class are told too.
    """

    tag: str
    alone: bool
    named: bool
    per_class: bool = False

    def of(self, record: Record) -> str:
        """What stands in front of the numbers of a record."""
        return f"{self.tag}/" if self.alone else f"{self.tag}/{record.tag}/"


def logged_numbers(result: LookResult, tags: Tags) -> dict[str, float]:
    """Each metric's mean where it is defined, and the share of samples for which it is where some have none, by tags.

    Args:
        result: of one look.
        tags: under which tags.
    """
    # in a group of its own, beside which the curves are read
    numbers = {f"{tags.tag}_centre/{name}": value for name, value in result.centre.items()}
    for record in result.records:
        told = _telling(record, tags.named)
        # shares are of the drift, and defined where that is
        told |= {name: float(values.nanmean()) for name, values in record.values.items() if name.startswith(SHARE)}
        if tags.per_class:
            # of what is told, and of nothing else
            values = {name: record.values[name] for name in told if name in record.values}
            told |= by_class(replace(record, values=values), result.batch.classes)
        numbers |= {f"{tags.of(record)}{name}": value for name, value in told.items()}
    return numbers


def _telling(record: Record, named: bool) -> dict[str, float]:
    """The metrics that were named, else the first eight, and their shares where some sample has none."""
    told = told_first(record, named)
    numbers = summarize({name: record.values[name] for name in told})
    # at the first look, and outside a run, there is nothing to compare with
    alone = record.moment.baseline or not record.moment.fitting
    for name in told:
        share = numbers.pop(f"{name}_defined")
        if alone and share == 0:
            if not named:
                del numbers[name]
        # of the floor a few samples are measured, which is no lack
        elif share < 1 and name != _FLOOR:
            numbers[f"{name}_defined"] = share
    return numbers


def told_first(record: Record, named: bool) -> list[str]:
    """The names of a record's numbers that become curves: all that were named, else the first eight."""
    measured = [name for name in record.values if not name.startswith(SHARE)]
    if named:
        return measured
    return measured[:MOST_CURVES]
