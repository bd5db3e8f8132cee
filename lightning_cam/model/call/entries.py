"""The parts of a batch, whatever it is made of: dicts, tuples, dataclasses, objects with tensors."""

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

Step = tuple[str, Any]  # ("item", key or position) or ("attribute", name)
Path = tuple[Step, ...]

DEEPEST = 4  # levels of a batch that are looked through; objects may hold themselves
_LEAVES = (Tensor, nn.Module, str, bytes, type)


def steps(batch: Any) -> list[Step]:
    """What leads to the parts of a batch; nothing of a tensor or a number."""
    if isinstance(batch, _LEAVES):
        return []
    if isinstance(batch, Mapping):
        return [("item", key) for key in batch]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return [("attribute", name) for name in batch._fields]
    if isinstance(batch, list | tuple):
        return [("item", i) for i in range(len(batch))]
    if is_dataclass(batch):
        return [("attribute", field.name) for field in fields(batch)]
    return [("attribute", name) for name in getattr(batch, "__dict__", {})]


def part(batch: Any, step: Step) -> Any:
    """The part of a batch to which a step leads."""
    kind, key = step
    if kind == "item":
        return batch[key]
    return getattr(batch, key)


def names(batch: Any) -> list[str]:
    """The names under which a batch holds its parts; none of a tensor or plain tuple."""
    return [key for _, key in steps(batch) if isinstance(key, str)]


def named(batch: Any, name: str) -> Any:
    """The part of a batch by its name."""
    if isinstance(batch, Mapping):
        return batch[name]
    return getattr(batch, name)


def locate(batch: Any, wanted: Any, deepest: int = DEEPEST) -> Path | None:
    """Where in a batch this very object is; None where it is no part of it.

    Example:
        >>> image = object()
        >>> locate({"left": 1, "pair": (2, image)}, image)
        (('item', 'pair'), ('item', 1))
    """
    if batch is wanted:
        return ()
    if deepest == 0:
        return None
    for step in steps(batch):
        rest = locate(part(batch, step), wanted, deepest - 1)
        if rest is not None:
            return (step, *rest)
    return None


def in_code(path: Path | None) -> str:
    """How a part of a batch is written.

    Example:
        >>> in_code((("item", "pair"), ("item", 1), ("attribute", "image")))
        "batch['pair'][1].image"
    """
    text = "batch"
    for kind, key in path or ():
        text += f"[{key!r}]" if kind == "item" else f".{key}"
    return text


def with_parts(batch: Any, changed: Mapping[Step, Any]) -> Any:
    """A copy of a batch in which some parts are others; the rest is shared."""
    if isinstance(batch, tuple):
        parts = [changed.get(step, part(batch, step)) for step in steps(batch)]
        if hasattr(batch, "_make"):
            return batch._make(parts)
        return type(batch)(parts)
    copied = copy.copy(batch)
    for (kind, key), value in changed.items():
        if kind == "item":
            copied[key] = value
        else:
            # also of a frozen dataclass
            object.__setattr__(copied, key, value)
    return copied


def at(batch: Any, path: Path) -> Any:
    """The part of a batch at the end of a path."""
    for step in path:
        batch = part(batch, step)
    return batch


def with_part(batch: Any, path: Path, value: Any) -> Any:
    """A copy of a batch in which what is at the end of a path is another.

    Example:
        >>> with_part((1, {"map": 2}), (("item", 1), ("item", "map")), 3)
        (1, {'map': 3})
    """
    if not path:
        return value
    inner = with_part(part(batch, path[0]), path[1:], value)
    return with_parts(batch, {path[0]: inner})


def find_step(batch: Any, word: str) -> Step | None:
    """What leads to the part of that name, key or position, of a batch; None where it has none.

    Example:
        >>> find_step({"0": "fine", "pool": "coarse"}, "-1")
        ('item', 'pool')
    """
    known = steps(batch)
    for step in known:
        if str(step[1]) == word:
            return step
    try:
        return known[int(word)]
    except (ValueError, IndexError):
        return None


def with_images(batch: Any, path: Path, images: Tensor) -> Any:
    """A copy of a batch with other images in their place; one list of images stays a list."""
    if not path:
        if isinstance(batch, list | tuple):
            return type(batch)(images)
        return images
    step = path[0]
    return with_parts(batch, {step: with_images(part(batch, step), path[1:], images)})


def mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a batch with its parts changed; an object of which none is changed stays itself."""
    changed = {}
    for step in steps(batch):
        value = part(batch, step)
        other = change(value)
        if other is not value:
            changed[step] = other
    # also objects of any kind are met here, which may bear no copy
    if not changed and not isinstance(batch, MutableMapping | list):
        return batch
    return with_parts(batch, changed)


def has_rows(value: Any, count: int) -> bool:
    """Whether a tensor, or each of several, has so many rows."""
    if isinstance(value, Tensor):
        return value.ndim > 0 and len(value) == count
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value) > 0 and all(has_rows(item, count) for item in value)
    return False


def describe(batch: Any) -> str:
    """A batch in a few words, for error messages.

    Example:
        >>> describe((torch.zeros(4, 3, 8, 8), "x"))
        'a tuple of Tensor[4, 3, 8, 8], str'
    """
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(map(str, batch))}"
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of {', '.join(map(_describe_entry, batch))}"
    return _describe_entry(batch)


def _describe_entry(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"Tensor{list(value.shape)}"
    return type(value).__name__
