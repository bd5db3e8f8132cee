"""Sinks by the logger's class name, so that no tracker's package is imported to know it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from numpy import ndarray

from lightning_cam.render.picture import Picture

Overlays = Mapping[str, UInt8[ndarray[Any, Any], "y x 3"]]  # each sample's own picture, by its name


@runtime_checkable
class Sink(Protocol):
    """Write one finished picture; ``tag`` is its path-like name, ``step`` its place on the tracker's axis.

    A sink with a parameter ``record`` is also given what the picture shows (captions, numbers, raw maps; None for pictures of
    nothing else), one with ``overlays`` each sample's own picture by name, uint8 [y x 3].
    """

    def __call__(self, logger: Any, tag: str, picture: Picture, step: int) -> None:
        """Write it."""


_KNOWN: dict[str, Sink] = {}
# loggers that nobody taught, but which have a log_image
_DUCK = "*"


def register(*loggers: str) -> Callable[[Sink], Sink]:
    """Teach a sink for loggers of these class names, and of classes derived from them."""

    def add(sink: Sink) -> Sink:
        _KNOWN.update(dict.fromkeys(loggers, sink))
        return sink

    return add


def unregister(*loggers: str) -> None:
    """Forget the sinks of these class names."""
    for logger in loggers:
        _KNOWN.pop(logger, None)


def names() -> list[str]:
    """The class names of the loggers that are served."""
    return [name for name in _KNOWN if name != _DUCK]


def find(logger: Any) -> Sink | None:
    """The sink of a logger: of its class or the nearest it derives from, else by its ``log_image``, else None."""
    for kind in type(logger).__mro__:
        if kind.__name__ in _KNOWN:
            return _KNOWN[kind.__name__]
    # of the class: a logger that answers to any attribute would seem to have one
    if callable(getattr(type(logger), "log_image", None)):
        return _KNOWN[_DUCK]
    return None


def options_of(sink: Callable[..., None]) -> list[str]:
    """What a sink takes beyond logger, tag, picture and step."""
    try:
        parameters = list(inspect.signature(sink).parameters)
    except (TypeError, ValueError):
        # a builtin may have no signature
        return []
    return parameters[4:]
