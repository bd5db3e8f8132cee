"""Targets that choose classes, whose logits are explained. b batch, k class, t targets."""

from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.logits import class_logits, logits_of
from lightning_cam.targets.target import find


@TARGETS.register
def label(logits: Any, label: Shaped[Tensor, "b ..."] | None) -> Int[Tensor, "b"]:
    """The labelled class: the same class at every look, so curves and pictures stay comparable."""
    class_logits(logits)
    if label is None:
        raise ValueError(
            "The target 'label' needs labels and there are none: say where the batch holds them with Batch(label=...), "
            "or choose target='predicted', or a class id."
        )
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    single = logits.shape[1] == 1
    if label.ndim != 1 or label.is_floating_point() or single:
        several = label.shape == logits.shape
        instead = "'positives' explains every class that is set" if several else "'binary' explains a single logit"
        other = instead if several or single else "For other labels pass a callable (logits, label) -> class ids or scores"
        raise ValueError(
            "The target 'label' needs one integer class a sample, shape [b], and a logit a class; "
            f"got {tuple(label.shape)} of {label.dtype} for {tuple(logits.shape)} logits. {other}."
        )
    return label


@TARGETS.register
def predicted(logits: Any, label: Tensor | None) -> Int[Tensor, "b"]:
    """The class of the largest logit; it may change from look to look."""
    best: Tensor = class_logits(logits).argmax(1)
    return best


@TARGETS.register
def runner_up(logits: Any, label: Tensor | None) -> Int[Tensor, "b"]:
    """The class of the second largest logit: what the model would have said instead.

    Raises:
        ValueError: if there is one logit only.
    """
    z: Tensor = class_logits(logits)
    if z.shape[1] < 2:
        raise ValueError(f"The target 'runner_up' needs two classes; the model gave logits {tuple(z.shape)}. Use 'binary'.")
    return z.topk(2, dim=1).indices[:, 1]


@TARGETS.register
def top_k(logits: Any, label: Tensor | None, *, k: int = 5) -> Int[Tensor, "b t"]:
    """The k classes of the largest logits, best first."""
    return class_logits(logits).topk(min(k, logits.shape[1]), dim=1).indices


@TARGETS.register
def positives(logits: Any, label: Shaped[Tensor, "b ..."] | None) -> Int[Tensor, "b t"]:
    """Every class that a multi-hot label [b k] sets (above 0.5), in order of classes: one map for each.

    Samples differ in how many they have. t is the largest number, and rows with fewer end in -1: there the map and the score
    are NaN, the sheet leaves the card out, and metrics do not count it.

    Raises:
        ValueError: if the labels are not multi-hot.
    """
    z: Tensor = class_logits(logits)
    if label is None or label.shape != z.shape:
        given = "none" if label is None else f"{tuple(label.shape)}"
        raise ValueError(
            f"The target 'positives' needs multi-hot labels {tuple(logits.shape)}, one for each logit; got {given}. "
            "For one class a sample use 'label'."
        )
    set_: Bool[Tensor, "b k"] = label.to(logits.device) > 0.5
    most = max(1, int(set_.sum(1).max()))
    first = set_.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return first.masked_fill(~set_.gather(1, first), -1)


def classes_of(spec: Any, logits: Any, label: Tensor | None) -> Int[Tensor, "b *t"]:
    """The classes a score is about: of a target that chooses some; for None the labels where there are any, else predicted.

    Raises:
        ValueError: if the target gives scores, or classes that the logits do not have.
    """
    chosen = find(("predicted" if label is None else "label") if spec is None else spec)(logits, label)
    chosen = torch.stack(chosen, 1) if isinstance(chosen, list) else chosen
    if not isinstance(chosen, Tensor) or chosen.is_floating_point() or chosen.ndim not in (1, 2):
        raise ValueError(f"of={spec!r} gives scores, and classes are needed, such as 'label', 'predicted' or a class id.")
    logits_of(chosen if chosen.ndim == 2 else chosen[:, None], logits)  # tells what is wrong with them
    return chosen
