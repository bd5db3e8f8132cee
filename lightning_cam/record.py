"""Record: what one look showed at one layer by one method, as plain tensors and numbers. b batch, t targets, m map.

It is all that reporting reads: nothing in it refers to a model, a hook or a logger. ``Earlier`` is what metrics compare with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """When a look takes place: the step it is logged at, and the words for it.

    Attributes:
        step: its place on the tracker's axis.
        title: in words, "before training" or "epoch 3".
        short: as a column of a filmstrip is headed, "start" or "3".
        baseline: whether it comes before the first optimizer step.
        fitting: whether it belongs to a run, whose earlier looks it is compared with and shown beside.
        epoch: how many epochs were trained, in a loop without a Trainer the step; None outside a run.
    """

    step: int
    title: str
    short: str
    baseline: bool = False
    fitting: bool = True
    epoch: float | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the model says of each sample, on the host; -1 and NaN where there is none.

    Attributes:
        classes: the class told beside each score.
        probability: its probability, 0 to 1.
        predicted: the class of the largest logit; none for multi-label samples, of which several may be right.
        predicted_probability: its probability, 0 to 1.
        labels: the class of the label, of a soft label that of the largest share.
    """

    classes: Int[Tensor, "b t"]
    probability: Float[Tensor, "b t"]
    predicted: Int[Tensor, "b"]
    predicted_probability: Float[Tensor, "b"]
    labels: Int[Tensor, "b"]

    def is_right(self, sample: int) -> bool | None:
        """Whether the predicted class is the label's; None where either is not known."""
        predicted, label = int(self.predicted[sample]), int(self.labels[sample])
        if predicted < 0 or label < 0:
            return None
        return predicted == label


@dataclass(frozen=True, eq=False)
class Record:
    """What one look showed at one layer by one method.

    Attributes:
        moment: when.
        tag: ``<layer>/<method>``, or ``fused/<method>``.
        layer: the layer watched; of several fused, the last named.
        title: the layer, or the fusion and its layers, in words.
        method: the method's name.
        heat: raw maps at layer resolution, signed where the method is; on the device where they were computed; NaN where a
            sample has no such target.
        score: the numbers explained, on the host; NaN likewise.
        absent: where a sample has no such target, on the host; None where all have theirs.
        strength: the largest value of each map, in the units of the score, on the host.
        against: the largest value of its negative.
        predictions: what the model says of each sample.
        values: each metric's value for each sample and target, on the host; NaN where it is undefined.
        changed_in_place: whether the map is that after an in-place operation behind the layer.
        note: what was explained for want of what the target asks for, in words; empty where it had that.
        on_map: the share of each score's evidence at the layer that is on the map and not at class and register tokens, on the
            host; None without such tokens, for maps of other places than the layer's, and where no gradient was taken.
        lost: which of the absent ones a sample had and has no longer, on the host; None where targets cannot be lost.
        target_names: the targets' own names, such as prompts; none where they are of classes.
    """

    moment: Moment
    tag: str
    layer: str
    title: str
    method: str
    heat: Float[Tensor, "b t *m"]
    score: Float[Tensor, "b t"]
    absent: Bool[Tensor, "b t"] | None
    strength: Float[Tensor, "b t"]
    against: Float[Tensor, "b t"]
    predictions: Predictions
    values: Mapping[str, Float[Tensor, "b t"]] = field(default_factory=dict)
    changed_in_place: bool = False
    note: str = ""
    on_map: Float[Tensor, "b t"] | None = None
    lost: Bool[Tensor, "b t"] | None = None
    target_names: tuple[str, ...] = ()

    def first(self, n: int | None) -> "Record":
        """That of the first n samples; of all without a number."""
        if n is None or n >= len(self.score):
            return self
        told = {item.name: getattr(self.predictions, item.name)[:n] for item in fields(Predictions)}
        part = {name: getattr(self, name)[:n] for name in ("heat", "score", "strength", "against")}
        lacking = {name: getattr(self, name) for name in ("absent", "on_map", "lost")}
        part |= {name: value[:n] for name, value in lacking.items() if value is not None}
        values = {name: value[:n] for name, value in self.values.items()}
        return replace(self, predictions=Predictions(**told), values=values, **part)

    @property
    def shown(self) -> list[int]:
        """Positions, over samples and targets, of the maps there are, and of those that were lost."""
        if self.absent is None:
            return list(range(self.score.numel()))
        present = ~self.absent
        # an empty card tells that it was lost, and rows of a filmstrip stay what they are
        if self.lost is not None:
            present = present | self.lost
        positions: list[int] = present.flatten().nonzero()[:, 0].tolist()
        return positions


