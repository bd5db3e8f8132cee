"""The logits in whatever a model returns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Output = str | int | Callable[[Any], Any] | None


def find_logits(output: Any, key: Output) -> Any:
    """Take the logits out of a model's output: by key, position, attribute or callable; else the output itself.

    Without a key that is a tensor, the ``logits`` or ``out`` of a dict or object, or a detector's list of detections.

    Raises:
        ValueError: for a key the output does not have, or an output that is no tensor and no key given.
    """
    if callable(key):
        return key(output)
    if key is None:
        if isinstance(output, Tensor) or is_detections(output):
            return output
        for name in ("logits", "out"):
            if isinstance(value := _entry(output, name), Tensor):
                return value
        raise ValueError(
            f"The model returned {_parts(output)}, not a tensor. Name the logits: output='logits', output=0, or a callable."
        )
    value = _entry(output, key)
    if value is None:
        raise ValueError(f"The model's output has no {key!r}; it is {_parts(output)}.")
    return value


def is_detections(output: Any) -> bool:
    """Whether this is a dict of boxes, scores and labels for each sample, as torchvision's detectors return it."""
    keys = {"boxes", "scores", "labels"}
    listed = isinstance(output, Sequence) and bool(output)
    return listed and all(isinstance(one, Mapping) and keys <= set(one) for one in output)


def _entry(output: Any, key: str | int) -> Any:
    try:
        return output[key] if isinstance(key, int) or isinstance(output, Mapping) else getattr(output, key, None)
    except (KeyError, IndexError, TypeError):
        return None


def _parts(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__} of shape {tuple(output.shape)}" if isinstance(output, Tensor) else str(type(output))
