"""The classifier among the calls of a forward. k classes, c channels."""

from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn

from lightning_cam.model.merged import merged_weight
from lightning_cam.model.trace import Call

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def find_head(calls: list[Call], classes: int | None) -> Call | None:
    """The classifier: the last module with weights, if it is linear, or a 1x1 convolution, to the number of outputs.

    Args:
        calls: the calls of one forward.
        classes: the number of outputs; None if it is not known, which a linear layer fits and a convolution does not.
    """
    weighted = [i for i, call in enumerate(calls) if isinstance(call.layer, nn.Linear | nn.modules.conv._ConvNd)]
    if not weighted:
        return None
    last, behind = calls[weighted[-1]], calls[weighted[-1] + 1 :]
    if _fits(last, classes) and not _is_normed(last, behind):
        return last
    return None


def _fits(last: Call, classes: int | None) -> bool:
    layer = last.layer
    if isinstance(layer, nn.Linear):
        # one that returns tokens is applied to each, and so is part of a block
        return last.layout is None and classes in (None, layer.out_features)
    # named one by one: a transposed convolution is no head
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return max(layer.kernel_size) == 1 and layer.out_channels == classes
    return False


def _is_normed(last: Call, behind: list[Call]) -> bool:
    """Whether a norm comes behind a convolution, which then ends a trunk that has no classifier, as wide as its embedding."""
    if not isinstance(last.layer, nn.modules.conv._ConvNd):
        return False
    return any(isinstance(call.layer, _NORMS) for call in behind)


def head_weight(calls: list[Call], logits: Any) -> Shaped[Tensor, "k c"] | None:
    """The classifier's weights with its adapters', if it is one linear layer or 1x1 convolution to these logits [b k].

    None also where its weights cannot be read: packed by a quantisation, or under an adapter that is no LoRA.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    head = find_head(calls, logits.shape[1])
    if head is None:
        return None
    try:
        return merged_weight(head.module).flatten(1)
    except ValueError:
        return None  # only a target that needs them may complain
