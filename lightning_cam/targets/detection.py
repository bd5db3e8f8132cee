"""Detection: one box of what a torchvision detector returns. b batch, n boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.model.output import is_detections
from lightning_cam.registry import TARGETS
from lightning_cam.targets.target import Choice, Target


@TARGETS.register
def detection(*, boxes: Any = None, classes: Any = None, iou_threshold: float = 0.5) -> Target:
    """A box and its class, as the detector finds them again: ``max_j score_j + IoU(box_j, pinned)`` over boxes of the class.

    The pinned box is named, or is the one of the highest score. Only boxes that overlap it by at least ``iou_threshold`` count;
    where there is none the score is 0 and the map is zero. A sample without any box has no such target: its map is NaN.

    In ``explain(model, images, target="detection")`` images are of one size, a tensor [b c h w].

    Source: the best-matching box's overlap and score, as in pytorch-grad-cam's detection targets.

    Args:
        boxes: the pinned box of each sample, [b 4]: x0, y0, x1, y1 in pixels.
        classes: the pinned box's class of each sample, [b]; needed where boxes are named.
        iou_threshold: the smallest overlap, 0 to 1.

    Raises:
        ValueError: for boxes without classes, and at an output that is no list of detections.
    """
    if (boxes is None) != (classes is None):
        raise ValueError("detection(boxes=..., classes=...) belong together; only one was given.")
    return DetectedBox(boxes, classes, iou_threshold)


@dataclass(frozen=True, eq=False)
class DetectedBox:
    """Score and overlap of the box that matches a pinned box best."""

    boxes: Any
    classes: Any
    iou_threshold: float

    def choose(self, output: Any, label: Any, head: Tensor | None) -> Choice:
        """The pinned box and its class; absent where a sample has no box."""
        detections = _detections(output)
        if self.boxes is None:
            box, classes, present = _highest_scoring(detections)
        else:
            box, classes = self._named(detections)
            present = torch.ones(len(box), dtype=torch.bool, device=box.device)
        return Choice((box, classes), classes[:, None], ~present[:, None], placed=True)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b 1"]:
        """``max_j score_j + IoU(box_j, pinned)`` of each sample."""
        boxes, classes = choice.parts
        scores = []
        for sample, box, class_id in zip(_detections(output), boxes, classes, strict=True):
            scores.append(_best_match(sample, box, class_id, self.iou_threshold))
        return torch.stack(scores)[:, None]

    def _named(self, detections: Sequence[Mapping[str, Tensor]]) -> tuple[Float[Tensor, "b 4"], Int[Tensor, "b"]]:
        like = detections[0]["boxes"]
        box = torch.as_tensor(self.boxes).to(like)
        classes = torch.as_tensor(self.classes, device=like.device).long()
        b = len(detections)
        if box.shape != (b, 4) or classes.shape != (b,):
            raise ValueError(
                f"detection takes one box a sample: boxes ({b}, 4) and classes ({b},); "
                f"got {tuple(box.shape)} and {tuple(classes.shape)}."
            )
        return box, classes


def _detections(output: Any) -> Sequence[Mapping[str, Tensor]]:
    if not is_detections(output):
        raise ValueError(
            "The target 'detection' needs a dict of boxes, scores and labels for each sample; "
            f"got a {type(output).__name__}. Where a model wraps them, name them with output=..."
        )
    detections: Sequence[Mapping[str, Tensor]] = output
    return detections


def _highest_scoring(detections: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The box of the highest score of each sample, its class, and whether there is one."""
    boxes = []
    classes = []
    present = []
    for sample in detections:
        has_box = len(sample["scores"]) > 0
        present.append(has_box)
        if has_box:
            best = int(sample["scores"].argmax())
            boxes.append(sample["boxes"][best].detach())
            classes.append(sample["labels"][best])
        else:
            # a blank, so that the batch can be stacked; its score is masked later
            boxes.append(sample["boxes"].new_zeros(4))
            classes.append(sample["labels"].new_zeros(()))
    device = detections[0]["boxes"].device
    return torch.stack(boxes), torch.stack(classes).long(), torch.tensor(present, device=device)


def _best_match(
    sample: Mapping[str, Tensor],
    box: Float[Tensor, "4"],
    class_id: Int[Tensor, ""],
    iou_threshold: float,
) -> Float[Tensor, ""]:
    """Score and overlap of the box that matches best."""
    overlap = _iou(sample["boxes"], box)
    # which boxes count is a choice, through which no gradient goes
    fits = (sample["labels"] == class_id) & (overlap.detach() >= iou_threshold)
    if not bool(fits.any()):
        # zero, but still connected to the input: a map of zeros, not an error
        return sample["scores"].sum() * 0 + sample["boxes"].sum() * 0
    match = (sample["scores"] + overlap).masked_fill(~fits, -torch.inf)
    return match.max()


def _iou(boxes: Float[Tensor, "n 4"], box: Float[Tensor, "4"]) -> Float[Tensor, "n"]:
    top = torch.maximum(boxes[:, :2], box[:2])
    bottom = torch.minimum(boxes[:, 2:], box[2:])
    shared = (bottom - top).clamp(min=0).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    # two boxes without area have no union
    return shared / (area - shared).clamp(min=1e-9)
