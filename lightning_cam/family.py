"""A function by its name, with options: how methods, metrics, targets and sinks are found."""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def nearest(given: str, known: Iterable[str]) -> str:
    """Name up to three known names closest to the one given, as the end of an error message."""
    known = list(known)
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    close += [name for name in known if given and given in name and name not in close][: 3 - len(close)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


@dataclass(frozen=True)
class Named(Generic[F]):
    """A function and the label under which its results are logged."""

    label: str
    function: F


class Family(Generic[F]):
    """The functions of one kind, each known by its name; new ones join by decorator.

    Example:
        >>> METHODS = Family("method")
        >>> @METHODS.register
        ... def brightness(seen): ...
        >>> METHODS.names()
        ['brightness']
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._known: dict[str, F] = {}

    def register(self, function: F) -> F:
        """Add a function under its own name; the same name again replaces it."""
        self._known[function.__name__] = function
        return function

    def names(self) -> list[str]:
        """Every known name, in the order of joining."""
        return list(self._known)

    def find(self, spec: Any) -> Named[F]:
        """Resolve a name, an import path, a callable, or one of these with options, ``{name: {option: value}}``.

        Raises:
            ValueError: for a name nobody knows, or an option the function does not take; near names are told.
            TypeError: for anything else.
        """
        if isinstance(spec, Named):
            return spec
        if isinstance(spec, str):
            function = self._by_name(spec)
            return Named(function.__name__, function)
        if isinstance(spec, Mapping):
            if len(spec) != 1:
                raise ValueError(f"A {self.noun} with options is one entry, {{name: {{option: value}}}}; got {spec!r}.")
            ((name, options),) = spec.items()
            return self._with_options(self._by_name(name), dict(options or {}))
        if isinstance(spec, functools.partial):
            return self._with_options(spec.func, dict(spec.keywords), spec.args)
        if callable(spec):
            return Named(getattr(spec, "__name__", type(spec).__name__), spec)
        raise TypeError(f"A {self.noun} is a name, {{name: {{option: value}}}} or a callable; got {spec!r}.")

    def _by_name(self, name: str) -> F:
        if name in self._known:
            return self._known[name]
        module, _, attribute = name.replace(":", ".").rpartition(".")
        if not module:
            raise ValueError(f"No {self.noun} {name!r}.{nearest(name, self._known)} Known: {', '.join(self._known)}.")
        try:
            function: F = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"The {self.noun} {name!r} cannot be imported: {error}.") from error
        return function

    def _with_options(self, function: Any, options: dict[str, Any], args: tuple[Any, ...] = ()) -> Named[F]:
        parameters = inspect.signature(function).parameters.values()
        takes = [p.name for p in parameters if p.default is not p.empty or p.kind is p.KEYWORD_ONLY]
        unknown = [option for option in options if option not in takes]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise ValueError(
                f"The {self.noun} {function.__name__} has no option {unknown[0]!r}."
                f"{nearest(unknown[0], takes)} It takes: {', '.join(takes) or 'none'}."
            )
        label = "_".join([function.__name__, *_words(list(options.values()))])
        return Named(label, functools.partial(function, *args, **options))  # type: ignore[arg-type]


def _words(value: Any) -> list[str]:
    """Flatten option values into words that may stand in a log tag."""
    if isinstance(value, slice):
        value = [bound for bound in (value.start, value.stop, value.step) if bound is not None]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | range):
        return [word for item in value for word in _words(item)]
    word = getattr(value, "__name__", str(value))
    return ["".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in word)]


METHODS: Family[Callable[..., Any]] = Family("method")
METRICS: Family[Callable[..., Any]] = Family("metric")
TARGETS: Family[Callable[..., Any]] = Family("target")
