"""No trace: everything a look touches in a model, and the random states, put back."""

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Buffers = list[tuple[nn.Module, dict[str, Tensor | None]]]  # each module's, by name
Parameters = list[tuple[nn.Module, dict[str, nn.Parameter | None]]]
_LOG_METHODS = ("log", "log_dict")


@contextmanager
def no_trace(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients possible inside; outside, every flag, buffer and random state as it was.

    Gradients are left alone by never calling ``.backward()``, and parameters by never writing to them, which is for the block
    to keep to; where a forward puts others in their place, they come back.

    Args:
        model: any module, compiled or not, on any device.

    Example:
        >>> layer = nn.Dropout()
        >>> with no_trace(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    modules = list(model.modules())
    flags = [module.training for module in modules]
    buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
    parameters = [(module, dict(module._parameters)) for module in modules if module._parameters]
    # undone from the last to the first: the random states at the very end, so that nothing moves them after
    with ExitStack() as undo:
        undo.enter_context(isolated_rng())
        undo.enter_context(_unlogged(modules))
        # Lightning validates in inference mode, where no tensor can ever have a gradient
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        # what is compiled already would run without the hooks added since; unless imported, nothing is compiled
        if "torch._dynamo" in sys.modules:
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        copies = _copies(buffers)
        try:
            for module in modules:
                # not .eval(): a module's own train() may do more than set the flag, which nobody could undo
                module.training = False
            yield
        finally:
            for module, flag in zip(modules, flags, strict=True):
                module.training = flag
            _restore_parameters(parameters)
            _restore(buffers, copies)


def _copies(buffers: Buffers) -> dict[int, Tensor]:
    """The values of all buffers, by the buffer's id: modules may share one."""
    return {id(buffer): buffer.clone() for _, by_name in buffers for buffer in by_name.values() if buffer is not None}


def _restore(buffers: Buffers, copies: dict[int, Tensor]) -> None:
    """Put the same tensors back where a forward assigned others, and the same values where it wrote into them."""
    # buffers made in inference mode, as in a validation before, can be written to in that mode alone
    with torch.inference_mode():
        for module, by_name in buffers:
            module._buffers.update(by_name)
            for buffer in by_name.values():
                if buffer is None or _is_expanded(buffer):
                    continue
                # by .data, which leaves the version as it is: a graph that keeps the buffer for its backward stays
                # valid; and always, since a forward that wrote by .data shows in no version either
                buffer.data.copy_(copies[id(buffer)])


def _restore_parameters(parameters: Parameters) -> None:
    """Put parameters back in whose place a forward put others.

    Peft's LoRA in torch's own attention does so at every forward: it adds the adapter to the weights and takes it off again,
    which leaves new parameters, rounded; one that fails halfway leaves the sum, as a plain tensor. Sharded parameters, whose
    exchange is the strategy's own affair, are of another type or shape.
    """
    for module, by_name in parameters:
        replaced = {}
        present = dict(module._parameters)  # a scripted module's has no get
        for name, parameter in by_name.items():
            now = present.get(name, vars(module).get(name))
            if _took_the_place(now, parameter):
                replaced[name] = parameter
        if replaced:
            # in the order of before, which is that of an optimizer's state
            others = [name for name in present if name not in by_name]
            order = [name for name in by_name if name in present or name in replaced]
            present |= replaced
            for name in replaced:
                vars(module).pop(name, None)
            module._parameters.clear()
            module._parameters.update({name: present[name] for name in (*order, *others)})


def _took_the_place(now: Any, parameter: nn.Parameter | None) -> bool:
    """Whether this is what a forward put in the place of an ordinary parameter."""
    if type(parameter) is not nn.Parameter or now is parameter:
        return False
    return type(now) is nn.Parameter or (type(now) is Tensor and now.shape == parameter.shape)


def _is_expanded(tensor: Tensor) -> bool:
    """Whether several elements share one place in memory. Torch writes to no such tensor, so no forward did either."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


@contextmanager
def _unlogged(modules: list[nn.Module]) -> Iterator[None]:
    """Let a ``self.log`` in a model's forward say nothing.

    A look is no step of the run: Lightning would mix its values into the epoch's, or refuse to log from where it is.
    """
    loggers = [module for module in modules if hasattr(type(module), "log_dict")]
    originals = [_own_log_methods(module) for module in loggers]
    try:
        for module in loggers:
            vars(module).update(dict.fromkeys(_LOG_METHODS, _say_nothing))
        yield
    finally:
        for module, original in zip(loggers, originals, strict=True):
            for name in _LOG_METHODS:
                vars(module).pop(name)
            vars(module).update(original)


def _own_log_methods(module: nn.Module) -> dict[str, Any]:
    """Those set on the instance, as a look inside a look finds them; those of the class come back by themselves."""
    return {name: value for name, value in vars(module).items() if name in _LOG_METHODS}


def _say_nothing(*args: Any, **options: Any) -> None:
    pass


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch (all devices in use), NumPy and Python afterwards, also after an error.

    Args:
        seed: of all of them inside; None leaves them as they are.
    """
    python = random.getstate()
    numpy = np.random.get_state()
    cpu = torch.get_rng_state()
    cuda = None
    # a process that does not use CUDA yet must not begin to: it could no longer fork
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        cuda = torch.cuda.get_rng_state_all()
    mps = None
    if torch.backends.mps.is_available():
        mps = torch.mps.get_rng_state()
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
                state = generator.bit_generator.state
                undo.callback(setattr, generator.bit_generator, "state", state)
            else:
                undo.callback(generator.set_state, generator.get_state())
        yield


def _generators(holder: Any, visited: set[int], depth: int = 6) -> Iterator[Any]:
    """Generators in an object's attributes, in theirs, and in short lists such as those of transforms."""
    if id(holder) in visited or depth == 0 or isinstance(holder, type | Tensor):
        return
    visited.add(id(holder))
    if isinstance(holder, random.Random | torch.Generator | np.random.Generator | np.random.RandomState):
        yield holder
        return
    parts = _parts(holder)
    if len(parts) > 100:  # the samples of a dataset, not its transforms
        return
    for part in parts:
        yield from _generators(part, visited, depth - 1)


def _parts(holder: Any) -> Sequence[Any]:
    if isinstance(holder, list | tuple):
        return holder
    return list(getattr(holder, "__dict__", {}).values())
