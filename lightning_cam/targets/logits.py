"""The logits of chosen classes, and what is no logits of classes told with what explains it. b batch, k class, t targets."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.model.output import is_detections


def logits_of(classes: Int[Tensor, "b t"], logits: Any) -> tuple[Float[Tensor, "b t"], Bool[Tensor, "b t"] | None]:
    """The logits of classes, NaN where the class is -1, and where that is, if anywhere.

    Raises:
        ValueError: for a class out of range, or logits in which no class can be chosen.
    """
    b, k = tuple(class_logits(logits).shape)
    if len(classes) != b:
        raise ValueError(f"The target gave {len(classes)} classes for {b} samples; expected one a sample.")
    low, high = torch.stack([classes.min(), classes.max()]).tolist()
    if low < -1 or high >= k:
        wrong = low if low < -1 else high
        raise ValueError(out_of_range(wrong, k))
    absent = classes < 0 if low < 0 else None
    score = logits.gather(1, classes if absent is None else classes.clamp(min=0))
    return (score if absent is None else score.masked_fill(absent, torch.nan)), absent


def class_logits(output: Any) -> Float[Tensor, "b k"]:
    """A model's output as logits of classes.

    Raises:
        ValueError: for anything else; what explains it is told.
    """
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    if is_detections(output):
        instead = "Explain a box with target='detection'."
    elif isinstance(output, Tensor) and output.ndim > 2:
        instead = "Explain a class over a region with target='segment'."
    elif isinstance(output, Tensor):
        instead = "Explain a single logit with target='binary', a regression with target='value'."
    else:
        instead = "Pass a callable target (output, label) -> scores [b], or name the logits with output=..."
    raise ValueError(f"Classes can be chosen from logits of shape [b k]; the model gave {shape(output)}. {instead}")


def shape(output: Any) -> str:
    """A model's output in a word, for error messages."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    return "detections" if is_detections(output) else f"a {type(output).__name__}"


def out_of_range(c: int, k: int) -> str:
    """What is wrong with a class."""
    return f"Class {c} is out of range: the model has {k} outputs, so classes are 0 to {k - 1}."
