"""Methods that go back to the image: full gradients, of the image and every bias, and guided backpropagation.

b batch, c channels, m map, i image sides.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_cam.capture.gradient import at_least_float
from lightning_cam.capture.seen import Seen
from lightning_cam.heat import min_max, resize
from lightning_cam.methods.gradient import grad_cam
from lightning_cam.model.merged import merged_bias
from lightning_cam.model.trace import layout_of
from lightning_cam.model.wrapped import unwrapped
from lightning_cam.registry import METHODS

_BIASED = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.GroupNorm)
_RELU: set[Callable[..., Any]] = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


@METHODS.register
def full_grad(seen: Seen) -> Float[Tensor, "b *i"]:
    """FullGrad: input times gradient, and bias times gradient of every layer, at the image's size.

    ``psi(x dS/dx) + sum_l sum_k psi(b_lk dS/dz_lk)``, psi = absolute value, rescaled to [0, 1], upsampled linearly; >= 0,
    without units. Rescaled over all channels of a layer, as the authors' code does (its corners are aligned, here they are
    not); batch norm counts with its implicit bias, and a layer without a map is left out. It is about the whole model: the
    layer watched has no part in it.

    Source: Srinivas & Fleuret 2019, arXiv 1905.00780.

    Raises:
        ValueError: if the score is cut off from the image.
    """
    of_image, of_biases = full_gradients(seen)
    heat = min_max(of_image.abs()).sum(1)
    for term in of_biases:
        layout = layout_of(term, seen.image.shape, seen.forward.calls)
        if layout is not None:
            psi = min_max(layout.to_map(term).abs())
            heat = heat + resize(psi.sum(1), heat.shape[1:])
    return heat


@METHODS.register
def guided_grad_cam(seen: Seen) -> Float[Tensor, "b *i"]:
    """Guided Grad-CAM: guided backpropagation to the image, where Grad-CAM is positive.

    ``sum_c G_c U(ReLU(grad_cam))`` over the image's channels, G the gradient by the image with every ReLU passing on
    positive gradients only, U linear upsampling; at the image's size, signed, without units. Guided backpropagation mostly
    shows edges, whatever the weights are (Adebayo et al. 2018, arXiv 1810.03292): judge a model by grad_cam. Other
    activations than ReLU are left as they are.

    Source: Selvaraju et al. 2017, section 3.2, arXiv 1610.02391; guided backpropagation: Springenberg et al. 2015,
    arXiv 1412.6806.

    Raises:
        ValueError: if the score is cut off from the image.
    """
    with _Guided():
        (g,) = seen.image_gradient([])
    assert g is not None
    u = resize(grad_cam(seen).relu(), g.shape[2:])
    return (g * u[:, None]).sum(1)


def full_gradients(seen: Seen) -> tuple[Float[Tensor, "b c *i"], list[Tensor]]:
    """``x dS/dx``, and ``b dS/dz`` of every bias, in the shape of its layer's output z.

    All of them sum to the score where the model is piecewise linear and its biases are those of convolutions, linear layers
    and batch norms (implicit: beta - gamma mu / sqrt(var + eps)).

    Raises:
        ValueError: if the score is cut off from the image.
    """
    outputs: list[Tensor] = []
    biases: list[Tensor] = []

    def recorder(bias: Tensor) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor) or not output.requires_grad:
                return None
            outputs.append(output)
            biases.append(_spread(bias, unwrapped(module), output))
            clone: Tensor = output.clone()  # an in-place operation behind may not rewrite what is differentiated by
            return clone

        return hook

    with ExitStack() as undo:
        for module in {call.module for call in seen.forward.calls}:
            bias = _bias(module)
            if bias is not None:
                undo.callback(module.register_forward_hook(recorder(bias)).remove)
        g, *of_outputs = seen.image_gradient(outputs)
    assert g is not None
    terms = [b * z for b, z in zip(biases, of_outputs, strict=True) if z is not None]
    return seen.image * g, terms


def _bias(module: nn.Module) -> Tensor | None:
    """What a module adds to a linear map, adapters included; for batch norm its implicit bias."""
    layer: Any = unwrapped(module)
    mean = getattr(layer, "running_mean", None)
    var = getattr(layer, "running_var", None)
    if isinstance(mean, Tensor) and isinstance(var, Tensor):
        bias = getattr(layer, "bias", None)
        gamma = getattr(layer, "weight", None)
        shift: Tensor = -at_least_float(mean) / (at_least_float(var) + layer.eps).sqrt()
        if gamma is not None:
            shift = shift * at_least_float(gamma.detach())
        if isinstance(bias, Tensor):
            shift = shift + at_least_float(bias.detach())
        return shift
    bias = merged_bias(module) if isinstance(layer, _BIASED) else None
    if bias is None:
        return None
    return at_least_float(bias)


def _spread(bias: Tensor, module: nn.Module, output: Tensor) -> Tensor:
    """A bias in the shape of its output: over the last axes of linear layers and layer norms, else over channels."""
    if isinstance(module, nn.Linear | nn.LayerNorm) and output.shape[-bias.ndim :] == bias.shape:
        return bias
    return bias.reshape(-1, *[1] * (output.ndim - 2))


class _Guided(TorchFunctionMode):
    """Inside, what a ReLU returns, as a module or a function, passes on positive gradients only."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _RELU and result.requires_grad:
            result = result.clone()  # what an in-place operation rewrites keeps no hook
            result.register_hook(lambda gradient: gradient.clamp(min=0))
        return result
