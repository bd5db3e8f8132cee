"""Targets that choose classes, whose logits are explained. b batch, k class, t targets."""

from dataclasses import replace
from typing import Any

from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.adapters import find
from lightning_cam.targets.logits import class_logits, describe_labels
from lightning_cam.targets.target import Choice


@TARGETS.register(reads="logits")
def label(logits: Any, label: Shaped[Tensor, "b ..."] | None) -> Int[Tensor, "b"]:
    """The labelled class: the same class at every look, so curves and pictures stay comparable."""
    class_logits(logits)
    if label is None:
        raise ValueError(
            "The target 'label' needs labels and there are none: "
            "say where the batch holds them with Batch(label=...), or choose target='predicted', or a class id."
        )
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim != 1 or label.is_floating_point() or logits.shape[1] == 1:
        raise ValueError(
            "The target 'label' needs one integer class a sample, shape [b], and a logit a class; "
            f"got {tuple(label.shape)} of {label.dtype} for {tuple(logits.shape)} logits. {_alternative(logits, label)}."
        )
    return label


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


def _alternative(logits: Tensor, label: Tensor) -> str:
    """What explains labels that are not one class a sample."""
    if label.shape == logits.shape:
        return "'positives' explains every class that is set"
    if logits.shape[1] == 1:
        return "'binary' explains a single logit"
    return "For other labels pass a callable (logits, label) -> class ids or scores"
