"""Parts: named groups of a model's parameters and buffers, of which each has a share of the drift."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from lightning_cam.change.tensor_names import named_tensors
from lightning_cam.model.names import named_as

REST = "rest"
MOST = 5  # parts: the looks that their exact shares need double with each
_EXAMPLE = "Parts(groups={'stem': ['conv1', 'bn1'], 'head': 'fc'})"

Named = tuple[Tensor, list[str]]  # a tensor and its names


@dataclass(frozen=True)
class Parts:
    """The groups of parameters among which the drift of the maps is split, and how often.

    For n parts of which anything changed, 2^n - 2 further looks are needed: 2 for features and head, 30 for five parts. A
    part that is frozen costs nothing.

    Args:
        groups: a name for each group, and which parameters and buffers it holds: dotted names of modules (``"layer4"``,
            ``"blocks.11"``) or patterns in the manner of a shell (``"*lora_*"``, ``"blocks.1?"``), one or several. A pattern
            takes what it matches whole, a parameter or a module with all inside. Names are those of the layers, without the
            levels that wrappers (DDP, ``torch.compile``, peft) put in. The first group that matches has it; what no group
            matches belongs to a part called ``rest``. There are at most five parts in all.
        every: from one look at which the shares are computed to the next.

    Raises:
        ValueError: for no group or more than five, one without a name or pattern, and ``every`` below 1.

    Example:
        >>> Parts({"adapters": "*lora_*", "head": ["classifier", "norm"]}).every
        5
    """

    groups: Mapping[str, str | Sequence[str]]
    every: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.groups, Mapping) or not 1 <= len(self.groups) <= MOST:
            raise ValueError(
                f"Parts(groups={self.groups!r}): expected 1 to {MOST} named groups of parameters, such as {_EXAMPLE}."
            )
        for name, patterns in self.groups.items():
            # names stand in tags
            if not isinstance(name, str) or not name or name != name.strip("/ "):
                raise ValueError(f"Parts(groups=...): a group is called {name!r}; expected a word, such as {_EXAMPLE}.")
            if not _are_patterns(patterns):
                raise ValueError(
                    f"Parts(groups={{{name!r}: {patterns!r}}}): expected a module's dotted name or a pattern, or several, "
                    f"such as {_EXAMPLE}."
                )
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"Parts(every={self.every!r}): expected at every how many looks, 1 or more, such as every=5.")

    def patterns(self, name: str) -> list[str]:
        """The patterns of a group."""
        patterns = self.groups[name]
        if isinstance(patterns, str):
            return [patterns]
        return list(patterns)

    def due(self, looks: int) -> bool:
        """Whether shares are computed at a look before which the run had so many; at the baseline there is no drift yet."""
        return looks > 0 and looks % self.every == 0

    def of(self, model: nn.Module) -> dict[str, list[Named]]:
        """Every parameter and buffer of a model, by part.

        Raises:
            ValueError: for a group or a module's name that matches nothing, the nearest module is told; for a group of which
                earlier ones took all; and where what is left would be one part too many.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
            >>> {part: len(tensors) for part, tensors in Parts({"head": "2"}).of(net).items()}
            {'head': 2, 'rest': 4}
        """
        tensors = named_tensors(model)
        members: dict[str, list[Named]] = {}
        for name in self.groups:
            matched = self._matched(name, tensors, type(model).__name__)
            taken = {id(tensor) for part in members.values() for tensor, _ in part}
            members[name] = [(tensor, names) for tensor, names in matched if id(tensor) not in taken]
            if not members[name]:
                order = {name: self.groups[name], **self.groups}
                raise ValueError(
                    f"Parts: groups before {name!r} took all that {self.groups[name]!r} matches, and the first that matches "
                    f"has it. Name it before them: groups={order!r}."
                )
        taken = {id(tensor) for part in members.values() for tensor, _ in part}
        left = [(tensor, names) for tensor, names in tensors if id(tensor) not in taken]
        if left:
            members[REST] = [*members.get(REST, []), *left]
        if len(members) > MOST:
            raise ValueError(self._one_too_many(left))
        return members

    def _matched(self, name: str, tensors: Sequence[Named], model: str) -> list[Named]:
        """What a group's patterns match, whichever group has it in the end."""
        modules = _modules(tensors)
        matched: dict[int, Named] = {}
        for pattern in self.patterns(name):
            # given with a wrapper's levels, a name means what it does without them
            spellings = [pattern]
            if not _is_wild(pattern):
                spellings = [pattern, *named_as(pattern, modules)]
            found = [named for named in tensors if any(_matches(whole, part) for whole in named[1] for part in spellings)]
            if not found and not _is_wild(pattern):
                raise ValueError(self._nothing(name, pattern, modules, model))
            matched |= {id(named[0]): named for named in found}
        if not matched:
            raise ValueError(self._nothing(name, self.patterns(name)[0], modules, model))
        return list(matched.values())

    def _nothing(self, name: str, pattern: str, modules: Sequence[str], model: str) -> str:
        top = [module for module in modules if "." not in module]
        nearest = _nearest(pattern.strip("*?."), modules)
        hint = ""
        if nearest:
            hint = f" Did you mean {nearest!r}?"
        return (
            f"Parts: the group {name!r} asks for {pattern!r}, which matches no parameter of the {model}.{hint} "
            f"Its top level: {', '.join(top)}. Write groups={{{name!r}: {nearest or top[-1]!r}}}."
        )

    def _one_too_many(self, left: Sequence[Named]) -> str:
        last = list(self.groups)[-1]
        names = [repr(names[0]) for _, names in left[:3]]
        if len(left) > len(names):
            names.append(f"{len(left) - len(names)} more")
        whole = {**self.groups, last: [*self.patterns(last), "*"]}
        return (
            f"Parts: {len(self.groups)} groups leave {', '.join(names)} to a part of its own, {REST!r}, which makes "
            f"{len(self.groups) + 1}; exact shares are computed of up to {MOST}. Join two groups, or let the last take what is "
            f"left: groups={whole!r}."
        )


