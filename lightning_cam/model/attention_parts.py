"""Which calls of a forward are parts of an attention: queries, keys, values, and what is made of them before it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from lightning_cam.model.trace import Call

_ATTENTION = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


@dataclass(eq=False)
class _Running:
    """A module while it runs."""

    module: nn.Module
    begin: int  # how many calls had returned when it began
    projection: int | None = None  # the first linear layer or convolution that returned inside
    attentions: int = 0  # within it, at any depth
    attends: bool = False  # by itself


class _AttentionParts(TorchFunctionMode):
    """Notes where attention is called, and the calls around it."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self.calls = calls
        self.parts: set[int] = set()
        self.stack: list[_Running] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # the mode is off in here, so an attention that is made of others counts once
        result = func(*args, **kwargs)
        if func in _ATTENTION or (func in _SOFTMAX and _is_attention(result, *args, **kwargs)):
            self.note()
        return result

    def note(self) -> None:
        """An attention is called: by the innermost module with weights, since a softmax may be a module of its own."""
        for running in self.stack:
            running.attentions += 1
        for running in reversed(self.stack):
            if next(running.module.parameters(), None) is not None:
                running.attends = True
                return

    def enter(self, module: nn.Module, args: Any) -> None:
        """Before a module runs."""
        self.stack.append(_Running(module, len(self.calls)))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After it has run, and its call was recorded."""
        running = self.stack.pop()
        recorded = bool(self.calls) and self.calls[-1].module is module
        position = len(self.calls) - recorded
        # what is wrapped is not recorded, and an adapter's branches are not: the wrapper is, around them
        if recorded and isinstance(self.calls[-1].layer, nn.Linear | nn.modules.conv._ConvNd):
            for outer in self.stack:
                if outer.projection is None:
                    outer.projection = position
        # a whole network that calls attention itself is given the image, no map, or calls it once a block
        inside = running.attentions == 1 and any(call.layout for call in self.calls[: running.begin])
        if running.attends and inside and running.projection is not None:
            self.parts.update(range(running.projection, position))


@contextmanager
def record_attention_parts(calls: list[Call]) -> Iterator[set[int]]:
    """Record the positions of the calls that are parts of an attention, while ``calls`` is being recorded.

    In a module that is given features and calls attention once, by torch's own function or a softmax over [... n n], they are
    the calls from its first linear layer or convolution on: queries, keys and values, their norms, probabilities, the output's
    projection. What comes before, such as a norm of its input, and what the module itself returns are none.
    """
    recorder = _AttentionParts(calls)
    enter_handle = register_module_forward_pre_hook(recorder.enter)
    # also after an error that the model catches itself, so that the stack stays right
    leave_handle = register_module_forward_hook(recorder.leave, always_call=True)
    try:
        with recorder:
            yield recorder.parts
    finally:
        enter_handle.remove()
        leave_handle.remove()


def _is_attention(probability: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether a softmax was taken over the last side of [... n n]."""
    if not isinstance(probability, Tensor) or probability.ndim < 3:
        return False
    n = probability.shape[-1]
    dim = kwargs.get("dim")
    if dim is None and len(args) > 1:
        dim = args[1]
    return dim in (-1, probability.ndim - 1) and probability.shape[-2] == n > 1
