"""The logits in whatever a model returns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Output = str | int | Callable[[Any], Any] | None

_LOGITS = ("logits", "out", "logits_per_image")
_DETECTION = {"boxes", "scores", "labels"}


def find_logits(output: Any, key: Output) -> Any:
    """Take the logits out of a model's output: by key, position, attribute or callable; else the output itself.

    Without a key that is a tensor, the ``logits``, ``out`` or ``logits_per_image`` of a dict or object, or a detector's list of
    detections.

    Raises:
        ValueError: for a key the output does not have, or an output that is no tensor and no key given.

    Example:
        >>> find_logits({"scores": [0.1, 0.9], "features": [3.0]}, "scores")
        [0.1, 0.9]
    """
    if callable(key):
        return key(output)
    if key is None:
        return _obvious_logits(output)
    value = _entry(output, key)
    if value is None:
        raise ValueError(f"The model's output has no {key!r}; it is {_describe(output)}.")
    return value


def is_detections(output: Any) -> bool:
    """Whether this is a dict of boxes, scores and labels for each sample, as torchvision's detectors return it."""
    if not isinstance(output, Sequence) or not output:
        return False
    return all(isinstance(sample, Mapping) and set(sample) >= _DETECTION for sample in output)


def _obvious_logits(output: Any) -> Any:
    if isinstance(output, Tensor) or is_detections(output):
        return output
    for name in _LOGITS:
        value = _entry(output, name)
        if isinstance(value, Tensor):
            return value
    raise ValueError(
        f"The model returned {_describe(output)}, not a tensor. Name the logits: output='logits', output=0, or a callable."
    )


def _entry(output: Any, key: str | int) -> Any:
    try:
        if isinstance(key, int) or isinstance(output, Mapping):
            return output[key]
        return getattr(output, key, None)
    except (KeyError, IndexError, TypeError):
        return None


def _describe(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} of {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        return f"a {kind} of {len(output)}"
    if isinstance(output, Tensor):
        return f"a {kind} of shape {tuple(output.shape)}"
    return str(type(output))
