"""Names of classes: read from a file, found by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_cam.registry import did_you_mean


def read_class_names(path: str | Path) -> dict[int, str]:
    """Class names by index, from a JSON file: a list, ``{index: name}`` or ``{name: index}``.

    A name may stand in a list behind its synset, as in ``{"0": ["n01440764", "tench"]}``.

    Raises:
        ValueError: if the file holds something else.
        OSError: if it is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No labels file {path}.")
    expected = "expected JSON, a list of class names or a dict of index to name"
    try:
        # with or without the mark that Windows writes first
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} holds no class names, {expected}: {error}.") from error
    try:
        names = {int(i): _last(name) for i, name in _items(content)}
    except (TypeError, ValueError, IndexError):
        names = {}
    if not names or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{path} holds no class names, {expected}; it holds {_shortened(repr(content))}.")
    return names


def _items(content: Any) -> list[tuple[Any, Any]]:
    """Index and name of each class."""
    if isinstance(content, list):
        return list(enumerate(content))
    if not isinstance(content, dict):
        return []
    items = []
    for key, value in content.items():
        # {name: index}
        if isinstance(value, int):
            items.append((value, key))
        else:
            items.append((key, value))
    return items


def _last(name: Any) -> Any:
    if isinstance(name, list):
        return name[-1]
    return name


def _shortened(text: str, most: int = 60) -> str:
    if len(text) < most:
        return text
    return text[:most] + " ..."


def class_index(target: str, names: Mapping[int, str]) -> int:
    """The class given by its index, or by its name in either case of letters.

    Raises:
        ValueError: for a name that no class has, or several have.

    Example:
        >>> class_index("Cat", {0: "dog", 1: "cat"})
        1
    """
    if target.removeprefix("-").isdecimal():
        return int(target)
    matches = [i for i, name in names.items() if name.casefold() == target.casefold()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"Several classes are called {target!r}: give --target {' or '.join(map(str, matches))}.")
    if not names:
        raise ValueError(f"--target {target!r} is a name and there are no class names: give --labels, or the class index.")
    raise ValueError(f"No class {target!r}.{did_you_mean(target, names.values())} Known are {len(names)} names and indices.")


def class_name(c: int, names: Mapping[int, str]) -> str:
    """The name of a class, or its number where it has none."""
    return names.get(c, f"class {c}")
