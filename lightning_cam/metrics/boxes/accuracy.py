"""Whether the box around the hot part of a map fits the object's. b batch, s sides, t thresholds, k components, d overlaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import condense
from lightning_cam.metrics.boxes.components import components, mask_boxes
from lightning_cam.metrics.centre import at_centre
from lightning_cam.metrics.region import enlarged, prefers, region_of
from lightning_cam.registry import METRICS, did_you_mean

_STEPS = 100  # thresholds tried; on small batches a finer grid would only find a luckier one


def centre_box(seen: Seen, **options: Any) -> Float[Tensor, "b"]:
    """What ``max_box_acc`` gives for a box in the middle of the image, of the size that fits most objects of the batch."""
    return at_centre(lambda heat, seen: max_box_acc(heat, seen, **options), seen)


def centre_boxes(seen: Seen, **options: Any) -> Float[Tensor, "b"]:
    """What ``max_box_acc_v2`` gives for boxes in the middle of the image, of the sizes that fit most objects of the batch."""
    return at_centre(lambda heat, seen: max_box_acc_v2(heat, seen, **options), seen)


@METRICS.register(
    range=(0.0, 1.0), higher_is_better=True, floor=centre_box, cost="components above 100 thresholds", reads=("batch",)
)
def max_box_acc(
    heat: Float[Tensor, "b *m"],
    seen: Seen,
    *,
    delta: float = 0.5,
    threshold: float | str = "baseline",
    region: str | None = None,
    scaled: str = "positive",
) -> Float[Tensor, "b"]:
    """MaxBoxAcc: whether the box of the map's largest hot component overlaps a true box by half or more.

    1 where ``IoU(box, true box) >= delta`` for one of the true boxes, else 0. The box is that of the largest component, by
    pixels, of where the linearly resized map, scaled to [0, 1], is strictly above a threshold; boxes are half-open, so
    that one equal to the true one has an IoU of exactly 1. Of components of one size the best counts. True boxes are those
    of the connected components of the region: boxes that touch or overlap have become one. Maps of more than 1024 cells are
    averaged down first, as those of earlier looks are.

    The threshold, one of 0, .01, ..., .99 and the same for all samples, is the one best on average: for the maps of the
    baseline, so that the curve of a run shows the maps and not the choice; without a baseline, as at the first look, for
    these maps. That choice is optimistic on few samples. Of several equally good ones the middle one is taken. NaN where
    the region is empty, of a constant map, and for ``positive`` where no value is positive.

    Source: Choe et al. 2020, section 3.3, arXiv 2001.07437; with labels known, hence GT-known localization. Its code takes
    ``scaled="minmax"`` and ``threshold="batch"``, 8 bits, inclusive ends and holes of components too.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        delta: the overlap from which on a box fits, above 0 and at most 1.
        threshold: ``baseline``, ``batch``, to choose for these maps at every look, or a number of at least 0 and below 1.
        region: which of them; by default the union of all.
        scaled: ``positive``, the positive part over its maximum, or ``minmax``.

    Raises:
        ValueError: for a region that the batch does not have, a map that has fewer sides than the image, or other options.
    """
    question = _Question("max_box_acc", (delta,), threshold, region, scaled, largest=True)
    return _accuracy(heat, seen, question)


@METRICS.register(
    range=(0.0, 1.0), higher_is_better=True, floor=centre_boxes, cost="components above 100 thresholds", reads=("batch",)
)
def max_box_acc_v2(
    heat: Float[Tensor, "b *m"],
    seen: Seen,
    *,
    deltas: Sequence[float] = (0.3, 0.5, 0.7),
    threshold: float | str = "baseline",
    region: str | None = None,
    scaled: str = "positive",
) -> Float[Tensor, "b"]:
    """MaxBoxAccV2: at how many of three overlaps a box of the map fits a true box.

    The mean over ``deltas`` of what ``max_box_acc`` gives, with two differences: the boxes of all components count, the best
    of them, and each overlap has a threshold of its own. NaN as there.

    Source: Choe et al. 2020, section 3.3, arXiv 2007.04178. Its code as that of ``max_box_acc``.

    Args:
        heat: raw maps.
        seen: what one forward showed; its regions are the masks.
        deltas: the overlaps from which on a box fits, above 0 and at most 1.
        threshold: ``baseline``, ``batch``, to choose for these maps at every look, or a number of at least 0 and below 1.
        region: which of them; by default the union of all.
        scaled: ``positive``, the positive part over its maximum, or ``minmax``.

    Raises:
        ValueError: for a region that the batch does not have, a map that has fewer sides than the image, or other options.
    """
    question = _Question("max_box_acc_v2", tuple(deltas), threshold, region, scaled, largest=False)
    return _accuracy(heat, seen, question)


@dataclass(frozen=True)
class _Question:
    """What is asked of a map's boxes, under which name."""

    metric: str
    deltas: tuple[float, ...]
    threshold: float | str
    region: str | None
    scaled: str
    largest: bool

    def __post_init__(self) -> None:
        if not self.deltas or not all(0 < delta <= 1 for delta in self.deltas):
            raise ValueError(
                f"{self.metric} needs overlaps above 0 and at most 1; got {', '.join(map(str, self.deltas)) or 'none'}. "
                'Half is {"max_box_acc": {"delta": 0.5}}, several are {"max_box_acc_v2": {"deltas": [0.3, 0.5, 0.7]}}.'
            )
        if isinstance(self.threshold, str):
            fits = self.threshold in ("baseline", "batch")
        else:
            fits = 0 <= self.threshold < 1
        if not fits:
            near = did_you_mean(str(self.threshold), ["baseline", "batch"])
            raise ValueError(
                f"The threshold of {self.metric} is 'baseline', 'batch' or a number of at least 0 and below 1; "
                f'got {self.threshold!r}.{near} For half the maximum write {{"{self.metric}": {{"threshold": 0.5}}}}.'
            )

    def grid(self, like: Float[Tensor, "..."]) -> Float[Tensor, "t"]:
        """The thresholds to try."""
        if isinstance(self.threshold, str):
            return torch.arange(_STEPS, dtype=like.dtype, device=like.device) / _STEPS
        return like.new_tensor([self.threshold])


