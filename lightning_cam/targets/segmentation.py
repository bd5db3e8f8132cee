"""Segmentation: a class over a region of its own map. b batch, k class, m output map (h w for pictures)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.model.output import is_detections, is_queries
from lightning_cam.registry import TARGETS
from lightning_cam.targets.logits import describe_labels, describe_output
from lightning_cam.targets.target import Choice, Target

Region = Literal["predicted", "label", "everywhere"] | Sequence[int] | Tensor


@TARGETS.register
def segment(
    *,
    class_id: int | None = None,
    region: Region = "predicted",
    background: int | None = 0,
) -> Target:
    """Seg-Grad-CAM's target: the logits of a class, summed over a region, ``sum_(i,j) in M S_c(i, j)``.

    The output is logits [b k *m], such as [b k h w], or a dict that holds them as ``out`` (torchvision's). A sample in which
    the region is empty has no such target: its score and map are NaN, and the sheet leaves it out.

    Source: Vinogradova et al. 2020, arXiv 2002.11434.

    Args:
        class_id: the class; by default the one of most places in the region, other than the background.
        region: the region M: where the class is ``predicted``, where it is the ``label`` (class ids of every place, [b *m]),
            ``everywhere``, one place (y, x) of the output, or a mask [*m] or [b *m]. Of a single logit, k = 1, that is where
            it is positive, and where the label is 1.
        background: the class that is never chosen by itself; None if there is none.

    Raises:
        ValueError: at an output or a region of another shape.
    """
    return RegionOfClass(class_id, region, background)


@dataclass(frozen=True, eq=False)
class RegionOfClass:
    """The logits of a class, summed over a region."""

    class_id: int | None
    region: Region
    background: int | None
    samples: slice = field(default_factory=lambda: slice(None))  # of the whole batch, for which a mask may have a row each
    reads = "logits"

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """The class and the region of each sample; absent where the region is empty."""
        logits = _dense_logits(output)
        predicted = _predicted(logits.detach())
        class_map = predicted
        # a tensor of a mask compares place by place, so only a word is compared with a word
        if isinstance(self.region, str) and self.region == "label":
            class_map = self._labels(label, predicted)
            if logits.shape[1] == 1:
                class_map = _only_class(class_map == 1)
        classes = self._classes(class_map, predicted, logits.shape[1])
        if isinstance(self.region, str) and self.region != "everywhere":
            region = class_map == classes.reshape(-1, *(1,) * predicted[0].ndim)
        else:
            region = self._mask(predicted)
        absent = ~region.flatten(1).any(1)
        return Choice((classes, region), classes[:, None], absent[:, None], placed=True)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b 1"]:
        """``sum_(i,j) in M S_c(i, j)``."""
        classes, region = choice.parts
        rows = torch.arange(len(classes), device=classes.device)
        of_class = _dense_logits(output)[rows, classes]
        total: Tensor = (of_class * region).flatten(1).sum(1)
        return total[:, None]

    def for_part(self, samples: slice, count: int, labels: Tensor | None) -> "RegionOfClass":
        """The same for some of the samples: of masks that were given one a sample, theirs."""
        return replace(self, samples=samples)

    def _classes(self, class_map: Int[Tensor, "b *m"], predicted: Int[Tensor, "b *m"], k: int) -> Int[Tensor, "b"]:
        if self.class_id is None:
            return _commonest(class_map, self._mask(predicted), self.background, k)
        if not 0 <= self.class_id < k:
            raise ValueError(f"segment(class_id={self.class_id}): the model has {k} classes, 0 to {k - 1}.")
        return torch.full((len(predicted),), self.class_id, device=predicted.device)

    def _labels(self, label: Tensor | None, predicted: Int[Tensor, "b *m"]) -> Int[Tensor, "b *m"]:
        # with an axis of one channel, as losses for a single logit have it
        if label is not None and label.ndim == predicted.ndim + 1 and label.shape[1] == 1:
            label = label[:, 0]
        if label is None or label.shape != predicted.shape:
            raise ValueError(f"segment(region='label') needs class ids {tuple(predicted.shape)}; got {describe_labels(label)}.")
        return label.to(predicted)

    def _mask(self, predicted: Int[Tensor, "b *m"]) -> Bool[Tensor, "b *m"]:
        """The region before any class is asked for."""
        if isinstance(self.region, Tensor):
            return _batch_mask(self.region, self.samples, predicted)
        if not isinstance(self.region, str):
            return _place_mask(self.region, predicted)
        if self.region not in ("predicted", "label", "everywhere"):
            raise ValueError(
                f"segment(region={self.region!r}): expected 'predicted', 'label', 'everywhere', a place (y, x) or a mask."
            )
        return torch.ones_like(predicted, dtype=torch.bool)


def _batch_mask(mask: Tensor, samples: slice, predicted: Int[Tensor, "b *m"]) -> Bool[Tensor, "b *m"]:
    """A mask [*m] or [b *m] for every sample."""
    if mask.ndim == predicted.ndim:
        mask = mask[samples]
    size = tuple(predicted.shape[1:])
    if tuple(mask.shape[-len(size) :]) != size or mask.ndim > predicted.ndim:
        raise ValueError(f"segment(region=...): a mask is {size} or {tuple(predicted.shape)}; got {tuple(mask.shape)}.")
    return mask.to(predicted.device).bool().expand(predicted.shape)


def _place_mask(region: Sequence[int], predicted: Int[Tensor, "b *m"]) -> Bool[Tensor, "b *m"]:
    """The one place (y, x) in every sample."""
    size = tuple(predicted.shape[1:])
    place = tuple(region)
    if len(place) != len(size) or not all(0 <= p < n for p, n in zip(place, size, strict=True)):
        raise ValueError(f"segment(region={region!r}): expected a place in {size}, the size of the output, as (y, x).")
    mask = torch.zeros_like(predicted, dtype=torch.bool)
    # with the batch last, one place reaches every sample
    mask.movedim(0, -1)[place] = True
    return mask


def _dense_logits(output: Any) -> Float[Tensor, "b k *m"]:
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("out")
    if isinstance(logits, Tensor) and logits.ndim >= 3:
        return logits
    shape = describe_output(output)
    if isinstance(logits, Tensor):
        shape = describe_output(logits)
    text = f"The target 'segment' needs logits of every place, [b k h w]; the model gave {shape}."
    if is_queries(output) or is_detections(output):
        text += " Explain a box with target='detection'."
    raise ValueError(text)


def _predicted(logits: Float[Tensor, "b k *m"]) -> Int[Tensor, "b *m"]:
    """The class of every place; of a single logit that class where it is positive, else none."""
    if logits.shape[1] == 1:
        return _only_class(logits[:, 0] > 0)
    return logits.argmax(1)


def _only_class(there: Bool[Tensor, "b *m"]) -> Int[Tensor, "b *m"]:
    """The class 0 where it is, elsewhere -1."""
    return there.long() - 1


def _commonest(
    class_map: Int[Tensor, "b *m"],
    mask: Bool[Tensor, "b *m"],
    background: int | None,
    k: int,
) -> Int[Tensor, "b"]:
    """The class of most places in the mask, but for the background and ids that are no class (an ignored 255)."""
    counted = mask & (class_map >= 0) & (class_map < k)
    votes = torch.zeros(len(class_map), k, device=class_map.device)
    # an ignored id has to point to some class, and adds no vote there
    votes.scatter_add_(1, class_map.clamp(0, k - 1).flatten(1), counted.flatten(1).float())
    if background is not None and 0 <= background < k and k > 1:
        # half a vote: less than that of any place, more than that of none
        votes[:, background] = votes[:, background].clamp(max=0.5)
    return votes.argmax(1)
