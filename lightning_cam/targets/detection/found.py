"""What a detector found, read alike for lists of boxes and for queries. b batch, t boxes pinned, n boxes found, k class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_cam.model.output import QueryOutput

Activation = Literal["softmax", "sigmoid"]


@runtime_checkable
class Found(Protocol):
    """Boxes found, as corners, with what is said of them."""

    @property
    def boxes(self) -> Float[Tensor, "b n 4"]:
        """Corners (x0, y0, x1, y1)."""

    def best(self) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The score of each box for its best class, -inf where there is no box, and that class."""

    def scores(self, classes: Int[Tensor, "b t"]) -> Float[Tensor, "b t n"]:
        """The scores of the boxes for classes, 0 to 1, -inf for a box of another class."""

    def numbers(self, classes: Int[Tensor, "b t"], overlap: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """What is explained, were this the box."""

    def nothing(self, numbers: Float[Tensor, "b t n"]) -> Float[Tensor, "b t"]:
        """What stands for no box, less than any box that counts."""

    def corners(self, boxes: Float[Tensor, "b t 4"]) -> Float[Tensor, "b t 4"]:
        """Boxes written as the detector writes them, as corners."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of torchvision's detectors, each of one class; samples with fewer are filled up with boxes of the class -1."""

    boxes: Float[Tensor, "b n 4"]
    score: Float[Tensor, "b n"]
    label: Int[Tensor, "b n"]

    @classmethod
    def of(cls, detections: Sequence[Mapping[str, Tensor]]) -> "Detections":
        """The boxes of all samples side by side, as many as the fullest has, and at least one."""
        missing = max(0, 1 - max(len(sample["scores"]) for sample in detections))
        boxes = pad_sequence([sample["boxes"] for sample in detections], batch_first=True)
        score = pad_sequence([sample["scores"] for sample in detections], batch_first=True)
        label = pad_sequence([sample["labels"] for sample in detections], batch_first=True, padding_value=-1)
        return cls(
            at_least_single(F.pad(boxes, (0, 0, 0, missing))),
            at_least_single(F.pad(score, (0, missing))),
            F.pad(label.long(), (0, missing), value=-1),
        )

    def best(self) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The boxes' own."""
        return self.score.masked_fill(self.label < 0, -torch.inf), self.label

    def scores(self, classes: Int[Tensor, "b t"]) -> Float[Tensor, "b t n"]:
        """The boxes' own, where they are of the class."""
        return self.score[:, None].where(self.label[:, None] == classes[..., None], -torch.inf)

    def numbers(self, classes: Int[Tensor, "b t"], overlap: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """``score + IoU``."""
        return self.score[:, None] + overlap

    def nothing(self, numbers: Float[Tensor, "b t n"]) -> Float[Tensor, "b t"]:
        """0."""
        return torch.zeros_like(numbers[..., 0])

    def corners(self, boxes: Float[Tensor, "b t 4"]) -> Float[Tensor, "b t 4"]:
        """As they are."""
        return boxes


@dataclass(frozen=True, eq=False)
class Queries:
    """Boxes of queries, each with a logit and a probability for every class."""

    boxes: Float[Tensor, "b n 4"]
    logits: Float[Tensor, "b n k"]
    probability: Float[Tensor, "b n k"]

    @classmethod
    def of(cls, queries: QueryOutput, activation: Activation) -> "Queries":
        """The queries' boxes and classes, without the class "no object"."""
        logits = at_least_single(queries.logits)
        boxes = _corners(at_least_single(queries.boxes))
        if activation == "sigmoid":
            return cls(boxes, logits, logits.sigmoid())
        if logits.shape[2] < 2:
            raise ValueError("detection(activation='softmax'): one logit a query leaves none for 'no object'; write 'sigmoid'.")
        return cls(boxes, logits[..., :-1], logits.softmax(2)[..., :-1])

    def best(self) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The most probable class."""
        scores, classes = self.probability.max(2)
        return scores, classes

    def scores(self, classes: Int[Tensor, "b t"]) -> Float[Tensor, "b t n"]:
        """The probabilities: a query stands for every class."""
        return _of_classes(self.probability, classes)

    def numbers(self, classes: Int[Tensor, "b t"], overlap: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """The logits."""
        return _of_classes(self.logits, classes)

    def nothing(self, numbers: Float[Tensor, "b t n"]) -> Float[Tensor, "b t"]:
        """The lowest logit of all queries."""
        return numbers.detach().amin(2)

    def corners(self, boxes: Float[Tensor, "b t 4"]) -> Float[Tensor, "b t 4"]:
        """From centre, width and height; refused outside the picture, as pixels are."""
        named = boxes[boxes.isfinite()]
        if bool((named < 0).any()) or bool((named > 1).any()):
            raise ValueError(
                f"Boxes of queries are (cx, cy, w, h) as shares of the picture, 0 to 1; got {boxes.flatten(0, 1)[0].tolist()}. "
                "Write those of corners in pixels as torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, "
                "(x1 - x0) / width, (y1 - y0) / height], -1)."
            )
        return _corners(boxes)


@dataclass(frozen=True, eq=False)
class Match:
    """The box found for each that is pinned: its number, its score, and whether there is one."""

    number: Float[Tensor, "b t"]
    score: Float[Tensor, "b t"]
    exists: Bool[Tensor, "b t"]


def best_match(
    found: Found,
    boxes: Float[Tensor, "b t 4"],
    classes: Int[Tensor, "b t"],
    iou_threshold: float,
) -> Match:
    """The box of the largest ``score + IoU`` among those of the class that overlap enough."""
    overlap = iou(found.boxes, boxes.to(found.boxes))
    scores = found.scores(classes)
    # which box it is is a choice, through which no gradient goes
    rank = (scores + overlap).detach()
    fits = (rank > -torch.inf) & (overlap.detach() >= iou_threshold)
    best = rank.masked_fill(~fits, -torch.inf).argmax(2, keepdim=True)
    exists = fits.any(2)
    numbers = found.numbers(classes, overlap)
    # a constant, but still connected to the input: a map of zeros, not an error
    nothing = found.nothing(numbers) + 0 * numbers.sum(2)
    number = numbers.gather(2, best)[..., 0].where(exists, nothing)
    score = scores.detach().gather(2, best)[..., 0].where(exists, torch.nan)
    return Match(number, score, exists)


def iou(found: Float[Tensor, "b n 4"], pinned: Float[Tensor, "b t 4"]) -> Float[Tensor, "b t n"]:
    """The overlap of every pinned box with every box found: what they share by what they cover."""
    a, b = pinned[:, :, None], found[:, None]
    start = torch.maximum(a[..., :2], b[..., :2])
    end = torch.minimum(a[..., 2:], b[..., 2:])
    shared = (end - start).clamp(min=0).prod(3)
    area = (b[..., 2:] - b[..., :2]).prod(3) + (a[..., 2:] - a[..., :2]).prod(3)
    # two boxes without area have no union
    return shared / (area - shared).clamp(min=1e-9)


def at_least_single(values: Tensor) -> Tensor:
    """Half precision as float32, of which an overlap would be too coarse; others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _corners(boxes: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n 4"]:
    """Centre, width and height as corners."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


def _of_classes(values: Float[Tensor, "b n k"], classes: Int[Tensor, "b t"]) -> Float[Tensor, "b t n"]:
    """The columns of classes."""
    index = classes[..., None].expand(-1, -1, values.shape[1])
    return values.mT.gather(1, index)
