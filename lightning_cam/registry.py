"""A function by its name, with options: how methods, metrics, targets and sinks are found."""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Name up to three known names closest to the one given, as the end of an error message."""
    known = list(known)
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    close += [name for name in known if given and given in name and name not in close][: 3 - len(close)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


@dataclass(frozen=True)
class Entry(Generic[F]):
    """A function and the label under which its results are logged."""

    label: str
    function: F


class Registry(Generic[F]):
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
        self._wrappers: dict[str, Callable[..., F]] = {}

    def register(self, function: F) -> F:
        """Add a function under its own name; the same name again replaces it."""
        self._known[function.__name__] = function
        return function

    def wrapper(self, function: Callable[..., F]) -> Callable[..., F]:
        """Add a function from member to member under its own name: found as ``{name: {noun: member, option: value}}``.

        What is returned takes the member as the family finds it, and names what it makes after it.
        """
        takes = inspect.signature(function).parameters

        @functools.wraps(function)
        def wrap(member: Any, **options: Any) -> F:
            inner = self.find(member)
            self._check(function.__name__, options, list(takes)[1:])
            made: Any = function(inner.function, **options)
            made.__name__ = "_".join([function.__name__, inner.label, *_words(list(options.values()))])
            wrapped: F = made
            return wrapped

        self._wrappers[function.__name__] = wrap
        return wrap

    def names(self) -> list[str]:
        """Every known name that can stand alone, in the order of joining."""
        return list(self._known)

    def wrappers(self) -> list[str]:
        """Every known name that needs another member to wrap, in the order of joining."""
        return list(self._wrappers)

    def about(self, name: str) -> str:
        """The first line of what a known name says of itself."""
        lines = (inspect.getdoc(self._known.get(name) or self._wrappers[name]) or "").splitlines()
        return lines[0] if lines else ""

    def find(self, spec: Any) -> Entry[F]:
        """Resolve a name, an import path, a callable, or one of these with options, ``{name: {option: value}}``.

        Raises:
            ValueError: for a name nobody knows, or an option the function does not take; near names are told.
            TypeError: for anything else.
        """
        if isinstance(spec, Entry):
            return spec
        if isinstance(spec, str):
            function = self._by_name(spec)
            return Entry(function.__name__, function)
        if isinstance(spec, Mapping):
            if len(spec) != 1:
                raise ValueError(f"A {self.noun} with options is one entry, {{name: {{option: value}}}}; got {spec!r}.")
            ((name, options),) = spec.items()
            if name in self._wrappers:
                return self._wrapped(name, dict(options or {}))
            return self._with_options(self._by_name(name), dict(options or {}))
        if isinstance(spec, functools.partial):
            return self._with_options(spec.func, dict(spec.keywords), spec.args)
        if callable(spec):
            if spec in self._wrappers.values():
                return self._wrapped(spec.__name__, {})
            return Entry(getattr(spec, "__name__", type(spec).__name__), spec)
        raise TypeError(f"A {self.noun} is a name, {{name: {{option: value}}}} or a callable; got {spec!r}.")

    def _by_name(self, name: str) -> F:
        if name in self._known:
            return self._known[name]
        if name in self._wrappers:
            self._wrapped(name, {})
        module, _, attribute = name.replace(":", ".").rpartition(".")
        if not module:
            known = [*self._known, *self._wrappers]
            raise ValueError(f"No {self.noun} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
        try:
            function: F = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"The {self.noun} {name!r} cannot be imported: {error}.") from error
        return function

    def _wrapped(self, name: str, options: dict[str, Any]) -> Entry[F]:
        if self.noun not in options:
            raise ValueError(f"{name} wraps another {self.noun}: {{{name!r}: {{{self.noun!r}: ...}}}}; none was given.")
        made = self._wrappers[name](options.pop(self.noun), **options)
        return Entry(made.__name__, made)

    def _check(self, name: str, options: Iterable[str], takes: list[str]) -> None:
        unknown = [option for option in options if option not in takes]
        if unknown:
            raise ValueError(
                f"The {self.noun} {name} has no option {unknown[0]!r}.{did_you_mean(unknown[0], takes)} "
                f"It takes: {', '.join(takes) or 'none'}."
            )

    def _with_options(self, function: Any, options: dict[str, Any], args: tuple[Any, ...] = ()) -> Entry[F]:
        parameters = inspect.signature(function).parameters.values()
        takes = [p.name for p in parameters if p.default is not p.empty or p.kind is p.KEYWORD_ONLY]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            self._check(function.__name__, options, takes)
        label = "_".join([function.__name__, *_words(list(options.values()))])
        return Entry(label, functools.partial(function, *args, **options))  # type: ignore[arg-type]


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


METHODS: Registry[Callable[..., Any]] = Registry("method")
METRICS: Registry[Callable[..., Any]] = Registry("metric")
TARGETS: Registry[Callable[..., Any]] = Registry("target")
