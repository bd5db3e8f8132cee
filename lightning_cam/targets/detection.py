"""Detection: one box of what a torchvision detector returns. b batch, n boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.model.output import is_detections
from lightning_cam.registry import TARGETS
from lightning_cam.targets.target import Pinned


@TARGETS.register
def detection(output: Any, label: Any, *, boxes: Any = None, classes: Any = None, least: float = 0.5) -> Pinned:
    """A box and its class, as the detector finds them again: ``max_j score_j + IoU(box_j, pinned)`` over boxes of the class.

    The pinned box is given, or is the one of the highest score. Only boxes that overlap it by at least ``least`` count; where
    there is none the score is 0 and the map is zero. A sample without any box has no such target: its map is NaN.

    In ``explain(model, images, target="detection")`` images are of one size, a tensor [b c h w].

    Source: the best-matching box's overlap and score, as in pytorch-grad-cam's detection targets.

    Args:
        output: a dict of ``boxes`` [n 4], ``scores`` [n] and ``labels`` [n] for each sample.
        label: not used.
        boxes: the pinned box of each sample, [b 4]: x0, y0, x1, y1 in pixels.
        classes: the pinned box's class of each sample, [b]; needed where boxes are given.
        least: the smallest overlap.

    Raises:
        ValueError: for an output that is no list of detections, or boxes without classes.
    """
    found = _detections(output)
    if (boxes is None) != (classes is None):
        raise ValueError("detection(boxes=..., classes=...) belong together; only one was given.")
    if boxes is None:
        box, c, there = _best(found)
    else:
        like = found[0]["boxes"]
        box, c = torch.as_tensor(boxes).to(like), torch.as_tensor(classes, device=like.device).long()
        there = torch.ones(len(found), dtype=torch.bool, device=like.device)
        if box.shape != (len(found), 4) or c.shape != (len(found),):
            raise ValueError(
                f"detection takes one box a sample: boxes ({len(found)}, 4) and classes ({len(found)},); "
                f"got {tuple(box.shape)} and {tuple(c.shape)}."
            )

    def score(output: Any, box: Float[Tensor, "b 4"], c: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
        return torch.stack([_found(*each, least) for each in zip(_detections(output), box, c, strict=True)])

    return Pinned(score, (box, c), c, ~there, placed=True)


def _detections(output: Any) -> Sequence[Mapping[str, Tensor]]:
    if not is_detections(output):
        raise ValueError(
            f"The target 'detection' needs a dict of boxes, scores and labels for each sample; got a {type(output).__name__}. "
            "Where a model wraps them, name them with output=..."
        )
    found: Sequence[Mapping[str, Tensor]] = output
    return found


def _best(found: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The box of the highest score of each sample, its class, and whether there is one."""
    blank = found[0]["boxes"].new_zeros(4), found[0]["labels"].new_zeros(()), False
    rows = [
        (one["boxes"][i].detach(), one["labels"][i], True)
        if len(one["scores"]) and (i := int(one["scores"].argmax())) >= 0
        else blank
        for one in found
    ]
    there = torch.tensor([row[2] for row in rows], device=found[0]["boxes"].device)
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]).long(), there


def _found(one: Mapping[str, Tensor], box: Float[Tensor, "4"], c: Int[Tensor, ""], least: float) -> Float[Tensor, ""]:
    """Score and overlap of the box that matches best."""
    overlap = _iou(one["boxes"], box)
    fits = (one["labels"] == c) & (overlap.detach() >= least)
    match = (one["scores"] + overlap).masked_fill(~fits, -torch.inf)
    zero = one["scores"].sum() * 0 + one["boxes"].sum() * 0  # stays connected, so that the map is zero and not an error
    return match.max() if bool(fits.any()) else zero


def _iou(boxes: Float[Tensor, "n 4"], box: Float[Tensor, "4"]) -> Float[Tensor, "n"]:
    top, bottom = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    shared = (bottom - top).clamp(min=0).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / (area - shared).clamp(min=1e-9)
