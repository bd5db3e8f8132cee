"""From one forward to Records: maps, their place in the run's history, and their numbers. b batch, t targets, n maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.evidence import known_shares
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.predictions import predict
from lightning_cam.concepts import Concepts
from lightning_cam.data.batch import FixedBatch
from lightning_cam.heat import condense, maximum
from lightning_cam.methods.apply import MapPlan
from lightning_cam.metrics.measure import measure, summarize
from lightning_cam.record import Earlier, Moment, Predictions, Record, to_host
from lightning_cam.registry import Entry
from lightning_cam.training.history import History
from lightning_cam.training.notices import Notices

LITTLE = 0.3  # of the evidence on the map, below which a warning is due

Attempt = Callable[..., Any]  # (what, function, *args) -> what the function gives, None where it failed


@dataclass(frozen=True, eq=False)
class LookResult:
    """All that one look computed; what reporting reads.

    Attributes:
        moment: when.
        batch: the samples.
        records: one for each layer and method.
        concepts: one for each layer, where concepts are drawn.
    """

    moment: Moment
    batch: FixedBatch
    records: Sequence[Record]
    concepts: Sequence[Concepts]


def make_records(
    plans: Sequence[MapPlan],
    forward: Forward,
    moment: Moment,
    histories: dict[str, History],
    attempt: Attempt,
) -> list[Record]:
    """A Record for each plan; one that fails costs only itself."""
    predictions = predict(forward)
    records = []
    for plan in plans:
        history = histories.setdefault(plan.tag, History()) if moment.fitting else None
        record = attempt(plan.tag, make_record, plan, forward, predictions, moment, history)
        if record is not None:
            records.append(record)
    return records


def make_record(plan: MapPlan, forward: Forward, predictions: Predictions, moment: Moment, history: History | None) -> Record:
    """Compute the maps of a plan, and add them to the history of the run; one transfer to the host."""
    heat = plan.heat(forward)
    flat = heat.flatten(0, 1)
    scores = forward.target_scores
    absent = scores.choice.absent
    condensed, extremes, strength, against, score = to_host(
        [condense(flat), _extremes(flat, absent), maximum(flat).float(), maximum(-flat).float(), scores.score]
    )
    # before any metric runs: one that fails costs no map
    if history is not None:
        low, high = extremes.tolist()
        history.add(moment.short, condensed, low, high, predictions.classes.flatten(), moment.step)
    return Record(
        moment=moment,
        tag=plan.tag,
        layer=plan.layer,
        title=plan.title(forward),
        method=plan.method.label,
        heat=heat,
        score=score,
        absent=None if absent is None else absent.cpu(),
        strength=strength.reshape(score.shape),
        against=against.reshape(score.shape),
        predictions=predictions,
        changed_in_place=plan.fusion is None and forward.outputs[plan.layer].changed_in_place,
        note=scores.choice.note,
        lost=None if scores.choice.lost is None else scores.choice.lost.cpu(),
        target_names=scores.choice.names,
    )


def with_numbers(
    records: Sequence[Record],
    plans: Sequence[MapPlan],
    forward: Forward,
    metrics: Sequence[Entry[Any]],
    histories: Mapping[str, History],
    attempt: Attempt,
) -> list[Record]:
    """Records with each metric's value for each sample and target; one transfer to the host for all of them."""
    measured: list[dict[str, Tensor]] = []
    method_of = {plan.tag: plan.of_target for plan in plans}
    for record in records:
        earlier = _earlier(histories.get(record.tag), record)
        measure_by = partial(measure, method=method_of[record.tag])
        values = {}
        for metric in metrics:
            value = attempt(f"{metric.label} of {record.tag}", measure_by, metric, record.heat, forward, record.layer, earlier)
            if value is not None:
                values[metric.label] = value
        measured.append(values)
    # all at once: each transfer waits for the device
    copies = iter(to_host([value for values in measured for value in values.values()]))
    numbered = []
    for record, values in zip(records, measured, strict=True):
        on_host = {name: next(copies) for name in values}
        numbered.append(replace(record, values=on_host))
        _rate(histories.get(record.tag), on_host, metrics)
    return numbered


def with_evidence(records: Sequence[Record], forward: Forward, notices: Notices) -> list[Record]:
    """Records with the share of the evidence that is on their map, where maps or metrics took the gradient it needs."""
    layers = dict.fromkeys(record.layer for record in records if _is_of_its_layer(record, forward))
    shares = {layer: known_shares(forward, layer) for layer in layers}
    known = {layer: share for layer, share in shares.items() if share is not None}
    if not known:
        return list(records)
    on_host = dict(zip(known, to_host(list(known.values())), strict=True))
    for layer, share in on_host.items():
        if float(share.nanmean()) < LITTLE:
            notices.warn(_little(forward.title(layer), float(share.nanmean())), f"little evidence on the map of {layer}")
    return [
        replace(record, on_map=on_host.get(record.layer)) if _is_of_its_layer(record, forward) else record for record in records
    ]


def logged_numbers(records: Sequence[Record], tag: str, alone: bool) -> dict[str, float]:
    """Each metric's mean where it is defined, and the share of samples for which it is, under the tags they are logged by.

    Args:
        records: of one look.
        tag: first part of every tag.
        alone: whether there can be no other record, so that its own tag is left out.
    """
    numbers: dict[str, float] = {}
    for record in records:
        prefix = f"{tag}/" if alone else f"{tag}/{record.tag}/"
        numbers |= {f"{prefix}{name}": value for name, value in summarize(record.values).items()}
    return numbers


def _earlier(history: History | None, record: Record) -> Callable[[int], Earlier]:
    if history is None:
        return lambda position: Earlier()
    return cache(lambda position: history.earlier(position, record.heat))  # the same for every metric


def _rate(history: History | None, values: Mapping[str, Float[Tensor, "b t"]], metrics: Sequence[Entry[Any]]) -> None:
    """The first metric that has a direction says which look is the best."""
    for metric in metrics:
        higher_is_better = metric.facts.get("higher_is_better")
        if history is not None and higher_is_better is not None and metric.label in values:
            history.rate(float(values[metric.label].nanmean()), higher_is_better)
            return


def _extremes(flat: Float[Tensor, "n *m"], absent: Tensor | None) -> Float[Tensor, "2"]:
    """The smallest and the largest value of all maps there are; zeros where there is none."""
    present = flat if absent is None else flat[~absent.flatten()]
    if not len(present):
        return flat.new_zeros(2)
    return torch.stack([present.amin(), present.amax()])


def _is_of_its_layer(record: Record, forward: Forward) -> bool:
    """Whether a map shows the places of one layer: it is fused of no others, nor a map of the image's own, as occlusion is."""
    grid = forward.outputs[record.layer].layout.grid
    return record.title == forward.title(record.layer) and record.heat.shape[2:] == grid


def _little(layer: str, share: float) -> str:
    return (
        f"at the layer {layer!r} only {share:.0%} of the evidence (sum |gradient * activation|) is on the map; the rest is at "
        "class and register tokens, which have no place in a picture, and a clean map does not show where they have it from "
        "(arXiv 2505.05892). At an earlier layer more of it is at the patches still; attention_relevance follows it there."
    )
