"""The calls of one forward, in the order in which they returned, and how what they returned is read as maps."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lightning_cam.model.call.entries import Path, at, find_step, part, steps
from lightning_cam.model.layout import Layout, infer_layout, is_split_tokens
from lightning_cam.model.names import modules_by_name, split_call
from lightning_cam.model.tokens.joined import record_joins
from lightning_cam.model.wrapped import unwrapped


@dataclass(frozen=True)
class Call:
    """One call of one module during a forward.

    Attributes:
        name: the module's.
        module: the module.
        shape: of the tensor that it returned; None if it returned none.
        layout: how that is read as maps; None if it holds none.
        path: where the tensor is in what was returned; empty where it is that itself.
        held: of a call that returned a tuple, list or dict, the same call read as one of the first map in there.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layout: Layout | None = None
    path: Path = ()
    held: "Call | None" = None

    @cached_property
    def layer(self) -> nn.Module:
        """The module without what is wrapped around it."""
        return unwrapped(self.module)

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Channels and cells, [c *m], of a call that returned a map."""
        assert self.shape is not None and self.layout is not None
        return self.shape[self.layout.channel], *self.layout.grid


class Calls(list[Call]):
    """The calls of one forward so far.

    Attributes:
        rows: how rows of tokens are read, by their number, where they were seen to be joined.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, Layout] = {}


@contextmanager
def record_calls(model: nn.Module, image: Sequence[int]) -> Iterator[Calls]:
    """Record the calls of the model's layers on images of this shape, in the order in which they returned.

    Wrappers are recorded in place of what they wrap, and adapters' own branches not at all.
    """
    names = {module: name for name, module in modules_by_name(model).items()}
    calls = Calls()

    def record(module: nn.Module, args: Any, output: Any) -> None:
        if module in names:
            calls.append(_call(names[module], module, output, image, calls))

    # for all modules at once, which runs before a module's own hooks: a layer's hook finds its call recorded
    handle = register_module_forward_hook(record)
    try:
        with warnings.catch_warnings():
            # torch warns that a compiled module is recorded twice, which is harmless here
            warnings.filterwarnings("ignore", message="Using `torch.compile")
            with record_joins(image, calls.rows, lambda: _patch_grids(calls)):
                yield calls
    finally:
        handle.remove()


def layout_of(output: Any, image: Sequence[int], calls: Calls) -> Layout | None:
    """How an output is read as maps, given what ran before it; None if it is no tensor or holds no map.

    Args:
        output: what a module returned.
        image: the images' shape.
        calls: what has returned so far; tokens are counted by the patch embeddings among them, or as they were seen to be
            joined, and tokens split over the heads of an attention are told from maps by the rows of tokens among them.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    shape = tuple(output.shape)
    if len(shape) == len(image) == 4:
        for tokens, layout in _token_rows(calls):
            if is_split_tokens(shape, tuple(image), tokens, layout):
                return None
    return _read(shape, image, calls)


def find_map(output: Any, image: Sequence[int], calls: Calls, keys: Sequence[str] = ()) -> tuple[Path, Layout] | None:
    """Where the map is in what a module returned, and how it is read; None if there is none.

    That is the output itself, or the first tensor in a tuple, list, dict or object that is a map.

    Args:
        output: what a module returned.
        image: the images' shape.
        calls: what has returned so far, as for ``layout_of``.
        keys: what leads to a part of the output, in which alone to look.
    """
    if keys:
        step = find_step(output, keys[0])
        inner = None
        if step is not None:
            inner = find_map(part(output, step), image, calls, keys[1:])
        if step is None or inner is None:
            return None
        return (step, *inner[0]), inner[1]
    places: list[Path] = [(), *((step,) for step in steps(output))]
    for path in places:
        layout = layout_of(at(output, path), image, calls)
        if layout is not None:
            return path, layout
    return None


def layout_of_tokens(n: int, image: Sequence[int], calls: Calls) -> Layout | None:
    """How n tokens are read as maps, counted by the model's patch embedding; None if they do not fit."""
    return _read((image[0], n, 1), image, calls)


def call_title(calls: list[Call], i: int) -> str:
    """A call's name, with its number where the module is called several times."""
    name = calls[i].name
    same = [j for j, call in enumerate(calls) if call.name == name]
    if len(same) == 1:
        return name
    return f"{name}#{same.index(i)}"


def map_shapes(calls: list[Call]) -> dict[str, tuple[int, ...]]:
    """Channels and cells, [c *m], of the maps of all modules that return any, by the modules' names."""
    holding = [call.held or call for call in calls if call.name]
    return {call.name: call.map_shape for call in holding if call.layout}


def layer_candidates(calls: list[Call], near: str = "", most: int = 6) -> str:
    """The modules that return a map, with shapes, as the end of an error message; those near a name first."""
    shapes = map_shapes(calls)
    last_first = list(reversed(shapes))
    near, _ = split_call(near)
    if near:
        top = near.split(".")[0]
        last_first.sort(key=lambda name: not name.startswith(top))
    return "; ".join(f"{name} {'x'.join(map(str, shapes[name]))}" for name in last_first[:most]) or "none"


def _read(shape: tuple[int, ...], image: Sequence[int], calls: Calls) -> Layout | None:
    """A shape against the image's; with tokens behind the patches only where these were seen to be joined."""
    layout = infer_layout(shape, tuple(image), _patch_grids(calls))
    if len(shape) != 3 or len(image) < 4 or image[0] not in shape[:2]:
        return layout
    batch = int(shape[0] != image[0])
    joined = calls.rows.get(shape[1 - batch])
    if joined is None or not joined.suffix:
        return layout
    return replace(joined, batch=batch)


def _call(name: str, module: nn.Module, output: Any, image: Sequence[int], calls: Calls) -> Call:
    if isinstance(output, Tensor):
        return Call(name, module, tuple(output.shape), layout_of(output, image, calls))
    found = find_map(output, image, calls)
    held = None
    if found is not None:
        path, layout = found
        held = Call(name, module, tuple(at(output, path).shape), layout, path)
    return Call(name, module, None, held=held)


def _token_rows(calls: list[Call]) -> Iterator[tuple[tuple[int, ...], Layout]]:
    for call in calls:
        if call.shape and call.layout and call.layout.prefix is not None:
            yield call.shape, call.layout


def _patch_grids(calls: list[Call]) -> Iterator[tuple[int, ...]]:
    """Grids of the patch embeddings: convolutions whose stride is their kernel."""
    for call in calls:
        if call.shape and _cuts_patches(call.layer):
            yield call.shape[2:]


def _cuts_patches(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.conv._ConvNd):
        return False
    return module.stride == module.kernel_size and max(module.kernel_size) > 1
