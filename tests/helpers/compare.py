"""How near two tensors have to be. Three measures: by the largest value, the same of maps that are no zeros, by each value."""

import torch
from torch import Tensor


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    """Demand the same shape, and no value further off than this share of the largest of ``b``."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-30)


def close_and_alive(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    """The same of maps in float32; two maps of zeros would prove nothing."""
    assert b.any()
    close(a, b, tolerance)


def near(a: Tensor, b: Tensor) -> bool:
    """Whether every value is equal but for the rounding of float64, however small it is."""
    return torch.allclose(a, b, rtol=1e-11, atol=1e-13)
