"""A layer by name, near misses named; the default layer and the classifier found from the calls of one forward."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lightning_cam.family import nearest
from lightning_cam.output import Output, pick

# What only shrinks, copies or drops a map: the map shown is the one before it.
_PASSIVE = (
    nn.Identity,
    nn.Flatten,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
)


@dataclass(frozen=True)
class Call:
    """One call of one module during a forward: its name, the module, the shape of what it returned (if a tensor)."""

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None

    @property
    def spatial(self) -> bool:
        """Whether the output is a map: [b c u v] with more than one cell."""
        return self.shape is not None and len(self.shape) == 4 and self.shape[2] * self.shape[3] > 1


def clean(name: str) -> str:
    """A module's dotted name without the level that ``torch.compile`` puts in."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def named(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its dotted name; a compiled module stands for its original."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        found.setdefault(clean(name), module)
    return found


@contextmanager
def calls_of(model: nn.Module) -> Iterator[list[Call]]:
    """Record the calls of the model's modules, in the order in which they returned."""
    names = {module: clean(name) for name, module in model.named_modules()}
    calls: list[Call] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        if module in names:
            calls.append(Call(names[module], module, tuple(output.shape) if isinstance(output, Tensor) else None))

    handle = register_module_forward_hook(record)
    try:
        with warnings.catch_warnings():  # torch warns that a compiled module is recorded twice, which is harmless here
            warnings.filterwarnings("ignore", message="Using `torch.compile")
            yield calls
    finally:
        handle.remove()


def find(model: nn.Module, layer: str | nn.Module) -> str:
    """The layer's dotted name in the model.

    Raises:
        ValueError: if the model has no such layer; near names are told.
    """
    modules = named(model)
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer or getattr(module, "_orig_mod", None) is layer:
                return name
        raise ValueError(f"The layer given, a {type(layer).__name__}, is not part of the {type(model).__name__}.")
    if clean(layer) not in modules or not layer:
        ends = [name for name in modules if name.endswith("." + layer)]
        hint = f" Did you mean {ends[0]!r}?" if ends else nearest(layer, modules)
        shown = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"{type(model).__name__} has no layer {layer!r}.{hint} Its top level: {shown}.")
    return clean(layer)


def choose(model: nn.Module, images: Tensor, output: Output = None) -> str:
    """The layer watched when none is named: found by tracing one forward of one image."""
    with calls_of(model) as calls, torch.no_grad():
        logits = pick(model(images[:1].clone()), output)
    return default(calls, logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None)


def default(calls: list[Call], classes: int | None) -> str:
    """The last module whose output still is a map, pooling and the like and a convolutional head left aside.

    Args:
        calls: the calls of one forward.
        classes: the number of outputs, by which a 1x1-convolution head is told.

    Raises:
        ValueError: if no module returns a map.
    """
    head = head_call(calls, classes)
    before = calls[: calls.index(head)] if head and isinstance(head.module, nn.Conv2d) else calls
    for call in reversed(before):
        if call.name and call.spatial and not isinstance(call.module, _PASSIVE):
            return call.name
    raise ValueError("No module of this model returns a spatial map [b c u v]; name a layer, or a tensor with one.")


def head_call(calls: list[Call], classes: int | None) -> Call | None:
    """The classifier: the last module with weights, if it is linear, or a 1x1 convolution, to the number of outputs."""
    weighted = [call for call in calls if isinstance(call.module, nn.Linear | nn.modules.conv._ConvNd)]
    if not weighted or not isinstance(last := weighted[-1].module, nn.Linear | nn.Conv2d):
        return None
    if isinstance(last, nn.Linear):
        return weighted[-1] if classes in (None, last.out_features) else None
    return weighted[-1] if last.kernel_size == (1, 1) and last.out_channels == classes else None


def candidates(calls: list[Call], near: str = "", most: int = 6) -> str:
    """The modules that return a map, with shapes, as the end of an error message; those near a name first."""
    maps = {call.name: call.shape for call in calls if call.spatial and call.name}
    close = [name for name in maps if near and (name.startswith(near.split(".")[0]))]
    ordered = [*reversed(close), *(name for name in reversed(maps) if name not in close)][:most]
    return "; ".join(f"{name} {_shape(maps[name])}" for name in ordered) or "none"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape[1:])) if shape else "?"
