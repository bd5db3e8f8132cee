"""The logits of chosen classes, and what is no logits of classes told with what explains it. b batch, k class, t targets."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.model.output import is_detections, is_queries
from lightning_cam.targets.target import Choice, with_target_axis


def choice_of_classes(classes: Int[Tensor, "b *t"], output: Any) -> Choice:
    """The choice of classes whose logits are explained, -1 where a sample has fewer.

    Raises:
        ValueError: for a class out of range, or an output in which no class can be chosen.
    """
    wide = with_target_axis(classes)
    if isinstance(output, Tensor):
        wide = wide.to(output.device)
    absent = absent_classes(wide, output)
    return Choice(classes=wide.long(), absent=absent, logit=True, single=classes.ndim == 1)


def absent_classes(classes: Int[Tensor, "b t"], output: Any) -> Bool[Tensor, "b t"] | None:
    """Where a class is -1, if anywhere, after a check that all others are the output's.

    Raises:
        ValueError: for a class out of range, or an output in which no class can be chosen.
    """
    b, k = class_logits(output).shape
    if len(classes) != b:
        raise ValueError(f"The target gave {len(classes)} classes for {b} samples; expected one a sample.")
    # stacked, since every number brought to the host is a wait for the device
    low, high = torch.stack([classes.min(), classes.max()]).tolist()
    if low < -1:
        raise ValueError(out_of_range(low, k))
    if high >= k:
        raise ValueError(out_of_range(high, k))
    if low == -1:
        return classes < 0
    return None


def logits_of_classes(output: Float[Tensor, "b k"], classes: Int[Tensor, "b t"] | None) -> Float[Tensor, "b t"]:
    """The logits of classes; where a class is -1, any."""
    assert classes is not None
    # an absent class has to gather something; its score is masked later
    return output.gather(1, classes.clamp(min=0))


def class_logits(output: Any) -> Float[Tensor, "b k"]:
    """A model's output as logits of classes.

    Raises:
        ValueError: for anything else; what explains it is told.
    """
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    raise ValueError(
        f"Classes can be chosen from logits of shape [b k]; the model gave {describe_output(output)}. {_alternative(output)}"
    )


def describe_output(output: Any) -> str:
    """A model's output in a word, for error messages."""
    if is_detections(output):
        return "detections"
    if is_queries(output):
        return "boxes and logits of queries"
    return describe_shape(output)


def describe_shape(value: Any) -> str:
    """A tensor's shape, or the type of anything else, for error messages.

    Example:
        >>> describe_shape(torch.zeros(2, 5)), describe_shape({})
        ('(2, 5)', 'a dict')
    """
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return f"a {type(value).__name__}"


def describe_labels(label: Tensor | None) -> str:
    """The labels' shape, or that there are none, for error messages."""
    if label is None:
        return "none"
    return describe_shape(label)


def out_of_range(class_id: int, k: int) -> str:
    """What is wrong with a class."""
    return f"Class {class_id} is out of range: the model has {k} outputs, so classes are 0 to {k - 1}."


def _alternative(output: Any) -> str:
    if is_detections(output) or is_queries(output):
        return "Explain a box with target='detection'."
    if not isinstance(output, Tensor):
        return "Pass a callable target (output, label) -> scores [b], or name the logits with output=..."
    if output.ndim == 3:
        return (
            "Explain a class over a region with target='segment'; of a detector that gives logits of queries, "
            "a box with target='detection' and without output=..."
        )
    if output.ndim > 2:
        return "Explain a class over a region with target='segment'."
    return "Explain a single logit with target='binary', a regression with target='value'."
