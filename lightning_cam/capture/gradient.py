"""Gradients of scores, of a precision that holds them, and of models that switch them off. b batch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

# fp16 gradients of a logit by a pooled map fall into the subnormal range; a power of two is exact to undo.
_HALF_SCALE = 1024.0


def derivative(score: Float[Tensor, "b"], inputs: list[Tensor], create_graph: bool = False) -> list[Tensor | None]:
    """Gradients of the scores' sum by each input, None where it has no part in it; single precision or better."""
    scale = 1.0
    total = score.sum()
    if any(tensor.dtype == torch.float16 for tensor in inputs):
        scale = _HALF_SCALE
        total = score.float().sum() * scale
    gradients = torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return [None if gradient is None else at_least_float(gradient) / scale for gradient in gradients]


def scaled_gradients(number: Float[Tensor, ""], tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of a number by each tensor, in its own precision, None where it has no part in it."""
    scale = 1.0
    if number.dtype == torch.float16:
        scale = _HALF_SCALE
        number = number.float() * scale
    gradients = torch.autograd.grad(number, tensors, retain_graph=True, allow_unused=True)
    return [None if gradient is None else gradient / scale for gradient in gradients]


def at_least_float(tensor: Tensor) -> Tensor:
    """Half precision as float32; other tensors as they are."""
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.float()


@contextmanager
def inference_mode_as_no_grad() -> Iterator[None]:
    """Inside, a model's own ``torch.inference_mode()`` only switches gradients off, as ``torch.no_grad()`` does.

    A tensor made in inference mode can never have a gradient, nor be kept for one. So the mode is left as soon as a module is
    called in it, and a watched layer behind may switch gradients on again. Gradients are on or off behind the block as the
    model left them.

    Raises:
        ValueError: where the model needs a tensor for a gradient that it made in the mode before it called any module.
    """
    enabled = torch.is_grad_enabled()
    with ExitStack() as modes:
        # What is entered inside outlives the model's own block, and each puts back what it found: the first, left last, what
        # there was before the model.
        modes.enter_context(torch.inference_mode(False))
        torch.set_grad_enabled(enabled)

        def leave(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not torch.is_inference_mode_enabled():
                return None
            modes.enter_context(torch.inference_mode(False))
            torch.set_grad_enabled(False)
            return tuple(map(without_inference, args))

        hook: Any = leave  # torch takes changed arguments from it, which its types do not tell
        modes.callback(register_module_forward_pre_hook(hook).remove)
        try:
            yield
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise ValueError(
                "The model makes a tensor under torch.inference_mode() that what follows needs for a gradient, or writes to: "
                f"{error} Write torch.no_grad() instead of torch.inference_mode() in the model, or watch a layer behind it."
            ) from error
        enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(enabled)


def without_inference(value: Any) -> Any:
    """A tensor that was made in inference mode as one that may be recorded; anything else as it is."""
    if isinstance(value, Tensor) and value.is_inference():
        return value.clone()
    return value
