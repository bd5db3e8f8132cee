"""The logits in whatever a model returns. b batch, q query, k class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

Output = str | int | Callable[[Any], Any] | None

_LOGITS = ("logits", "out", "logits_per_image")
_QUERY_LOGITS = ("pred_logits", "logits")
_DETECTION = {"boxes", "scores", "labels"}


@dataclass(frozen=True, eq=False)
class QueryOutput:
    """What a detector by queries (DETR and its family) gives for each of them.

    Attributes:
        logits: of the classes; a last one of "no object" where the detector has it.
        boxes: centre, width and height, (cx, cy, w, h) as shares of the picture, 0 to 1.
    """

    logits: Float[Tensor, "b q k"]
    boxes: Float[Tensor, "b q 4"]

    def detach(self) -> "QueryOutput":
        """The same numbers without their graph."""
        return QueryOutput(self.logits.detach(), self.boxes.detach())


def find_logits(output: Any, key: Output) -> Any:
    """Take the logits out of a model's output: by key, position, attribute or callable; else the output itself.

    Without a key that is a tensor, the ``logits``, ``out`` or ``logits_per_image`` of a dict or object, or what a detector
    found: a list of detections, or logits and boxes of queries as a ``QueryOutput``.

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


def is_queries(output: Any) -> bool:
    """Whether this holds logits [b q k] and boxes [b q 4] of queries."""
    return find_queries(output) is not None


def find_queries(output: Any) -> QueryOutput | None:
    """The logits and boxes of queries in a dict or object, ``pred_logits`` or ``logits`` beside ``pred_boxes``, or None."""
    if isinstance(output, QueryOutput):
        return output
    boxes = _entry(output, "pred_boxes")
    for name in _QUERY_LOGITS:
        logits = _entry(output, name)
        if not isinstance(logits, Tensor) or not isinstance(boxes, Tensor):
            continue
        if logits.ndim == 3 and boxes.shape == (*logits.shape[:2], 4):
            return QueryOutput(logits, boxes)
    return None


def _obvious_logits(output: Any) -> Any:
    if isinstance(output, Tensor) or is_detections(output):
        return output
    queries = find_queries(output)
    if queries is not None:
        return queries
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
    if hasattr(output, "_fields"):
        return f"a {kind} of {', '.join(output._fields)}"
    if isinstance(output, tuple | list):
        return f"a {kind} of {len(output)}"
    if isinstance(output, Tensor):
        return f"a {kind} of shape {tuple(output.shape)}"
    return str(type(output))