def _are_patterns(patterns: Any) -> bool:
    if isinstance(patterns, str):
        return bool(patterns)
    if not isinstance(patterns, list | tuple) or not patterns:
        return False
    return all(isinstance(pattern, str) and pattern for pattern in patterns)


def _modules(tensors: Iterable[Named]) -> list[str]:
    """The names of all modules that hold any of these, and of the tensors themselves, from the outside in."""
    whole = [name for _, names in tensors for name in names]
    modules = dict.fromkeys(prefix for name in whole for prefix in _prefixes(name))
    return sorted(modules, key=lambda name: name.count("."))


def _prefixes(name: str) -> list[str]:
    """The modules that a parameter is in, from the outside in, and its own name.

    Example:
        >>> _prefixes("layer4.0.weight")
        ['layer4', 'layer4.0', 'layer4.0.weight']
    """
    words = name.split(".")
    return [".".join(words[: i + 1]) for i in range(len(words))]


def _is_wild(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern means the parameter, or a module that it is in.

    Example:
        >>> _matches("blocks.11.norm1.weight", "blocks.11"), _matches("blocks.11.norm1.weight", "blocks.1")
        (True, False)
        >>> _matches("blocks.11.norm1.weight", "blocks.1?"), _matches("blocks.11.norm1.weight", "*.norm?")
        (True, True)
    """
    if _is_wild(pattern):
        return any(fnmatchcase(prefix, pattern) for prefix in _prefixes(name))
    return name == pattern or name.startswith(f"{pattern}.")


def _nearest(name: str, modules: Sequence[str]) -> str:
    """The module that ends in the name, or else the one spelled most like it; empty where none is near."""
    ends = [module for module in modules if name and module.endswith(f".{name}")]
    return next(iter([*ends, *get_close_matches(name, modules, n=1, cutoff=0.5)]), "")
