"""A layer by its dotted name, near misses named."""

import re

from torch import nn

from lightning_cam.registry import did_you_mean

_ACCEPTED = (
    "A layer is its dotted name, `name#i` for one of its calls, `name[i]` for a part of its output, or a module of the model"
)
# in either order: a call's part, or a part's call
_ENDS = re.compile(r"(?P<before>(?:\[[^\[\]]+\])*)(?P<call>#\d+)?(?P<after>(?:\[[^\[\]]+\])*)$")


def clean_name(name: str) -> str:
    """A module's dotted name without the level that ``torch.compile`` puts in.

    Example:
        >>> clean_name("_orig_mod.layer4.0")
        'layer4.0'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its dotted name; a compiled module stands for its original."""
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        modules.setdefault(clean_name(name), module)
    return modules


def find_layer(model: nn.Module, layer: str | nn.Module) -> str:
    """The layer's dotted name in the model.

    ``name#i`` is one call of a layer that is called several times, ``name[i]`` or ``name[key]`` a part of the tuple, list, dict
    or object that it returns; ``name[i]#j`` is both.

    Raises:
        ValueError: if the model has no such layer, near names are told; or for an empty name.
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
    modules = modules_by_name(model)
    name = clean_name(layer)
    if name not in modules:
        raise ValueError(_no_layer(model, layer, list(modules)))
    return name


def _name_of(model: nn.Module, layer: nn.Module) -> str:
    for name, module in modules_by_name(model).items():
        if module is layer or getattr(module, "_orig_mod", None) is layer:
            return name
    raise ValueError(f"The layer given, a {type(layer).__name__}, is not part of the {type(model).__name__}.")


def _no_layer(model: nn.Module, layer: str, names: list[str]) -> str:
    hint = did_you_mean(layer, names)
    ends = [name for name in names if name.endswith("." + layer)]
    if ends:
        hint = f" Did you mean {ends[0]!r}?"
    top = ", ".join(name for name, _ in model.named_children())
    return f"{type(model).__name__} has no layer {layer!r}.{hint} Its top level: {top}."


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
