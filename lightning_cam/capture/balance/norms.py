"""Norms with a constant scale: ``(x - mean(x)) r gamma + beta`` with r = 1 / std held constant is linear in x.

The mean is linear and stays. b batch, c channels, m map.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.balance.operation import Operation, replaced
from lightning_cam.capture.gradient import at_least_float


def layer_norm(op: Operation) -> Tensor:
    """Over the last axes."""
    options = op.options("input normalized_shape weight bias eps")
    axes = tuple(range(-len(options["normalized_shape"]), 0))
    linear = _divided(_centred(options["input"], axes), axes, _eps(options))
    return replaced(_times(linear, options["weight"]), op.value())


def rms_norm(op: Operation) -> Tensor:
    """Over the last axes, without a mean."""
    options = op.options("input normalized_shape weight eps")
    axes = tuple(range(-len(options["normalized_shape"]), 0))
    x = options["input"]
    eps = options["eps"]
    if eps is None:
        eps = torch.finfo(x.dtype).eps
    linear = _divided(at_least_float(x), axes, eps)
    return replaced(_times(linear, options["weight"]), op.value())


def group_norm(op: Operation) -> Tensor:
    """Over the channels of a group and all places."""
    options = op.options("input num_groups weight bias eps")
    x = options["input"]
    linear = _grouped(x, options["num_groups"], _eps(options))
    return replaced(_times(linear, _by_channel(options["weight"], x)), op.value())


def instance_norm(op: Operation) -> Tensor:
    """Over all places of a channel; linear where it uses running statistics."""
    options = op.options("input weight bias running_mean running_var use_input_stats momentum eps")
    if not options["use_input_stats"]:
        result: Tensor = op.run()
        return result
    x = options["input"]
    linear = _grouped(x, x.shape[1], _eps(options))
    return replaced(_times(linear, _by_channel(options["weight"], x)), op.value())


def cosine_similarity(op: Operation) -> Tensor:
    """``x . y / (|x| |y|)`` with constant lengths, of one tensor that depends on the layer and one that does not."""
    options = op.options("x1 x2 dim eps")
    axis = options["dim"]
    if axis is None:
        axis = 1
    (x,) = op.sources
    other = options["x2"]
    if x is other:
        other = options["x1"]
    lengths = [at_least_float(y.detach()).norm(dim=axis, keepdim=True).clamp(min=options["eps"] or 1e-8) for y in (x, other)]
    return replaced((x / lengths[0] * (other / lengths[1])).sum(axis), op.value())


def _grouped(x: Float[Tensor, "b c *m"], groups: int, eps: float) -> Float[Tensor, "b c *m"]:
    grouped = x.reshape(len(x), groups, -1)
    return _divided(_centred(grouped, (-1,)), (-1,), eps).reshape(x.shape)


def _centred(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    x = at_least_float(x)
    return x - x.mean(axes, keepdim=True)


def _divided(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """By the root of its mean square, held constant."""
    return x * (x.detach().square().mean(axes, keepdim=True) + eps).rsqrt()


def _times(x: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return x
    return x * weight.detach()


def _by_channel(weight: Tensor | None, x: Float[Tensor, "b c *m"]) -> Tensor | None:
    if weight is None:
        return None
    return weight.reshape(-1, *[1] * (x.ndim - 2))


def _eps(options: dict[str, Any]) -> float:
    """What is asked for, or torch's own."""
    eps = options["eps"]
    return 1e-5 if eps is None else float(eps)
