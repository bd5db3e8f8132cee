"""Targets that choose classes, whose logits are explained. b batch, k class, t targets."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.adapters import find
from lightning_cam.targets.logits import choice_of_classes, class_logits, describe_labels, describe_shape, logits_of_classes
from lightning_cam.targets.target import Choice, Target

_ROUNDING = 0.01  # of the sum of soft labels in half precision


@TARGETS.register
def label() -> Target:
    """The labelled class: the same class at every look, so curves and pictures stay comparable.

    Labels [b] of integers, or [b 1], name a class each. Where a batch has others, or none, what is nearest to it is explained,
    and it is said once:

    - soft labels [b k], floats in [0, 1] whose rows sum to 1 (mixup, smoothing, one-hot): the class of the largest share;
    - multi-hot labels [b k], others in [0, 1]: every class that is set (above 0.5), as ``positives``;
    - no labels: the class of the largest logit, as ``predicted``;
    - labels of 0 and 1, or -1 and 1, where the model gives one number a sample: that logit by its label's sign, as ``binary``;
    - other floating labels where it does: that number, as ``value``.

    Raises:
        ValueError: for any other labels, and for an output that is no number a sample and no logits [b k].
    """
    return LabelledClass()


@dataclass(frozen=True, eq=False)
class LabelledClass:
    """The logit of the labelled class, or the number that is nearest to it.

    Attributes:
        labels: of all samples, where those explained are a part of the batch: what kind they are must not depend on the part.
    """

    labels: Shaped[Tensor, "n ..."] | None = None
    reads = "logits"

    def choose(self, output: Any, label: Shaped[Tensor, "b ..."] | None, head: Tensor | None) -> Choice:
        """The classes; of a single number its sign."""
        whole = label if self.labels is None else self.labels
        if isinstance(output, Tensor) and output.ndim in (1, 2) and output.numel() == len(output):
            return _choice_of_number(output, label, whole)
        classes, note = _labelled_classes(class_logits(output), label, whole)
        return replace(choice_of_classes(classes, output), note=note)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """The logits of the classes, or the signed number."""
        if choice.logit:
            return logits_of_classes(output, choice.classes)
        (sign,) = choice.parts
        signed: Tensor = output.flatten() * sign
        return signed[:, None]

    def for_part(self, samples: slice, count: int, labels: Tensor | None) -> "LabelledClass":
        """The same, which takes labels for what those of all samples are."""
        return LabelledClass(labels)


@TARGETS.register(reads="logits")
def predicted(logits: Any, label: Tensor | None) -> Int[Tensor, "b"]:
    """The class of the largest logit; it may change from look to look."""
    return class_logits(logits).argmax(1)


@TARGETS.register(reads="logits")
def runner_up(logits: Any, label: Tensor | None) -> Int[Tensor, "b"]:
    """The class of the second largest logit: what the model would have said instead.

    Raises:
        ValueError: if there is one logit only.
    """
    z: Tensor = class_logits(logits)
    if z.shape[1] < 2:
        raise ValueError(f"The target 'runner_up' needs two classes; the model gave logits {tuple(z.shape)}. Use 'binary'.")
    return z.topk(2, dim=1).indices[:, 1]


@TARGETS.register(reads="logits")
def top_k(logits: Any, label: Tensor | None, *, k: int = 5) -> Int[Tensor, "b t"]:
    """The k classes of the largest logits, best first."""
    return class_logits(logits).topk(min(k, logits.shape[1]), dim=1).indices


@TARGETS.register(reads="logits")
def positives(logits: Any, label: Shaped[Tensor, "b ..."] | None) -> Int[Tensor, "b t"]:
    """Every class that a multi-hot label [b k] sets (above 0.5), in order of classes: one map for each.

    Samples differ in how many they have. t is the largest number, and rows with fewer end in -1: there the map and the score
    are NaN, the sheet leaves the card out, and metrics do not count it.

    Raises:
        ValueError: if the labels are not multi-hot.
    """
    z: Tensor = class_logits(logits)
    if label is None or label.shape != z.shape:
        raise ValueError(
            f"The target 'positives' needs multi-hot labels {tuple(logits.shape)}, one for each logit; "
            f"got {describe_labels(label)}. For one class a sample use 'label'."
        )
    is_set: Bool[Tensor, "b k"] = label.to(logits.device) > 0.5
    most = max(1, int(is_set.sum(1).max()))
    # stable, so that the classes that are set come first and in order
    first = is_set.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return first.masked_fill(~is_set.gather(1, first), -1)


def choose_classes(spec: Any, output: Any, label: Tensor | None) -> Choice:
    """The classes that a score is about: of a target that chooses some; for None the labels if there are any, else predicted.

    Raises:
        ValueError: if the target gives scores, or classes that the logits do not have.
    """
    if spec is None:
        spec = "label"
        if label is None:
            spec = "predicted"
    choice = find(spec).choose(output, label, None)
    if not choice.logit or choice.classes is None:
        raise ValueError(f"classes={spec!r} gives scores, and classes are needed, such as 'label', 'predicted' or a class id.")
    # the scores to come are no logits, even though the classes are the same
    return replace(choice, parts=(), absent=choice.classes < 0, logit=False)


def soft_classes(
    label: Shaped[Tensor, "b ..."] | None, logits: Tensor, whole: Shaped[Tensor, "n ..."] | None = None
) -> Int[Tensor, "b"] | None:
    """The class of the largest share of soft labels: floats in [0, 1] of the logits' shape, whose rows sum to 1; else None.

    Args:
        label: the labels.
        logits: of the same samples.
        whole: the labels of all samples, where these are some of them; by default these.
    """
    whole = label if whole is None else whole
    if label is None or whole is None:
        return None
    if label.shape != logits.shape or not whole.is_floating_point() or not _are_shares(whole):
        return None
    sums = whole.float().sum(1)
    if bool(((sums - 1).abs() > _ROUNDING).any()):
        return None
    return label.argmax(1)


def _labelled_classes(
    logits: Float[Tensor, "b k"], label: Shaped[Tensor, "b ..."] | None, whole: Shaped[Tensor, "n ..."] | None
) -> tuple[Int[Tensor, "b *t"], str]:
    """The classes that labels stand for, and what is to be said of it."""
    if label is None:
        return predicted(logits, None), (
            "the batch has no labels, so the predicted class is explained, which may change from look to look; "
            "say where the labels are with Batch(label=...)"
        )
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim == 1 and not label.is_floating_point():
        return label.long(), ""
    soft = soft_classes(label, logits, whole)
    if soft is not None:
        return soft, "the labels are soft, so the class of the largest share is explained"
    if label.shape == logits.shape and whole is not None and _are_shares(whole):
        return positives(logits, label), "the labels are multi-hot, so every class that is set is explained, as by 'positives'"
    raise _no_class(logits, label)


def _choice_of_number(
    output: Float[Tensor, "b *one"], label: Shaped[Tensor, "b ..."] | None, whole: Shaped[Tensor, "n ..."] | None
) -> Choice:
    """The sign by which a model's one number a sample is explained."""
    if label is None or whole is None:
        raise ValueError(
            f"The target 'label' needs labels where the model gives one number a sample, {describe_shape(output)}, "
            "and there are none: say where the batch holds them with Batch(label=...), "
            "or choose target='binary' for a logit, target='value' for a regression."
        )
    if label.numel() != len(output):
        raise _no_class(output, label)
    values = whole.to(output.device).flatten()
    if bool(((values == 0) | (values == 1)).all()) or bool((values.float().abs() == 1).all()):
        note = "the labels are 0 or 1 and the model gives one logit, which is explained by its label's sign, as by 'binary'"
        return replace(find("binary").choose(output, label, None), note=note)
    if not label.is_floating_point():
        raise _no_class(output, label)
    note = "the labels are numbers and the model gives one, which is explained, as by 'value'"
    return Choice((torch.ones_like(output).flatten().detach(),), note=note)


def _are_shares(label: Tensor) -> bool:
    """Whether all values lie in [0, 1]; not where one is NaN."""
    return bool(((label >= 0) & (label <= 1)).all())


def _no_class(output: Tensor, label: Tensor) -> ValueError:
    """What is wrong with labels that stand for no class, and what explains them."""
    alternative = "For other labels pass a callable (logits, label) -> class ids or scores"
    if output.numel() == len(output):
        alternative = "'binary' explains a single logit, 'value' a regression"
    elif label.shape == output.shape:
        alternative = "'positives' explains every class that is set, {'value': {'index': 0}} one number of a regression"
    return ValueError(
        "The target 'label' needs one integer class a sample, shape [b], and a logit a class; "
        f"got {tuple(label.shape)} of {label.dtype} for {tuple(output.shape)} logits. {alternative}."
    )
