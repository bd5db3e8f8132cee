"""A function by its name, with options: how methods, metrics, targets and fusions are found."""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[F]):
    """A function, the label under which its results are logged, and what was said of it when it was registered."""

    label: str
    function: F
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Registry(Generic[F]):
    """The functions of one kind, each known by its name; new ones join by decorator.

    Args:
        noun: what a member is called in messages, and as the option of a wrapper that takes one.
        facts: names of what may be said of a member when it is registered.

    Example:
        >>> METRICS = Registry("metric", facts=("range",))
        >>> @METRICS.register(range=(0.0, 1.0))
        ... def coverage(heat, seen, *, above=0.0):
        ...     return (heat > above).float().flatten(1).mean(1)
        >>> METRICS.names()
        ['coverage']
        >>> entry = METRICS.find({"coverage": {"above": 0.5}})
        >>> entry.label, entry.facts
        ('coverage_0.5', {'range': (0.0, 1.0)})
    """

    def __init__(self, noun: str, *, facts: Sequence[str] = ()) -> None:
        self.noun = noun
        self._fact_names = list(facts)
        self._known: dict[str, F] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._wrappers: dict[str, Callable[..., F]] = {}
        self._keeps: dict[str, Sequence[str]] = {}

    @overload
    def register(self, function: F, /) -> F: ...

    @overload
    def register(self, /, **facts: Any) -> Callable[[F], F]: ...

    def register(self, function: F | None = None, /, **facts: Any) -> F | Callable[[F], F]:
        """Add a function under its own name, ``@register`` or ``@register(fact=...)``; the same name again replaces it.

        Raises:
            TypeError: for a fact that this registry does not know.
        """
        for fact in facts:
            if fact not in self._fact_names:
                raise TypeError(
                    f"A {self.noun} has no fact {fact!r}.{did_you_mean(fact, self._fact_names)} "
                    f"It takes: {_listed(self._fact_names)}."
                )

        def add(function: F) -> F:
            self._known[function.__name__] = function
            self._facts[function.__name__] = dict(facts)
            return function

        if function is None:
            return add
        return add(function)

    def wrapper(self, function: Callable[..., F], /, keeps: Sequence[str] = ()) -> Callable[..., F]:
        """Add a function from member to member under its own name: found as ``{name: {noun: member, option: value}}``.

        What is returned takes the member as the registry finds it, and names what it makes after it. ``keeps`` names the facts
        of the member that hold for what is made of it too.
        """
        parameters = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def wrap(member: Any, **options: Any) -> F:
            inner = self.find(member)
            self._check(function.__name__, options, parameters[1:])
            made: Any = function(inner.function, **options)
            made.__name__ = _label(f"{function.__name__}_{inner.label}", options)
            wrapped: F = made
            return wrapped

        self._wrappers[function.__name__] = wrap
        self._keeps[function.__name__] = keeps
        return wrap

    def unregister(self, name: str) -> None:
        """Forget a registered function or wrapper.

        Raises:
            ValueError: for a name nobody knows.
        """
        if name not in self._known and name not in self._wrappers:
            raise self._unknown(name)
        self._known.pop(name, None)
        self._facts.pop(name, None)
        self._wrappers.pop(name, None)

    def names(self) -> list[str]:
        """Every known name that can stand alone, in the order of joining."""
        return list(self._known)

    def wrappers(self) -> list[str]:
        """Every known name that needs another member to wrap, in the order of joining."""
        return list(self._wrappers)

    def about(self, name: str) -> str:
        """The first line of what a known name says of itself, empty if it says nothing."""
        functions = {**self._wrappers, **self._known}
        docstring = inspect.getdoc(functions[name])
        if not docstring:
            return ""
        return docstring.splitlines()[0]

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
            return Entry(function.__name__, function, self._facts_of(function))
        if isinstance(spec, Mapping):
            return self._by_mapping(spec)
        if isinstance(spec, functools.partial):
            return self._with_options(spec.func, dict(spec.keywords), spec.args)
        if not callable(spec):
            raise TypeError(f"A {self.noun} is a name, {{name: {{option: value}}}} or a callable; got {spec!r}.")
        if spec in self._wrappers.values():
            return self._wrapped(spec.__name__, {})
        return Entry(getattr(spec, "__name__", type(spec).__name__), spec, self._facts_of(spec))

    def _by_name(self, name: str) -> F:
        if name in self._known:
            return self._known[name]
        if name in self._wrappers:
            self._wrapped(name, {})  # raises, and says what is to be wrapped
        module, _, attribute = name.replace(":", ".").rpartition(".")
        if not module:
            raise self._unknown(name)
        try:
            function: F = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"The {self.noun} {name!r} cannot be imported: {error}.") from error
        return function

    def _by_mapping(self, spec: Mapping[Any, Any]) -> Entry[F]:
        if len(spec) != 1:
            raise ValueError(f"A {self.noun} with options is one entry, {{name: {{option: value}}}}; got {spec!r}.")
        ((name, values),) = spec.items()
        options = dict(values or {})  # a name with nothing behind it is None in YAML
        if name in self._wrappers:
            return self._wrapped(name, options)
        return self._with_options(self._by_name(name), options)

    def _wrapped(self, name: str, options: dict[str, Any]) -> Entry[F]:
        if self.noun not in options:
            raise ValueError(f"{name} wraps another {self.noun}: {{{name!r}: {{{self.noun!r}: ...}}}}; none was given.")
        member = self.find(options.pop(self.noun))
        function = self._wrappers[name](member, **options)
        return Entry(
            function.__name__, function, {fact: member.facts[fact] for fact in self._keeps[name] if fact in member.facts}
        )

    def _with_options(self, function: Any, options: dict[str, Any], args: tuple[Any, ...] = ()) -> Entry[F]:
        parameters = inspect.signature(function).parameters.values()
        optional = [p.name for p in parameters if p.default is not p.empty or p.kind is p.KEYWORD_ONLY]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            self._check(function.__name__, options, optional)
        bound: Any = functools.partial(function, *args, **options)
        return Entry(_label(function.__name__, options), bound, self._facts_of(function))

    def _check(self, name: str, options: Iterable[str], known: list[str]) -> None:
        for option in options:
            if option not in known:
                raise ValueError(
                    f"The {self.noun} {name} has no option {option!r}.{did_you_mean(option, known)} It takes: {_listed(known)}."
                )

    def _facts_of(self, function: Any) -> dict[str, Any]:
        """What was said of a function, also where it is found by its path or given as it is."""
        name = getattr(function, "__name__", "")
        if name not in self._known or self._known[name] is not function:
            return {}  # another function of the same name
        return dict(self._facts[name])

    def _unknown(self, name: str) -> ValueError:
        known = [*self._known, *self._wrappers]
        return ValueError(f"No {self.noun} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Up to three known names closest to an unknown one, as the end of an error message; empty if none is close.

    Example:
        >>> did_you_mean("gradcam", ["grad_cam", "cam", "fem"])
        " Did you mean 'grad_cam' or 'cam'?"
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if name:  # the empty name is within every other
        longer = [candidate for candidate in known if name in candidate and candidate not in close]
        close += longer[: 3 - len(close)]
    if not close:
        return ""
    return f" Did you mean {' or '.join(map(repr, close))}?"


def _label(name: str, options: Mapping[str, Any]) -> str:
    """A name and the values of its options, as a log tag has them."""
    return "_".join([name, *_words(list(options.values()))])


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


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names)


METHODS: Registry[Callable[..., Any]] = Registry("method")
METRICS: Registry[Callable[..., Any]] = Registry("metric", facts=("range", "higher_is_better", "floor", "cost", "reads"))
TARGETS: Registry[Callable[..., Any]] = Registry("target", facts=("reads",))
