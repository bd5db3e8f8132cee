"""The classifier among the calls of a forward."""

from typing import Any

from torch import Tensor, nn

from lightning_cam.model.trace import Call


def find_head(calls: list[Call], classes: int | None) -> Call | None:
    """The classifier: the last module with weights, if it is linear, or a 1x1 convolution, to the number of outputs."""
    weighted = [call for call in calls if isinstance(call.module, nn.Linear | nn.modules.conv._ConvNd)]
    if not weighted or not isinstance(last := weighted[-1].module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    if isinstance(last, nn.Linear):
        return weighted[-1] if classes in (None, last.out_features) and weighted[-1].layout is None else None
    return weighted[-1] if max(last.kernel_size) == 1 and last.out_channels == classes else None


def head_weight(calls: list[Call], logits: Any) -> Tensor | None:
    """The classifier's weights [k c], if it is one linear layer or 1x1 convolution to these logits."""
    head = find_head(calls, logits.shape[1]) if isinstance(logits, Tensor) and logits.ndim == 2 else None
    return head.module.weight.detach().flatten(1) if head and isinstance(head.module.weight, Tensor) else None
