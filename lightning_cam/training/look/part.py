"""One part of the fixed batch: from its forward to Records with numbers. b batch, t targets, n maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.crossed import factors_of
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.summary.predictions import predict
from lightning_cam.heat import condense, maximum
from lightning_cam.methods.apply import MapPlan
from lightning_cam.metrics.measure import measure
from lightning_cam.record import Earlier, Factors, Moment, Predictions, Record, to_host
from lightning_cam.registry import Entry
from lightning_cam.training.chunk import Attempt, Chunk
from lightning_cam.training.history import History

# of activations that are kept for feature_drift: those of sixteen samples at a ResNet-50's last layer take 6.4 MB
_MOST_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class Map:
    """A Record, and what a run keeps of it.

    Attributes:
        record: what the look showed.
        kept: the maps as a history keeps them, [n *m] on the host.
        extremes: the smallest and the largest value of all maps there are.
        factors: of each target's maps, where they have any; they are taken at the first look alone.
    """

    record: Record
    kept: Float[Tensor, "n *m"]
    extremes: tuple[float, float]
    factors: list[Factors] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the batch while its forward can still be asked.

    Attributes:
        forward: the forward.
        plans: which maps are made of it.
        chunk: which of the batch's samples these are.
        count: how many the whole batch has.
        attempt: runs what may fail.
    """

    forward: Forward
    plans: Sequence[MapPlan]
    chunk: Chunk
    count: int
    attempt: Attempt

    @property
    def samples(self) -> slice:
        """Which of the batch's samples these are."""
        return self.chunk.samples

    def maps(self, moment: Moment, first: bool) -> dict[str, Map]:
        """The map of each plan by its tag; one that fails costs only itself.

        Args:
            moment: when.
            first: whether it is the first look of a run in which what maps are made of is compared.
        """
        predictions = predict(self.forward)
        # of a batch in parts, as many samples as fit; that a part begins behind them is known without running it
        keep = self.samples.stop if first else 0
        maps = {}
        for plan in self.plans:
            made = self.attempt(plan.tag, make_map, plan, self.forward, predictions, moment, keep)
            if made is not None:
                maps[plan.tag] = made
        return maps

    def run(self, history: History | None, made: Map) -> History | None:
        """The run of the whole batch so far, of these samples alone."""
        if history is None:
            return None
        return history.rows(self.samples, self.count, made.record.score.shape[1])

    def numbers(
        self,
        maps: Mapping[str, Map],
        metrics: Sequence[Entry[Any]],
        histories: Mapping[str, History],
    ) -> dict[str, Record]:
        """Records with each metric's value for each sample and target; one transfer to the host for all of them."""
        measured: dict[str, dict[str, Tensor]] = {}
        method_of = {plan.tag: plan.of_target for plan in self.plans}
        for tag, made in maps.items():
            earlier = _earlier(self.run(histories.get(tag), made), made)
            values = {}
            for metric in metrics:
                measure_by = partial(measure, method=method_of[tag])
                what = f"{metric.label} of {tag}"
                value = self.attempt(what, measure_by, metric, made.record.heat, self.forward, made.record.layer, earlier)
                if value is not None:
                    values[metric.label] = value
            measured[tag] = values
        # all at once: each transfer waits for the device
        copies = iter(to_host([value for values in measured.values() for value in values.values()]))
        return {
            tag: replace(maps[tag].record, values={name: next(copies) for name in values}) for tag, values in measured.items()
        }


def make_map(plan: MapPlan, forward: Forward, predictions: Predictions, moment: Moment, keep: int) -> Map:
    """Compute the maps of a plan, and what they are made of if that of so many samples is to be kept; 0 for none.

    One transfer to the host.
    """
    heat = plan.heat(forward)
    flat = heat.flatten(0, 1)
    scores = forward.target_scores
    absent = scores.choice.absent
    condensed, extremes, strength, against, score = to_host(
        [condense(flat), _extremes(flat, absent), maximum(flat).float(), maximum(-flat).float(), scores.score]
    )
    record = Record(
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
    low, high = extremes.tolist()
    factors = []
    if keep and plan.fusion is None:
        factors = _factors(forward, plan.layer, keep)
    return Map(record, condensed, (low, high), factors)


def _factors(forward: Forward, layer: str, samples: int) -> list[Factors]:
    """What the maps at a layer are made of, a target each, on the host; none where of so many it is too large to keep."""
    t = forward.target_scores.score.shape[1]
    output = forward.outputs[layer].output
    if output[0].numel() * output.element_size() * samples > _MOST_BYTES:
        return []
    kept: list[Factors] = []
    for position in range(t):
        factors = factors_of(Seen(forward, layer, position))
        if factors is None:
            return []
        # a copy: the model was handed this very tensor and may write into it later
        activation = kept[0].activation if kept else factors.activation.to("cpu", copy=True)
        kept.append(Factors(activation, factors.weight.cpu()))
    return kept


def _earlier(run: History | None, made: Map) -> Callable[[int], Earlier]:
    if run is None:
        return lambda position: Earlier()
    record = made.record
    run.add(record.moment.short, made.kept, *made.extremes, record.predictions.classes.flatten(), record.moment)
    return cache(lambda position: run.earlier(position, record.heat))  # the same for every metric


def _extremes(flat: Float[Tensor, "n *m"], absent: Tensor | None) -> Float[Tensor, "2"]:
    """The smallest and the largest value of all maps there are; zeros where there is none."""
    present = flat if absent is None else flat[~absent.flatten()]
    if not len(present):
        return flat.new_zeros(2)
    return torch.stack([present.amin(), present.amax()])
