"""A layer by its dotted name, near misses named; without the levels that wrappers put into it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from lightning_cam.model.wrapped import has_parts, level_length, own_children, wrapped
from lightning_cam.registry import did_you_mean

_ACCEPTED = (
    "A layer is its dotted name, `name#i` for one of its calls, `name[i]` for a part of its output, or a module of the model"
)
# in either order: a call's part, or a part's call
_ENDS = re.compile(r"(?P<before>(?:\[[^\[\]]+\])*)(?P<call>#\d+)?(?P<after>(?:\[[^\[\]]+\])*)$")


@dataclass(frozen=True)
class _Place:
    """A module in the model: where torch finds it, its name without the levels of wrappers, and the module."""

    path: str
    name: str
    module: nn.Module


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer by its dotted name, without the levels that wrappers put in; a wrapper stands for what it wraps.

    What an adapter adds, such as LoRA's branches, and copies that do not run are no layers and have no name.

    Example:
        >>> list(modules_by_name(nn.DataParallel(nn.Sequential(nn.ReLU()))))
        ['', '0']
    """
    modules: dict[str, nn.Module] = {}
    for place in _places(model):
        # from the outside in: a wrapper's output is what the rest of the model is given
        modules.setdefault(place.name, place.module)
    return modules


def find_layer(model: nn.Module, layer: str | nn.Module) -> str:
    """The layer's dotted name in the model.

    ``name#i`` is one call of a layer that is called several times, ``name[i]`` or ``name[key]`` a part of the tuple, list, dict
    or object that it returns; ``name[i]#j`` is both.

    It may be given with or without the levels that wrappers put in (``_orig_mod``, ``base_model.model``, ``base_layer``,
    ``modules_to_save.default``, a distributed model's ``module``), also with those of a wrapper that this model does not have.

    Raises:
        ValueError: if the model has no such layer, near names are told; if the name has two meanings; or for an empty name.
        TypeError: for what is neither a name nor a module.
    """
    if isinstance(layer, nn.Module):
        return _name_of(model, layer)
    if not isinstance(layer, str):
        raise TypeError(f"{_ACCEPTED}; got {layer!r}.")
    # the empty name is the model's own
    if not layer:
        raise ValueError(f"{_ACCEPTED}; got an empty name.")
    base, call = split_call(layer)
    if base != layer:
        keys = "".join(f"[{key}]" for key in split_keys(layer))
        return find_layer(model, base) + keys + ("" if call is None else f"#{call}")
    return _resolved(model, layer)


def named_as(layer: str, names: Iterable[str]) -> list[str]:
    """The names that a name may mean: itself, or else those it is with some of the levels of wrappers left out.

    Example:
        >>> named_as("_orig_mod.layer4", ["layer3", "layer4"])
        ['layer4']
    """
    known = list(names)
    if layer in known:
        return [layer]
    spellings = {".".join(parts) for parts in _without_levels(tuple(layer.split(".")))}
    return [name for name in known if name in spellings and name]


def _places(model: nn.Module) -> Iterator[_Place]:
    """Every layer and every wrapper around one, from the outside in; a module at several places stands at the first."""
    visited: set[nn.Module] = set()

    def walk(path: str, name: str, module: nn.Module) -> Iterator[_Place]:
        if module in visited:
            return
        visited.add(module)
        yield _Place(path, name, module)
        inner = wrapped(module)
        if inner is not None:
            yield from walk(_join(path, inner[0]), name, inner[1])
            return
        for child_name, child in own_children(module).items():
            yield from walk(_join(path, child_name), _join(name, child_name), child)

    return walk("", "", model)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}".removeprefix(".")


