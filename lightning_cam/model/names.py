"""A layer by its dotted name, near misses named."""

from torch import nn

from lightning_cam.registry import did_you_mean


def clean_name(name: str) -> str:
    """A module's dotted name without the level that ``torch.compile`` puts in."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its dotted name; a compiled module stands for its original."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        found.setdefault(clean_name(name), module)
    return found


def find_layer(model: nn.Module, layer: str | nn.Module) -> str:
    """The layer's dotted name in the model; ``name#i`` for one call of a layer that is called several times.

    Raises:
        ValueError: if the model has no such layer; near names are told.
    """
    modules = modules_by_name(model)
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer or getattr(module, "_orig_mod", None) is layer:
                return name
        raise ValueError(f"The layer given, a {type(layer).__name__}, is not part of the {type(model).__name__}.")
    base, call = split_call(layer)
    if call is not None:
        return f"{find_layer(model, base)}#{call}"
    if clean_name(layer) not in modules or not layer:
        ends = [name for name in modules if name.endswith("." + layer)]
        hint = f" Did you mean {ends[0]!r}?" if ends else did_you_mean(layer, modules)
        shown = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"{type(model).__name__} has no layer {layer!r}.{hint} Its top level: {shown}.")
    return clean_name(layer)


def split_call(name: str) -> tuple[str, int | None]:
    """A layer's dotted name and which of its calls is meant, from 0; None for the last."""
    base, _, call = name.rpartition("#")
    return (base, int(call)) if base and call.isdigit() else (name, None)
