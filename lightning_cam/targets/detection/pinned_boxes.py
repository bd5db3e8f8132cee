"""Boxes that stay with a run, each as the detector finds it again. b batch, t boxes pinned, k class."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.model.output import QueryOutput, find_queries, is_detections
from lightning_cam.registry import TARGETS
from lightning_cam.targets.detection.found import Activation, Detections, Found, Queries, best_match, iou
from lightning_cam.targets.target import Choice

Pinned = tuple[Tensor, ...]  # boxes [b t 4], classes [b t], whether there is one [b t]


@TARGETS.register
def detection(
    *,
    boxes: Any = None,
    classes: Any = None,
    k: int = 1,
    iou_threshold: float = 0.5,
    activation: Activation | None = None,
) -> "PinnedBoxes":
    """Boxes of a detector, pinned at the first look and found again at every other by overlap and score.

    Serves torchvision's detectors (a dict of boxes, scores and labels a sample) and those by queries (DETR and its family:
    ``pred_logits`` or ``logits`` [b q k] beside ``pred_boxes`` [b q 4]). The box found again is that of the largest ``score +
    IoU`` among those of the pinned class that overlap the pinned box by at least ``iou_threshold``; a query has a score for
    every class. Of torchvision's detectors that very number is explained, ``max_j score_j + IoU(box_j, pinned)``, 0 to 2; of
    queries the logit of the pinned class at that query: its probability's map would fade as the detector becomes surer, and
    after a softmax it would tell of the other classes too.

    Pinned are the boxes named, or those of the highest scores, at the first look at which a sample has one; they stay with the
    run and its checkpoints. A sample in which none overlaps enough has **lost** its box: score and map are NaN, metrics do not
    count it, and its caption says so. In a changed sample (of Score-CAM, say) it counts 0, or by queries the lowest logit that
    any of them gives the class: as if nothing like it were there. A sample without any box has no such target.

    In ``explain(model, images, target="detection")`` images are of one size, a tensor [b c h w].

    Source: the best-matching box's overlap and score, as in pytorch-grad-cam's detection targets.

    Args:
        boxes: the pinned box of each sample, [b 4], or several [b t 4] with rows of NaN where a sample has fewer, written as
            the detector writes its own: (x0, y0, x1, y1) in pixels, of queries (cx, cy, w, h) as shares of the picture.
        classes: the classes of these boxes, [b] or [b t]; needed where boxes are named.
        k: how many boxes of the highest scores are pinned where none are named, a target each; boxes of one class that overlap
            enough are one.
        iou_threshold: the smallest overlap, 0 to 1.
        activation: how logits of queries become probabilities: ``softmax`` where the last class is "no object" (DETR),
            ``sigmoid`` where each class stands for itself (Deformable DETR, DINO, RF-DETR). By default softmax where a Hugging
            Face model has one logit more than its config has labels, else sigmoid.

    Raises:
        ValueError: for options that do not fit each other, boxes out of range, and at an output that is no detector's.
    """
    if (boxes is None) != (classes is None):
        raise ValueError("detection(boxes=..., classes=...) belong together; only one was given.")
    if k < 1:
        raise ValueError(f"detection(k={k!r}): expected how many boxes are pinned, 1 or more.")
    if activation not in (None, "softmax", "sigmoid"):
        raise ValueError(f"detection(activation={activation!r}): expected 'softmax' or 'sigmoid'.")
    named = None
    if boxes is not None:
        named = torch.as_tensor(boxes).detach().cpu(), torch.as_tensor(classes).detach().cpu().long()
    return PinnedBoxes(named, k, iou_threshold, activation)


class PinnedBoxes:
    """Boxes that stay with a run, each as the detector finds it again.

    Attributes:
        named: boxes and classes handed in.
        pinned: the boxes' corners and classes, on the CPU; None before the first look.
        labels: how many classes the model's config has, where it has one.
    """

    def __init__(
        self,
        named: tuple[Tensor, Tensor] | None,
        k: int,
        iou_threshold: float,
        activation: Activation | None,
    ) -> None:
        self.named = named
        self.k = k
        self.iou_threshold = iou_threshold
        self.activation = activation
        self.pinned: Pinned | None = None
        self.labels: int | None = None
        self.__name__ = "detection"

    def prepare(self, model: nn.Module) -> None:
        """Read how many labels a Hugging Face model has."""
        counts = [getattr(getattr(module, "config", None), "num_labels", None) for module in model.modules()]
        self.labels = next((count for count in counts if isinstance(count, int)), None)  # its backbone has another

    def choose(self, output: Any, label: Any, head: Tensor | None) -> Choice:
        """The pinned boxes and their classes; absent where a sample had none, or lost it."""
        found = self._found(output)
        self.pinned = self._pin(found, output)
        if len(self.pinned[0]) != len(found.boxes):
            raise ValueError(
                f"Boxes of {len(self.pinned[0])} samples are pinned and the model was given {len(found.boxes)}. For other "
                "samples take anew() of this target, or one of its own."
            )
        device = found.boxes.device
        boxes, classes, present = (part.to(device) for part in self.pinned)
        match = best_match(found, boxes, classes, self.iou_threshold)
        lost = present & ~match.exists
        return Choice(
            parts=(boxes, classes),
            classes=classes,
            absent=lost | ~present,
            single=self._single,
            placed=True,
            lost=lost,
            probability=match.score,
        )

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """The number of the box found again, or what stands for none."""
        boxes, classes = choice.parts
        return best_match(self._found(output), boxes, classes, self.iou_threshold).number

    def anew(self) -> "PinnedBoxes":
        """The same target for another run or other samples: boxes handed in stay, those that were pinned do not."""
        return PinnedBoxes(self.named, self.k, self.iou_threshold, self.activation)

    def for_part(self, samples: slice, count: int, labels: Any) -> "PinnedBoxes":
        """The boxes of some of the samples; what is not pinned yet the part pins for itself, and ``join`` takes up."""
        if self.named is None:
            part = self.anew()
            part.pinned = self.pinned and tuple(values[samples] for values in self.pinned)
            return part
        self._refuse_named_for_other_than(count)
        named = self.named[0][samples], self.named[1][samples]
        return PinnedBoxes(named, self.k, self.iou_threshold, self.activation)

    def join(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take up the boxes that parts of the samples pinned."""
        if self.named is None:
            self.pinned = tuple(map(torch.cat, zip(*(state["pinned"] for state in states), strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold so that a resumed run follows the same boxes."""
        return {"pinned": self.pinned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the boxes of the run that is resumed; those that were handed in stay."""
        # a run of another target has none to give
        if self.named is None and state.get("pinned") is not None:
            self.pinned = tuple(state["pinned"])

    @property
    def _single(self) -> bool:
        if self.named is not None:
            return self.named[0].ndim == 2
        return self.k == 1

    def _found(self, output: Any) -> Found:
        queries = find_queries(output)
        if queries is not None:
            return Queries.of(queries, self._activation(queries))
        if is_detections(output):
            return Detections.of(output)
        raise ValueError(
            "The target 'detection' needs a dict of boxes, scores and labels for each sample, or logits and boxes of queries "
            f"(pred_logits or logits, pred_boxes); got a {type(output).__name__}. Where a model wraps them, name them with "
            "output=..."
        )

    def _activation(self, queries: QueryOutput) -> Activation:
        k = queries.logits.shape[2]
        if self.activation is None and k - 1 == self.labels:
            return "softmax"
        return self.activation or "sigmoid"

    def _pin(self, found: Found, output: Any) -> Pinned:
        """The boxes pinned before; where a sample has none yet, those of the highest scores."""
        if self.named is not None:
            return self._named(found)
        before = self.pinned
        if before is not None and bool(before[2].all()):
            return before
        self._refuse_no_object(find_queries(output))
        now = _strongest(found, self.k, self.iou_threshold)
        if before is None:
            return now
        if before[0].shape != now[0].shape:
            return before
        boxes, classes, present = before
        kept = present.any(1, keepdim=True)
        return boxes.where(kept[..., None], now[0]), classes.where(kept, now[1]), present.where(kept, now[2])

    def _named(self, found: Found) -> Pinned:
        assert self.named is not None
        self._refuse_named_for_other_than(len(found.boxes))
        boxes, classes = self.named
        if classes.ndim == 1:
            boxes, classes = boxes[:, None], classes[:, None]
        corners = found.corners(boxes.to(found.boxes.dtype))
        present = corners.isfinite().all(2)
        return corners.where(present[..., None], 0), classes.where(present, 0), present

    def _refuse_named_for_other_than(self, b: int) -> None:
        """Raise ValueError where what was handed in is not for so many samples."""
        assert self.named is not None
        boxes, classes = self.named
        if boxes.shape != (*classes.shape, 4) or classes.ndim not in (1, 2) or len(boxes) != b:
            raise ValueError(
                f"detection takes one box a sample: boxes ({b}, 4) and classes ({b},), or several: ({b}, t, 4) and ({b}, t); "
                f"got {tuple(boxes.shape)} and {tuple(classes.shape)}."
            )

    def _refuse_no_object(self, queries: QueryOutput | None) -> None:
        """Raise ValueError where most queries say the last class, and nobody told whether that is "no object"."""
        if queries is None or self.activation is not None:
            return
        k = queries.logits.shape[2]
        # a model with a config has told
        if k < 2 or self.labels in (k - 1, k):
            return
        # most of the boxes of a class like the others are not sure of it, nor are those of a head that is still random
        sure = (queries.logits.argmax(2) == k - 1) & (queries.logits[..., -1] > 0)
        if float(sure.float().mean()) > 0.5:
            raise ValueError(
                f"Most queries are sure of the last of {k} classes, and it is not known whether that is 'no object'. If it "
                "is, as in DETR, write target={'detection': {'activation': 'softmax'}}; if it is a class like the others, "
                "'sigmoid'."
            )


def _strongest(found: Found, k: int, iou_threshold: float) -> Pinned:
    """The boxes of the highest scores and their classes, none twice: what overlaps one of its class enough is the same box."""
    scores, classes = found.best()
    scores = scores.detach()
    picked = []
    for _ in range(k):
        best = scores.argmax(1, keepdim=True)
        box = found.boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))
        class_id = classes.gather(1, best)
        picked.append((box, class_id, scores.gather(1, best).isfinite()))
        same = (iou(found.boxes.detach(), box)[:, 0] >= iou_threshold) & (classes == class_id)
        scores = scores.masked_fill(same, -torch.inf).scatter(1, best, -torch.inf)
    boxes, of_boxes, present = (torch.cat(parts, 1).cpu() for parts in zip(*picked, strict=True))
    # a blank where there is no box, so that samples can be stacked
    return boxes, of_boxes.where(present, 0), present