def _accuracy(heat: Float[Tensor, "b *m"], seen: Seen, question: _Question) -> Float[Tensor, "b"]:
    inside = region_of(heat, seen, question.region, question.metric)
    fits, defined = _fits(condense(heat), inside, question)
    baseline = seen.earlier.baseline
    if question.threshold == "baseline" and baseline is not None:
        best = _best_thresholds(_fits(baseline, inside, question)[0])
    else:
        best = _best_thresholds(fits)
    # each overlap at its own threshold
    score = fits.gather(1, best.expand(len(heat), 1, -1))[:, 0].to(heat.dtype).mean(1)
    return score.where(defined, torch.nan)


def _fits(
    heat: Float[Tensor, "b *m"], inside: Bool[Tensor, "b *s"], question: _Question
) -> tuple[Bool[Tensor, "b t d"], Bool[Tensor, "b"]]:
    """Whether a box of each map fits at each threshold, for each overlap; and where the question has an answer at all."""
    large = enlarged(heat, inside, question.scaled)
    defined = inside.flatten(1).any(1) & prefers(heat) & prefers(large)
    # an undefined map has no component, and fits nowhere
    large = large.where(defined.reshape(-1, *[1] * (large.ndim - 1)), 0)
    parts = components(large, question.grid(large))
    overlap = box_iou(parts.boxes.flatten(1, 2), mask_boxes(inside), large.dtype).amax(2).reshape(parts.places.shape)
    if question.largest:
        overlap = overlap.where(parts.places == parts.places.amax(2, keepdim=True), 0)
    return overlap.amax(2)[..., None] >= large.new_tensor(question.deltas), defined


def _best_thresholds(fits: Bool[Tensor, "b t d"]) -> Int[Tensor, "d"]:
    """The threshold at which most samples fit, for each overlap; the middle one of those equally good."""
    number = fits.sum(0)
    position = torch.arange(len(number), device=fits.device)[:, None].float()
    return position.where(number == number.amax(0), torch.nan).nanmedian(0).values.long()


def box_iou(
    boxes: Int[Tensor, "b n r"], others: Int[Tensor, "b j r"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b n j"]:
    """Intersection over union of each two half-open boxes of a sample, lower ends before upper ones; 0 where one is empty.

    Example:
        >>> box_iou(torch.tensor([[[0, 0, 2, 2]]]), torch.tensor([[[0, 0, 2, 2], [1, 0, 3, 2]]])).tolist()
        [[[1.0, 0.3333333432674408]]]
    """
    low, high = boxes[:, :, None].chunk(2, 3)
    other_low, other_high = others[:, None].chunk(2, 3)
    both = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).prod(3)
    union = (high - low).prod(3) + (other_high - other_low).prod(3) - both
    return both.to(dtype) / union.clamp(min=1)
