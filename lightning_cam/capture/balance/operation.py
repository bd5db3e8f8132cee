"""One call of a function of torch, and what the graph remembers of its tensors.

In a balanced forward a tensor is constant where it does not depend on the layer; else it is linear, a locally affine function
of it, or it is tainted: a function that is neither has made it, or had a part in it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_KEY = "lightning_cam.taint"


@dataclass(frozen=True)
class Taint:
    """Why a tensor is no linear function of the layer.

    Attributes:
        function: the name of the function that made it so.
        module: the module in which that ran.
        gate: whether it may be held constant where it multiplies what is linear.
        of_constants: whether it is a gate that multiplied only what does not depend on the layer.
    """

    function: str
    module: str
    gate: bool
    of_constants: bool = False


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of a function of torch.

    Attributes:
        function: what is called.
        name: its name, the same for the function, the method and the operator.
        args: its arguments.
        kwargs: likewise.
        sources: those of its tensors that depend on the layer.
        module: where it is called.
        taint: that of the sources.
    """

    function: Callable[..., Any]
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    sources: Sequence[Tensor]
    module: str
    taint: Taint | None

    def run(self, change: Callable[[Tensor], Tensor] | None = None) -> Any:
        """What the function returns, of its tensors as they are or changed."""
        args, kwargs = self.args, self.kwargs
        if change is not None:
            args, kwargs = tree_map_only(Tensor, change, (tuple(args), dict(kwargs)))
        return self.function(*args, **kwargs)

    def value(self) -> Any:
        """What the function returns, without gradient."""
        with torch.no_grad():
            return self.run()

    def options(self, names: str) -> dict[str, Any]:
        """The arguments by these names, in the order in which the function takes them; None for those not given."""
        by_position = dict(zip(names.split(), self.args, strict=False))
        return {**dict.fromkeys(names.split()), **by_position, **self.kwargs}


class _Replacing(torch.autograd.Function):
    """A value with the gradient of another tensor of its shape."""

    @staticmethod
    def forward(ctx: Any, linear: Tensor, value: tuple[Tensor]) -> Tensor:
        # in a tuple: what is an argument itself could not be changed in place once it is returned
        return value[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def replaced(linear: Tensor, value: Tensor) -> Tensor:
    """The value, bit for bit, with the gradient of a linear function that has the same value up to rounding."""
    result: Tensor = _Replacing.apply(linear, (value,))
    return result


def taint_of(tensor: Tensor) -> Taint | None:
    """Why a tensor is not linear; None where it is."""
    node: Any = tensor.grad_fn
    if node is None:
        return None
    taint: Taint | None = node.metadata.get(_KEY)
    return taint


def strongest(tensors: Iterable[Tensor]) -> Taint | None:
    """The taint of tensors; of several one that is no gate."""
    taints = [taint for taint in map(taint_of, tensors) if taint]
    return min(taints, key=lambda taint: taint.gate, default=None)


def mark(result: Any, taint: Taint | None) -> None:
    """Write into the graph why tensors are not linear, or that they are, where nothing is written yet."""
    for node in nodes_of(result):
        node.metadata.setdefault(_KEY, taint)


def is_marked(node: Any) -> bool:
    """Whether a node of the graph tells how it was made."""
    return _KEY in node.metadata


def nodes_of(result: Any) -> list[Any]:
    """The nodes of the graph that made a function's results."""
    return [tensor.grad_fn for tensor in tensors_in(result) if tensor.grad_fn is not None]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors among a function's arguments, or its results, in any order."""
    tensors = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            tensors.append(item)
        elif isinstance(item, list | tuple):
            pending.extend(item)
        elif isinstance(item, Mapping):
            pending.extend(item.values())
    return tensors


def forbid(result: Any, taint: Taint) -> None:
    """Mark tensors, and let no gradient but zero pass through them.

    What has no rule is refused in the backward, by whoever differentiates: where it feeds a softmax, say, it does no harm.
    """

    def refuse(gradients: tuple[Tensor | None, ...]) -> None:
        if any(gradient is not None and gradient.any() for gradient in gradients):
            raise ValueError(_refusal(taint))

    for node in nodes_of(result):
        if not is_marked(node):
            node.register_prehook(refuse)
    mark(result, taint)


def _refusal(taint: Taint) -> str:
    place = f"{taint.function!r} in {taint.module!r}"
    if taint.of_constants:
        return (
            f"The score depends on the layer through {place}, a gate, and what that multiplies does not depend on the layer. "
            "libra holds gates constant and gives all of the score to what they multiply, so nothing of it reaches the layer. "
            "Name a layer from which what is multiplied comes, or one behind the product, or use the method without libra, "
            'such as method="grad_cam".'
        )
    return (
        f"libra has no rule for {place}, and the score depends on the layer through it, "
        "so what reaches the layer would not add up to the score. Rules are there for linear layers, piecewise linear "
        "activations, gates (GELU, SiLU, a sigmoid that multiplies), norms and attention. Name a layer behind it, use "
        'the method without libra, such as method="grad_cam", or, where the target is a probability, explain the '
        'logit, target="predicted".'
    )
