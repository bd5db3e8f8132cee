"""A layer by name, near misses named; the calls of one forward, and the classifier among them."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lightning_cam import layout
from lightning_cam.family import nearest
from lightning_cam.layout import Layout


@dataclass(frozen=True)
class Call:
    """One call of one module during a forward: its name, the module, the shape of what it returned (if a tensor)."""

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layout: Layout | None = None  # how the output is read as maps; None if it holds none

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Channels and cells, [c *m], of a call that returned a map."""
        assert self.shape is not None and self.layout is not None
        return self.shape[self.layout.channel], *self.layout.grid


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
def calls_of(model: nn.Module, image: Sequence[int]) -> Iterator[list[Call]]:
    """Record the calls of the model's modules on images of this shape, in the order in which they returned."""
    names = {module: clean(name) for name, module in model.named_modules()}
    calls: list[Call] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        if module in names:
            calls.append(_call(names[module], module, output, tuple(image), calls))

    handle = register_module_forward_hook(record)
    try:
        with warnings.catch_warnings():  # torch warns that a compiled module is recorded twice, which is harmless here
            warnings.filterwarnings("ignore", message="Using `torch.compile")
            yield calls
    finally:
        handle.remove()


def read(output: Any, image: Sequence[int], calls: list[Call]) -> Layout | None:
    """How an output is read as maps, given what ran before it; None if it is no tensor or holds no map."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    return layout.infer(tuple(output.shape), tuple(image), _patch_grids(calls))


def tokens(n: int, image: Sequence[int], calls: list[Call]) -> Layout | None:
    """How n tokens are read as maps, counted by the model's patch embedding; None if they do not fit."""
    return layout.infer((image[0], n, 1), tuple(image), _patch_grids(calls))


def _call(name: str, module: nn.Module, output: Any, image: tuple[int, ...], calls: list[Call]) -> Call:
    shape = tuple(output.shape) if isinstance(output, Tensor) else None
    return Call(name, module, shape, read(output, image, calls))


def _patch_grids(calls: list[Call]) -> list[tuple[int, ...]]:
    """Grids of the patch embeddings: convolutions whose stride is their kernel."""
    return [
        call.shape[2:]
        for call in calls
        if isinstance(conv := call.module, nn.modules.conv._ConvNd) and call.shape
        if conv.stride == conv.kernel_size and max(conv.kernel_size) > 1
    ]


def find(model: nn.Module, layer: str | nn.Module) -> str:
    """The layer's dotted name in the model; ``name#i`` for one call of a layer that is called several times.

    Raises:
        ValueError: if the model has no such layer; near names are told.
    """
    modules = named(model)
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer or getattr(module, "_orig_mod", None) is layer:
                return name
        raise ValueError(f"The layer given, a {type(layer).__name__}, is not part of the {type(model).__name__}.")
    base, call = split(layer)
    if call is not None:
        return f"{find(model, base)}#{call}"
    if clean(layer) not in modules or not layer:
        ends = [name for name in modules if name.endswith("." + layer)]
        hint = f" Did you mean {ends[0]!r}?" if ends else nearest(layer, modules)
        shown = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"{type(model).__name__} has no layer {layer!r}.{hint} Its top level: {shown}.")
    return clean(layer)


def split(name: str) -> tuple[str, int | None]:
    """A layer's dotted name and which of its calls is meant, from 0; None for the last."""
    base, _, call = name.rpartition("#")
    return (base, int(call)) if base and call.isdigit() else (name, None)


def title(calls: list[Call], i: int) -> str:
    """A call's name, with its number where the module is called several times."""
    same = [j for j, call in enumerate(calls) if call.name == calls[i].name]
    return f"{calls[i].name}#{same.index(i)}" if len(same) > 1 else calls[i].name


def sides(model: nn.Module) -> int:
    """How many sides the model's images have: those of its first convolution; two, if it has none."""
    dims = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
    return next((n for module in model.modules() for kind, n in dims.items() if isinstance(module, kind)), 2)


def head_call(calls: list[Call], classes: int | None) -> Call | None:
    """The classifier: the last module with weights, if it is linear, or a 1x1 convolution, to the number of outputs."""
    weighted = [call for call in calls if isinstance(call.module, nn.Linear | nn.modules.conv._ConvNd)]
    if not weighted or not isinstance(last := weighted[-1].module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    if isinstance(last, nn.Linear):
        return weighted[-1] if classes in (None, last.out_features) and weighted[-1].layout is None else None
    return weighted[-1] if max(last.kernel_size) == 1 and last.out_channels == classes else None


def weight_of_head(calls: list[Call], logits: Any) -> Tensor | None:
    """The classifier's weights [k c], if it is one linear layer or 1x1 convolution to these logits."""
    head = head_call(calls, logits.shape[1]) if isinstance(logits, Tensor) and logits.ndim == 2 else None
    return head.module.weight.detach().flatten(1) if head and isinstance(head.module.weight, Tensor) else None


def candidates(calls: list[Call], near: str = "", most: int = 6) -> str:
    """The modules that return a map, with shapes, as the end of an error message; those near a name first."""
    maps, near = {call.name: call.map_shape for call in calls if call.layout and call.name}, split(near)[0]
    close = [name for name in maps if near and (name.startswith(near.split(".")[0]))]
    ordered = [*reversed(close), *(name for name in reversed(maps) if name not in close)][:most]
    return "; ".join(f"{name} {'x'.join(map(str, maps[name]))}" for name in ordered) or "none"
