"""The calls of one forward, in the order in which they returned, and how their outputs are read as maps."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lightning_cam.model.layout import Layout, infer_layout
from lightning_cam.model.names import clean_name, split_call


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


@contextmanager
def record_calls(model: nn.Module, image: Sequence[int]) -> Iterator[list[Call]]:
    """Record the calls of the model's modules on images of this shape, in the order in which they returned."""
    names = {module: clean_name(name) for name, module in model.named_modules()}
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


def layout_of(output: Any, image: Sequence[int], calls: list[Call]) -> Layout | None:
    """How an output is read as maps, given what ran before it; None if it is no tensor or holds no map."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    return infer_layout(tuple(output.shape), tuple(image), _patch_grids(calls))


def layout_of_tokens(n: int, image: Sequence[int], calls: list[Call]) -> Layout | None:
    """How n tokens are read as maps, counted by the model's patch embedding; None if they do not fit."""
    return infer_layout((image[0], n, 1), tuple(image), _patch_grids(calls))


def _call(name: str, module: nn.Module, output: Any, image: tuple[int, ...], calls: list[Call]) -> Call:
    shape = tuple(output.shape) if isinstance(output, Tensor) else None
    return Call(name, module, shape, layout_of(output, image, calls))


def _patch_grids(calls: list[Call]) -> list[tuple[int, ...]]:
    """Grids of the patch embeddings: convolutions whose stride is their kernel."""
    return [
        call.shape[2:]
        for call in calls
        if isinstance(conv := call.module, nn.modules.conv._ConvNd) and call.shape
        if conv.stride == conv.kernel_size and max(conv.kernel_size) > 1
    ]


def call_title(calls: list[Call], i: int) -> str:
    """A call's name, with its number where the module is called several times."""
    same = [j for j, call in enumerate(calls) if call.name == calls[i].name]
    return f"{calls[i].name}#{same.index(i)}" if len(same) > 1 else calls[i].name


def layer_candidates(calls: list[Call], near: str = "", most: int = 6) -> str:
    """The modules that return a map, with shapes, as the end of an error message; those near a name first."""
    maps, near = {call.name: call.map_shape for call in calls if call.layout and call.name}, split_call(near)[0]
    close = [name for name in maps if near and (name.startswith(near.split(".")[0]))]
    ordered = [*reversed(close), *(name for name in reversed(maps) if name not in close)][:most]
    return "; ".join(f"{name} {'x'.join(map(str, maps[name]))}" for name in ordered) or "none"
