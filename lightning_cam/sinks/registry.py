"""Sinks by the logger's class name, so that no tracker's package is imported to know it."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from lightning_cam.render.picture import Picture


@runtime_checkable
class Sink(Protocol):
    """Write one picture; ``tag`` is its path-like name, ``step`` its place on the tracker's axis."""

    def __call__(self, logger: Any, tag: str, picture: Picture, step: int) -> None:
        """Write it."""


_KNOWN: dict[str, Sink] = {}


def register(*loggers: str) -> Callable[[Sink], Sink]:
    """Teach a sink for loggers of these class names, and of classes derived from them."""

    def add(sink: Sink) -> Sink:
        _KNOWN.update(dict.fromkeys(loggers, sink))
        return sink

    return add


def names() -> list[str]:
    """The class names of the loggers that are served."""
    return [name for name in _KNOWN if name != "*"]


def find(logger: Any) -> Sink | None:
    """The sink of a logger: of its class or the nearest it derives from, else by its ``log_image``, else None."""
    for kind in type(logger).__mro__:
        if kind.__name__ in _KNOWN:
            return _KNOWN[kind.__name__]
    return _KNOWN["*"] if callable(getattr(type(logger), "log_image", None)) else None
