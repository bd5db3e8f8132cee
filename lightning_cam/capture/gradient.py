"""Gradients of scores. b batch."""

import torch
from jaxtyping import Float
from torch import Tensor

# fp16 gradients of a logit by a pooled map fall into the subnormal range; a power of two is exact to undo.
_HALF_SCALE = 1024.0


def derivative(score: Float[Tensor, "b"], inputs: list[Tensor], create_graph: bool = False) -> list[Tensor | None]:
    """Gradients of the scores' sum by each input, None where it has no part in it; single precision or better."""
    scale = _HALF_SCALE if any(each.dtype == torch.float16 for each in inputs) else 1.0
    total = score.float().sum() * scale if scale != 1.0 else score.sum()
    found = torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return [None if g is None else at_least_float(g) / scale for g in found]


def at_least_float(tensor: Tensor) -> Tensor:
    """Half precision as float32; other tensors as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
