"""The function mode that meets every function of torch while a balanced forward runs."""

import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from lightning_cam.capture.balance.operation import Operation, Taint, forbid, is_marked, mark, strongest, taint_of, tensors_in
from lightning_cam.capture.balance.rules import apply_rule, is_linear

_OPERATORS = {"radd": "add", "rmul": "mul", "iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv", "ipow": "pow"}
_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ipow", "setitem")
# attributes that are tensors, and what else is none of a forward's functions: other attributes, and setting them
_VIEWS = ("T", "mT", "H", "mH", "real", "imag")
_ASIDE = ("get", "set")
# functions of Python ask by these whether a mode is to be told, and would be handed back to it for ever
_ASKING = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_RECOMPUTED = (
    "libra changes the backward while the forward runs, and gradient checkpointing runs the forward once more in the backward, "
    "unchanged. Switch it off: model.gradient_checkpointing_disable() (Hugging Face), model.set_grad_checkpointing(False) "
    '(timm); or use the method without libra, such as method="grad_cam".'
)


class BalancingMode(TorchFunctionMode):
    """Lets every function run by its rule, in this thread only; values stay as they are, and nothing of torch is replaced.

    Args:
        names: the modules that may run, with their names.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self._names = names
        self._running_modules: list[str] = []
        # functions of Python whose own calls are being met
        self._open_functions: list[Any] = []
        # nodes of the graph are numbered as they are made; those before are none of the model's
        self._first_node = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Meet what the model calls while the block runs.

        Raises:
            ValueError: if part of the model is to be run anew in the backward.
        """
        self._first_node = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        before = register_module_forward_pre_hook(self._enter)
        # also called where forward raises, or modules would stay on the stack
        after = register_module_forward_hook(self._leave, always_call=True)
        try:
            with self, torch.autograd.graph.disable_saved_tensors_hooks(_RECOMPUTED):
                yield
        except RuntimeError as error:
            if str(error) != _RECOMPUTED:
                raise
            raise ValueError(_RECOMPUTED) from error
        finally:
            before.remove()
            after.remove()

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch by its rule; torch itself switches the mode off until this returns."""
        kwargs = kwargs or {}
        name, in_place = _name_of(func)
        # what a result can be differentiated by
        differentiable = []
        if torch.is_grad_enabled():
            differentiable = [tensor for tensor in tensors_in((args, kwargs)) if tensor.requires_grad]
        if not differentiable or name in _ASIDE:
            return func(*args, **kwargs)
        sources = [tensor for tensor in differentiable if not isinstance(tensor, nn.Parameter)]
        if not sources:
            # parameters alone, as where a position embedding is resized, make a constant like any other
            with torch.no_grad():
                return tree_map_only(Tensor, Tensor.detach, func(*args, **kwargs))
        for source in sources:
            self._check_met(source)
        if isinstance(func, types.FunctionType) and not is_linear(name) and func not in self._open_functions:
            return self._meet_within(func, args, kwargs)
        # the taint is asked for now: what is changed in place forgets its own
        operation = Operation(func, name, args, kwargs, sources, self._module, strongest(sources))
        if in_place and not is_linear(name):
            return _apply_on_copy(operation)
        result = apply_rule(operation)
        if in_place:
            mark(args[0], operation.taint)
        return result

    def _meet_within(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a function of Python whose own calls are met, one by one.

        It would ask whether a mode is to be told, and be handed back to it for ever. So its code is given other globals, in
        which nothing is to be told; torch's own stay as they are.
        """
        names = {**func.__globals__, **dict.fromkeys(_ASKING, lambda *_: False)}
        unasked = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
        unasked.__kwdefaults__ = func.__kwdefaults__
        self._open_functions.append(func)
        try:
            with self:
                return unasked(*args, **kwargs)
        finally:
            self._open_functions.pop()

    def _check_met(self, tensor: Tensor) -> None:
        """Forbid what was made where no mode can see: by compiled code, or by a function with a backward of its own."""
        node: Any = tensor.grad_fn
        if node is None or is_marked(node) or node._sequence_nr() < self._first_node:
            return
        # a change in place gives a new node to all that share the memory; what was done is in the graph all the same
        if tensor._version and (tensor._is_view() or node.name().endswith("CopySlices")):
            return
        forbid(tensor, Taint(node.name(), self._module, gate=False))

    @property
    def _module(self) -> str:
        if not self._running_modules:
            return "the target"
        return self._running_modules[-1] or "the model"

    def _enter(self, module: nn.Module, args: Any) -> None:
        if module in self._names:
            self._running_modules.append(self._names[module])

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if module in self._names:
            self._running_modules.pop()


def _apply_on_copy(operation: Operation) -> Tensor:
    """Apply the rule of a function that changes its first argument, and write into that what comes out.

    What is changed may be part of another tensor, or needed as it was.
    """
    changed: Tensor = operation.args[0]
    copy = changed.clone()
    mark(copy, taint_of(changed))
    result = apply_rule(
        replace(
            operation,
            function=lambda first, *args, **kwargs: operation.function(first.clone(), *args, **kwargs),
            args=[copy if argument is changed else argument for argument in operation.args],
            sources=[copy if source is changed else source for source in operation.sources],
        )
    )
    changed.copy_(result)
    mark(changed, taint_of(result))
    return changed


def _name_of(func: Any) -> tuple[str, bool]:
    """One name for a function, its method and its operator, and whether it changes its first argument."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        name = func.__self__.__name__
        return (name if name in _VIEWS else "get"), False
    bare = name.strip("_")
    if name.startswith("__"):
        return _OPERATORS.get(bare, bare), bare in _IN_PLACE
    return bare, name.endswith("_")
