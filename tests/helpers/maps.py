"""Raw maps of the small nets in ``zoo.py`` and ``vits.py``, and the names of methods of one forward and its gradients."""

import torch
from torch import Tensor

from lightning_cam import explain

CLASSES = [2, 0, 3]  # of the three images there are

AT_LAYER = [
    *("grad_cam", "hires_cam", "x_grad_cam", "layer_cam", "grad_cam_elementwise", "grad_cam_pp", "grad_cam_pp_normalized"),
    *("eigen_cam", "eigen_grad_cam", "seg_eigen_cam", "kpca_cam", "fem", "shapley_cam"),
    *("integrated_grad_cam", "integrated_gradients"),
]
AT_IMAGE = ["full_grad", "guided_grad_cam"]
EVERY = AT_LAYER + AT_IMAGE


def heat(net, x, method, classes=CLASSES, layer: str | None = "features", **options) -> Tensor:
    """The maps of these classes, [b u v]."""
    return explain(net, x, layer=layer, method=method, target=torch.tensor(classes), **options).heat


def combined(logits: Tensor, label: Tensor) -> Tensor:
    """A score that mixes two classes, [b]."""
    return 2 * logits[:, 1] - 3 * logits[:, 2]
