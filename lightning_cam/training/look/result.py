"""What a look computed, and the numbers of it that are logged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from lightning_cam.concepts import Concepts
from lightning_cam.data.batch import FixedBatch
from lightning_cam.metrics.by_class import by_class
from lightning_cam.metrics.measure import MOST_CURVES, summarize
from lightning_cam.record import Event, Moment, Record
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
    """

    moment: Moment
    batch: FixedBatch
    records: Sequence[Record]
    concepts: Sequence[Concepts]
    events: Sequence[Event] = ()
    shares: Mapping[str, Sequence[ShareRow]] = field(default_factory=dict)
    pictures: int | None = None
    centre: Mapping[str, float] = field(default_factory=dict)


def logged_numbers(result: LookResult, tag: str, alone: bool, named: bool, per_class: bool = False) -> dict[str, float]:
    """Each metric's mean where it is defined, and the share of samples for which it is where some have none, by tags.

    Args:
        result: of one look.
        tag: first part of every tag.
        alone: whether there can be no other record, so that its own tag is left out.
        named: whether the metrics were asked for by name; of those that nobody asked for eight are logged, and nothing
            that says nothing.
        per_class: whether the means of each class are told too.
    """
    # in a group of its own, beside which the curves are read
    numbers = {f"{tag}_centre/{name}": value for name, value in result.centre.items()}
    for record in result.records:
        prefix = f"{tag}/" if alone else f"{tag}/{record.tag}/"
        measured = {name: values for name, values in record.values.items() if not name.startswith(SHARE)}
        told = _telling(record, measured, named)
        # shares are of the drift, and defined where that is
        told |= {name: float(values.nanmean()) for name, values in record.values.items() if name.startswith(SHARE)}
        if per_class:
            # of what is told, and of nothing else
            values = {name: record.values[name] for name in told if name in record.values}
            told |= by_class(replace(record, values=values), result.batch.classes)
        numbers |= {f"{prefix}{name}": value for name, value in told.items()}
    return numbers


def _telling(record: Record, measured: Mapping[str, Tensor], named: bool) -> dict[str, float]:
    """The metrics that were named, else the first eight, and their shares where some sample has none."""
    count = len(measured)
    if not named:
        count = min(count, MOST_CURVES)
    told = list(measured)[:count]
    numbers = summarize({name: measured[name] for name in told})
    # at the first look, and outside a run, there is nothing to compare with
    alone = record.moment.baseline or not record.moment.fitting
    for name in told:
        share = numbers[f"{name}_defined"]
        if not named and alone and share == 0:
            del numbers[name], numbers[f"{name}_defined"]
        # of the floor a few samples are measured, which is no lack
        elif share == 1 or name == _FLOOR:
            del numbers[f"{name}_defined"]
    return numbers
