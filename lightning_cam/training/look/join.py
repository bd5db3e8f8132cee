"""The parts of a look put together: their Records, what the run keeps of them, and numbers of the whole batch."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.data.batch import FixedBatch
from lightning_cam.metrics.centre import at_centre
from lightning_cam.metrics.measure import measure, summarize
from lightning_cam.model.trace import Calls
from lightning_cam.record import Earlier, Factors, Predictions, Record, to_host
from lightning_cam.registry import Entry
from lightning_cam.targets.target import Choice, TargetScores
from lightning_cam.training.chunk import Attempt
from lightning_cam.training.history import History
from lightning_cam.training.look.part import Map

_OF_MAPS = ("heat", "score", "strength", "against")  # of a Record, a row a sample and a column a target


def join_records(parts: Sequence[Mapping[str, Record]]) -> list[Record]:
    """One Record for each tag that every part has."""
    return [_joined([part[tag] for part in parts]) for tag in parts[0] if all(tag in part for part in parts)]


def join_maps(parts: Sequence[Mapping[str, Map]]) -> dict[str, Map]:
    """What the run keeps of all parts, by tag."""
    maps = {}
    for tag in parts[0]:
        if not all(tag in part for part in parts):
            continue
        made = [part[tag] for part in parts]
        lows, highs = zip(*(one.extremes for one in made), strict=True)
        maps[tag] = Map(made[0].record, _joined_maps(made), (min(lows), max(highs)), _joined_factors(made))
    return maps


def remember(records: Sequence[Record], maps: Mapping[str, Map], histories: dict[str, History]) -> None:
    """Add a look to the history of each map."""
    for record in records:
        history = histories.setdefault(record.tag, History())
        made = maps[record.tag]
        classes = record.predictions.classes.flatten()
        history.add(record.moment.short, made.kept, *made.extremes, classes, record.moment)
        if len(history.looks) == 1:
            history.factors = made.factors


def rate(records: Sequence[Record], metrics: Sequence[Entry[Any]], histories: Mapping[str, History]) -> None:
    """The first metric that has a direction says which look is the best."""
    for record in records:
        history = histories.get(record.tag)
        for metric in metrics:
            higher_is_better = metric.facts.get("higher_is_better")
            if history is not None and higher_is_better is not None and metric.label in record.values:
                history.rate(float(record.values[metric.label].nanmean()), higher_is_better)
                break


def with_numbers_of_all(
    records: Sequence[Record],
    metrics: Sequence[Entry[Any]],
    batch: FixedBatch,
    histories: Mapping[str, History],
    attempt: Attempt,
) -> list[Record]:
    """Records with the numbers that must see the maps of all samples at once, such as a threshold chosen over the batch.

    They are given no model: the forwards of the parts are over by then.
    """
    of_all = [metric for metric in metrics if "batch" in metric.facts.get("reads", ())]
    numbered = []
    for record in records:
        forward = _without_model(record, batch)
        history = histories.get(record.tag)
        values = {}
        for metric in of_all:
            what = f"{metric.label} of {record.tag}"
            value = attempt(what, measure, metric, record.heat, forward, record.layer, _earlier(history, record.heat))
            if value is not None:
                values[metric.label] = value
        on_host = dict(zip(values, to_host(list(values.values())), strict=True))
        known = {**record.values, **on_host}
        # in the order in which they were asked for, and what nobody asked for by name behind them
        labels = [metric.label for metric in metrics if metric.label in known]
        rest = [label for label in known if label not in labels]
        numbered.append(replace(record, values={label: known[label] for label in [*labels, *rest]}))
    return numbered


def at_the_centre(record: Record, metrics: Sequence[Entry[Any]], batch: FixedBatch) -> dict[str, float]:
    """What each metric of regions gives for a bump in the middle of every picture: the mean where it is defined."""
    if not batch.regions:
        return {}
    seen = Seen(_without_model(record, batch), record.layer)
    numbers: dict[str, float] = {}
    for metric in metrics:
        if "region" in inspect.signature(metric.function).parameters:
            numbers |= summarize({metric.label: at_centre(metric.function, seen)[:, None]})
    return {metric.label: numbers[metric.label] for metric in metrics if metric.label in numbers}


class _Chosen:
    """The target of scores that are there already, and are asked of no other output."""

    def choose(self, output: Any, label: Tensor | None, head: Float[Tensor, "k c"] | None) -> Choice:
        raise ValueError("The parts of this look are over, and nothing more is chosen.")

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        raise ValueError("The parts of this look are over, and nothing more is scored.")


def _joined(records: Sequence[Record]) -> Record:
    if len(records) == 1:
        return records[0]
    t = max(record.score.shape[1] for record in records)
    widest = next(record for record in records if record.score.shape[1] == t)
    names = [name for name in widest.values if all(name in record.values for record in records)]
    predictions = [record.predictions for record in records]
    told = {item.name: _stacked([getattr(part, item.name) for part in predictions], t) for item in fields(Predictions)}
    of_maps: dict[str, Any] = {name: _stacked([getattr(record, name) for record in records], t) for name in _OF_MAPS}
    here = [torch.zeros(record.score.shape, dtype=torch.bool) for record in records]
    unknown = [torch.full(record.score.shape, torch.nan) for record in records]
    absent = [record.absent for record in records]
    # a target that no sample of a part has is one that they lack
    if any(record.score.shape[1] < t for record in records):
        absent = [other if part is None else part for part, other in zip(absent, here, strict=True)]
    return replace(
        widest,
        **of_maps,
        predictions=Predictions(**told),
        values={name: _stacked([record.values[name] for record in records], t) for name in names},
        changed_in_place=any(record.changed_in_place for record in records),
        note=next((record.note for record in records if record.note), ""),
        # parts of which a sample lacks nothing say nothing
        absent=_filled(absent, here, t, True),
        lost=_filled([record.lost for record in records], here, t, False),
        on_map=_filled([record.on_map for record in records], unknown, t),
    )


def _filled(parts: Sequence[Tensor | None], instead: Sequence[Tensor], t: int, blank: Any = None) -> Tensor | None:
    if all(part is None for part in parts):
        return None
    return _stacked([other if part is None else part for part, other in zip(parts, instead, strict=True)], t, blank)


def _stacked(parts: Sequence[Shaped[Tensor, "..."]], t: int, blank: Any = None) -> Shaped[Tensor, "n ..."]:
    """One below the other; what has fewer targets ends in blanks, by default NaN, and -1 where there are classes."""
    wide = []
    for part in parts:
        missing = 0 if part.ndim < 2 else t - part.shape[1]
        if missing:
            fill = blank
            if fill is None:
                fill = torch.nan if part.is_floating_point() else -1
            part = torch.cat([part, part.new_full((len(part), missing, *part.shape[2:]), fill)], 1)
        wide.append(part)
    return torch.cat(wide)


def _joined_maps(parts: Sequence[Map]) -> Float[Tensor, "n *m"]:
    targets = [part.record.score.shape[1] for part in parts]
    kept = [part.kept.unflatten(0, (-1, t)) for part, t in zip(parts, targets, strict=True)]
    return _stacked(kept, max(targets)).flatten(0, 1)


def _joined_factors(parts: Sequence[Map]) -> list[Factors]:
    """Of each target, of the first parts of which they are kept; the activation, the same for all targets, is there once."""
    if len(parts) == 1:
        return parts[0].factors
    kept = [part.factors for part in takewhile(lambda part: part.factors, parts)]
    if not kept:
        return []
    t = max(len(part.factors) for part in parts)
    activation = torch.cat([factors[0].activation for factors in kept])
    weights = _stacked([torch.stack([one.weight for one in factors], 1) for factors in kept], t)
    return [Factors(activation, weight) for weight in weights.unbind(1)]


def _earlier(history: History | None, heat: Float[Tensor, "b t *m"]) -> Callable[[int], Earlier]:
    if history is None:
        return lambda position: Earlier()
    return lambda position: history.earlier(position, heat)


def _without_model(record: Record, batch: FixedBatch) -> Forward:
    """A forward that tells what was explained and where regions are, and can be asked for nothing else."""
    absent = None if record.absent is None else record.absent.to(record.heat.device)
    scores = TargetScores(record.score.to(record.heat), Choice(absent=absent), _Chosen())
    return Forward(None, batch.images, None, scores, {}, Calls(), batch.labels, batch.regions)
