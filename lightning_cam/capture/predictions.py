"""What the model says of each sample: class, probability and verdict, computed once a look. b batch, t targets, k class."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_cam.capture.forward import Forward
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
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        return Predictions(*to_host([classes, nan, unknown, nan[:, 0], unknown]))
    labels = _class_labels(forward.labels, unknown)
    soft = _soft_labels(forward, logits)
    if soft is not None:
        labels = soft
    several = soft is None and forward.labels is not None and forward.labels.shape == logits.shape
    probabilities = class_probabilities(forward, several)
    assert probabilities is not None
    # several classes may be right, so none is predicted
    if several or (forward.reading.kind == "sigmoid" and forward.labels is None):
        probability = _of_classes(probabilities, classes)
        return Predictions(*to_host([classes, probability, unknown, nan[:, 0], labels]))
    best = probabilities.max(1)
    probability = _of_classes(probabilities, classes)
    return Predictions(*to_host([classes, probability, best.indices, best.values, labels]))


def class_probabilities(forward: Forward, several: bool = False) -> Float[Tensor, "b k"] | None:
    """Those that the model gives, as they are; else of its logits, of each class for itself where several may be right.

    None where the output is no logits [b k].
    """
    logits = forward.output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    if forward.reading.kind is not None:
        given: Tensor = forward.reading.output.detach()
        return given.float()
    if several or logits.shape[1] == 1:
        return logits.detach().float().sigmoid()
    return logits.detach().float().softmax(1)


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