def _resolved(model: nn.Module, layer: str) -> str:
    places = list(_places(model))
    # a wrapper's level and a network's own attribute may have the same name, and then a path may mean two layers
    meant = list(dict.fromkeys(place.name for place in places if layer in (place.name, place.path) and place.name))
    if not meant:
        holder, part = _inside(layer, places)
        meant = [place.name for place in places if place.module is part]
        if holder is None:
            meant = named_as(layer, dict.fromkeys(place.name for place in places))
    if len(meant) > 1:
        outermost = {place.name: place for place in reversed(places)}
        raise ValueError(_ambiguous(layer, [outermost[name] for name in meant]))
    if meant:
        return meant[0]
    if any(place.path == layer for place in places):
        raise ValueError(f"{layer!r} is the whole model. {_ACCEPTED} inside it.")
    raise ValueError(_no_layer(model, layer, places))


def _name_of(model: nn.Module, layer: nn.Module) -> str:
    for place in _places(model):
        if place.module is layer:
            return place.name
    for path, module in model.named_modules():
        if module is layer:
            raise ValueError(_no_layer(model, path, list(_places(model))))
    raise ValueError(f"The layer given, a {type(layer).__name__}, is not part of the {type(model).__name__}.")


def _without_levels(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The parts of a name with all, some or none of the levels of wrappers left out."""
    if not parts:
        yield ()
        return
    length = level_length(parts)
    if length:
        yield from _without_levels(parts[length:])
    for rest in _without_levels(parts[1:]):
        yield parts[0], *rest


def _ambiguous(layer: str, meant: list[_Place]) -> str:
    unmistakable = [repr(place.name if place.path == layer else place.path) for place in meant]
    return f"{layer!r} may or may not hold a wrapper's level, and so means two layers. Name {' or '.join(unmistakable)}."


def _no_layer(model: nn.Module, layer: str, places: list[_Place]) -> str:
    holder, _ = _inside(layer, places)
    if holder is not None:
        return (
            f"{layer!r} is no layer of its own: it is a branch, a copy that does not run or the like, inside the "
            f"{type(holder.module).__name__} {holder.name!r}. Name {holder.name!r}."
        )
    names = list(dict.fromkeys(place.name for place in places))
    hint = did_you_mean(layer, names)
    ends = [name for name in names if name.endswith("." + layer)]
    if ends:
        hint = f" Did you mean {ends[0]!r}?"
    top = ", ".join(name for name in names if name and "." not in name)
    return f"{type(model).__name__} has no layer {layer!r}.{hint} Its top level: {top}."


def _inside(layer: str, places: list[_Place]) -> tuple[_Place, nn.Module] | tuple[None, None]:
    """The wrapper, or the layer of computed parameters, whose name a name begins with, and what it goes on to in there."""
    for place in places:
        if not place.name or not has_parts(place.module):
            continue
        for prefix in (place.name, place.path):
            rest = layer.removeprefix(f"{prefix}.")
            # a wrapper may hand on attributes of what it wraps: only modules that it holds itself count
            part = dict(place.module.named_modules()).get(rest)
            if rest != layer and part is not None:
                return place, part
    return None, None


def split_call(name: str) -> tuple[str, int | None]:
    """A layer's dotted name, and which of its calls is meant, from 0; None for the last.

    Example:
        >>> split_call("layer4.relu#1"), split_call("blocks.3[0]")
        (('layer4.relu', 1), ('blocks.3', None))
    """
    ends = _ENDS.search(name)
    assert ends is not None  # an empty end fits every name
    base, call = name[: ends.start()], ends["call"]
    if not base:
        return name, None
    return base, None if call is None else int(call[1:])


def split_keys(name: str) -> list[str]:
    """The keys that lead to a part of what a layer returns, from the outside in; none for the whole.

    Example:
        >>> split_keys("blocks.3[0]#1"), split_keys("encoder[hidden_states][-1]")
        (['0'], ['hidden_states', '-1'])
    """
    ends = _ENDS.search(name)
    assert ends is not None
    keys = re.findall(r"\[([^\[\]]+)\]", ends["before"] + ends["after"])
    return [key.strip("'\"") for key in keys]
