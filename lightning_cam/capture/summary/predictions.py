"""What the model says of each sample: class, probability and verdict, computed once a look. b batch, t targets, k class."""

from typing import Any, TypeGuard

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.gradient import at_least_float
from lightning_cam.record import Predictions, to_host
from lightning_cam.targets.classes import soft_classes


def predict(forward: Forward) -> Predictions:
    """The classes told, the predicted class and their probabilities; one transfer to the host."""
    score, logits = forward.target_scores.score, forward.output
    b, t = score.shape
    choice = forward.target_scores.choice
    classes = choice.classes
    if classes is None:
        classes = torch.full((b, t), -1, device=score.device)
    unknown = torch.full((b,), -1, device=score.device)
    nan = torch.full((b, t), torch.nan, device=score.device)
    if choice.probability is not None:
        return Predictions(*to_host([classes, choice.probability.float(), unknown, nan[:, 0], unknown]))
    # what a target names is told by no class: the output may be embeddings, whose largest number says nothing
    if choice.names:
        return Predictions(*to_host([classes, nan, unknown, nan[:, 0], unknown]))
    if not _are_of_classes(logits):
        return Predictions(*to_host([classes, nan, unknown, nan[:, 0], unknown]))
    labels = _class_labels(forward.labels, unknown)
    soft = _soft_labels(forward, logits)
    if soft is not None:
        labels = soft
    several = _may_be_several(forward, logits)
    probabilities = _probabilities(forward, logits.detach().float())
    # several classes may be right, so none is predicted
    if several or (forward.reading.kind == "sigmoid" and forward.labels is None):
        probability = _of_classes(probabilities, classes)
        return Predictions(*to_host([classes, probability, unknown, nan[:, 0], labels]))
    best = probabilities.max(1)
    probability = _of_classes(probabilities, classes)
    return Predictions(*to_host([classes, probability, best.indices, best.values, labels]))


def class_probabilities(forward: Forward) -> Float[Tensor, "b k"] | None:
    """Of every class: those that the model gives, as they are, else of its logits. None where the output is no logits [b k]."""
    logits = forward.output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    return _probabilities(forward, logits.detach().float())


def class_probability(forward: Forward) -> Float[Tensor, "b t"] | None:
    """The probabilities of what is explained, on the device and in the precision of the output, single at least.

    Those of the classes told beside the scores, NaN where a sample has no such target; of a single logit, that of the side
    explained. Of a forward of changed images those of the same classes. None where the scores are of neither.
    """
    choice, output = forward.target_scores.choice, forward.output
    if choice.log_odds:
        return at_least_float(forward.target_scores.score.detach()).sigmoid()
    # a class told beside a box or a prompt is none of the output's columns
    beside = choice.probability is not None or bool(choice.names)
    if choice.classes is None or beside or not _are_of_classes(output):
        return None
    return _of_classes(_probabilities(forward, at_least_float(output.detach())), choice.classes)


def _are_of_classes(output: Any) -> TypeGuard[Float[Tensor, "b k"]]:
    return isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1


def _may_be_several(forward: Forward, logits: Float[Tensor, "b k"]) -> bool:
    """Whether the labels are such that more than one class may be right."""
    several = forward.labels is not None and forward.labels.shape == logits.shape
    return several and _soft_labels(forward, logits) is None


def _probabilities(forward: Forward, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Those that the model gives, as they are; else of its logits, of each class for itself where several may be right."""
    if forward.reading.kind is not None:
        given: Tensor = forward.reading.output.detach()
        return given.to(logits.dtype)
    if logits.shape[1] == 1 or _may_be_several(forward, logits):
        return logits.sigmoid()
    return logits.softmax(1)


def _class_labels(labels: Shaped[Tensor, "b ..."] | None, unknown: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return unknown
    return labels.long()


def _soft_labels(forward: Forward, logits: Float[Tensor, "b k"]) -> Int[Tensor, "b"] | None:
    """The class of the largest share, where labels are shares of one class."""
    labels = forward.labels
    classes = soft_classes(labels, logits)
    if labels is None or classes is None:
        return None
    # multi-label samples may happen to have one class each; where several are asked for, they are taken for such
    whole = bool(((labels == 0) | (labels == 1)).all())
    if whole and not forward.target_scores.choice.single:
        return None
    return classes


def _of_classes(probabilities: Float[Tensor, "b k"], classes: Int[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    absent: Bool[Tensor, "b t"] = classes < 0
    return probabilities.gather(1, classes.clamp(min=0)).masked_fill(absent, torch.nan)
