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
        held = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} holds no class names, {expected}: {error}.") from error
    items: list[tuple[Any, Any]] = list(enumerate(held)) if isinstance(held, list) else []
    if isinstance(held, dict):
        items = [(value, key) if isinstance(value, int) else (key, value) for key, value in held.items()]
    try:
        names = {int(i): class_name[-1] if isinstance(class_name, list) else class_name for i, class_name in items}
    except (TypeError, ValueError, IndexError):
        names = {}
    if not names or not all(isinstance(class_name, str) for class_name in names.values()):
        shown = repr(held) if len(repr(held)) < 60 else repr(held)[:60] + " ..."
        raise ValueError(f"{path} holds no class names, {expected}; it holds {shown}.")
    return names


def class_index(target: str, names: Mapping[int, str]) -> int:
    """The class given by its index, or by its name in either case of letters.

    Raises:
        ValueError: for a name that no class has, or several have.
    """
    if target.removeprefix("-").isdecimal():
        return int(target)
    found = [i for i, class_name in names.items() if class_name.casefold() == target.casefold()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"Several classes are called {target!r}: give --target {' or '.join(map(str, found))}.")
    if not names:
        raise ValueError(f"--target {target!r} is a name and there are no class names: give --labels, or the class index.")
    raise ValueError(f"No class {target!r}.{did_you_mean(target, names.values())} Known are {len(names)} names and indices.")


def class_name(c: int, names: Mapping[int, str]) -> str:
    """The name of a class, or its number where it has none."""
    return names.get(c, f"class {c}")
