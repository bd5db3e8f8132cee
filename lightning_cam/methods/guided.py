"""Guided Grad-CAM. b batch, i image sides."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_cam.family import METHODS
from lightning_cam.heat import resize
from lightning_cam.methods.gradient import grad_cam
from lightning_cam.seen import Seen

_RELU: set[Callable[..., Any]] = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


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
    return (g * resize(grad_cam(seen).relu(), g.shape[2:])[:, None]).sum(1)


class _Guided(TorchFunctionMode):
    """Inside, what a ReLU returns, as a module or a function, passes on positive gradients only."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _RELU and result.requires_grad:
            result = result.clone()
            result.register_hook(lambda gradient: gradient.clamp(min=0))
        return result