@dataclass(frozen=True)
class Event:
    """A map, or the whole batch, moved more than noise and more than usual.

    Attributes:
        moment: the look at which it had moved.
        tag: ``<layer>/<method>``.
        sample: whose map; None for the whole batch.
        target: which of its targets.
        change: the cosine distance from the look before, of the whole batch the median over its maps.
        floor: the same by noise alone.
    """

    moment: Moment
    tag: str
    sample: int | None
    target: int
    change: float
    floor: float


@dataclass(frozen=True, eq=False)
class Factors:
    """What maps are made of where the head is linear behind a mean over space: activations, and the weight of each channel.

    Attributes:
        activation: what the layer returned.
        weight: the score's gradient by each channel, the same at every place.
    """

    activation: Float[Tensor, "b c *m"]
    weight: Float[Tensor, "b c"]


@dataclass(frozen=True, eq=False)
class Earlier:
    """One target's maps over the run, for metrics that compare: of one shape, on the device and in the precision of the maps.

    Maps of up to 1024 cells are at layer resolution, larger ones averaged down (``lightning_cam.heat.condense``), so compare
    these with ``now`` and not with the map itself. At the first look of a run, and outside a run (validate, test, explain),
    there is nothing to compare with and all maps but ``now`` are None: a metric is NaN then. The class is the same
    throughout: where an earlier look explained another one, as a target such as ``predicted`` may, its map of that sample is
    NaN, and so is what compares. Looks out of checkpoints that held no classes are taken to be of the same.

    Attributes:
        now: at this look.
        baseline: at the first look: before training, unless the schedule takes no baseline.
        previous: at the look before this.
        best: at the look with the best value so far of the first metric that has a direction.
        looks: how many looks of the run came before this one; 0 outside a run.
        past: at all looks before this one that are kept, 64 at most, the first and the last among them.
        epochs: how many epochs were trained at each of these, and at this look.
        factors: what the maps of the first look were made of, where the head is linear behind a mean over space.
        noise: how far each map moves by what should not move it; NaN where that was not measured.
    """

    now: Float[Tensor, "b *m"] | None = None
    baseline: Float[Tensor, "b *m"] | None = None
    previous: Float[Tensor, "b *m"] | None = None
    best: Float[Tensor, "b *m"] | None = None
    looks: int = 0
    past: Float[Tensor, "k b *m"] | None = None
    epochs: tuple[float | None, ...] = ()
    factors: Factors | None = None
    noise: Float[Tensor, "b"] | None = None


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies on the CPU, by one transfer whatever their types and shapes."""
    parts = [tensor.detach().contiguous() for tensor in tensors]
    if not parts:
        return []
    # as bytes, so that tensors of different types travel together and every bit arrives
    flat = torch.cat([part.reshape(-1).view(torch.uint8) for part in parts]).cpu()
    sizes = [part.numel() * part.element_size() for part in parts]
    copies = []
    for part, data in zip(parts, flat.split(sizes), strict=True):
        # a clone begins at an address that fits its type
        copies.append(data.clone().view(part.dtype).reshape(part.shape))
    return copies
