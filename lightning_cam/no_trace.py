"""No trace: everything a look touches in a model, and the random states, put back."""

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def no_trace(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients possible inside; outside, every flag, buffer and random state as it was."""
    modules = list(model.modules())
    training = [module.training for module in modules]
    buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
    with ExitStack() as undo:
        undo.enter_context(isolated_rng())
        undo.enter_context(_unlogged(modules))
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        if "torch._dynamo" in sys.modules:  # hooks added after compiling fire only in eager mode
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        copies = {id(b): b.clone() for _, held in buffers for b in held.values() if b is not None}
        try:
            for module in modules:
                module.training = False  # not .eval(): a module's own train() may do more than set the flag
            yield
        finally:
            for module, flag in zip(modules, training, strict=True):
                module.training = flag
            with torch.inference_mode():  # it alone may write to buffers that were made under it
                for module, held in buffers:
                    module._buffers.update(held)
                    for b in held.values():
                        if b is not None and not _expanded(b):
                            b.data.copy_(copies[id(b)])  # without asking: a write through .data shows in no version


@contextmanager
def _unlogged(modules: list[nn.Module]) -> Iterator[None]:
    """Let a ``self.log`` in a model's forward say nothing: a look is no step of the run, and Lightning would mix it in."""
    loggers = [module for module in modules if hasattr(type(module), "log_dict")]
    before = [{name: own for name, own in vars(module).items() if name in ("log", "log_dict")} for module in loggers]
    try:
        for module in loggers:
            vars(module).update(log=_say_nothing, log_dict=_say_nothing)
        yield
    finally:
        for module, own in zip(loggers, before, strict=True):
            for name in ("log", "log_dict"):
                vars(module).pop(name)
            vars(module).update(own)


def _say_nothing(*args: Any, **options: Any) -> None:
    pass


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch (all devices in use), NumPy and Python afterwards, also after an error."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def isolated_generators(holder: Any) -> Iterator[None]:
    """Restore the generators that a dataset or its transforms keep for themselves."""
    with ExitStack() as undo:
        for generator in _generators(holder, set()):
            if isinstance(generator, random.Random):
                undo.callback(generator.setstate, generator.getstate())
            elif isinstance(generator, np.random.Generator):
                undo.callback(setattr, generator.bit_generator, "state", generator.bit_generator.state)
            else:
                undo.callback(generator.set_state, generator.get_state())
        yield


def _generators(value: Any, seen: set[int], depth: int = 6) -> Iterator[Any]:
    """Generators in an object's attributes, in theirs, and in short lists such as those of transforms."""
    if id(value) in seen or depth == 0 or isinstance(value, type | Tensor):
        return
    seen.add(id(value))
    if isinstance(value, random.Random | torch.Generator | np.random.Generator | np.random.RandomState):
        yield value
        return
    inner = value if isinstance(value, list | tuple) else list(getattr(value, "__dict__", {}).values())
    for one in inner if len(inner) <= 100 else ():
        yield from _generators(one, seen, depth - 1)


def _expanded(tensor: Tensor) -> bool:
    """Whether several elements share one place in memory, so that torch writes to none of them."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
