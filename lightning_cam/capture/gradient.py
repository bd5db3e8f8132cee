"""Gradients of scores, of a precision that holds them. b batch."""

import torch
from jaxtyping import Float
from torch import Tensor

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


def at_least_float(tensor: Tensor) -> Tensor:
    """Half precision as float32; other tensors as they are."""
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.float()
