"""Methods that need one forward and no gradient, and the random control.

b batch, c channels, m map (u v for pictures), k class.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.capture.seen import Seen
from lightning_cam.methods.gradient import weighted
from lightning_cam.model.merged import merged_bias, merged_weight
from lightning_cam.model.names import named_as
from lightning_cam.model.trace import Call
from lightning_cam.registry import METHODS

_HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WAY_OUT = "Or use grad_cam, which reads no weights."


@METHODS.register
def activation_mean(seen: Seen, *, channels: int | slice | Sequence[int] | None = None) -> Float[Tensor, "b *m"]:
    """Mean over channels of the rectified activation, of all channels or a slice of them.

    ``mean_k ReLU(A_k)``: class-agnostic, >= 0, in units of the activation; what every class map must beat. With
    ``channels`` one class of a 1x1-convolution head, ``ReLU(z_c)``, it is that head's own evidence map.

    Source: LaFAM (Karjauv & Albayrak 2024, arXiv 2407.06059), there of the activation as it is, behind a ReLU mostly.

    Args:
        seen: what one forward showed.
        channels: a channel, a (start, stop) pair or slice, or None for all.

    Raises:
        ValueError: if the slice holds no channel of the layer.
    """
    a = seen.activation[:, _channel_slice(channels)]
    if not a.shape[1]:
        c = seen.activation.shape[1]
        raise ValueError(f"channels={channels!r} selects none of the {c} channels of {seen.layer}: 0 to {c - 1}.")
    return a.relu().mean(1)


@METHODS.register
def cam(seen: Seen, *, head: str | None = None) -> Float[Tensor, "b *m"]:
    """Class activation map: the classifier's weights of the class, applied at each place.

    ``sum_k w_ck A_k``, signed, in logit units. After global average pooling and one linear layer its mean is the logit
    less its bias. With a 1x1-convolution head (SqueezeNet) it is that convolution without its bias.

    Source: Zhou et al. 2016, eq. 2, arXiv 1512.04150.

    Args:
        seen: what one forward showed, for a target that is a class.
        head: the classifier's dotted name; by default it is found behind the layer.

    Raises:
        ValueError: if the head is not the one layer the formula needs, or the target is not a class.
    """
    if seen.classes is None:
        raise ValueError("cam needs a class as its target, since it uses that class's weights; use grad_cam for a score.")
    w = _class_weights(seen, head)[seen.classes]
    return weighted(w, seen.activation)


@METHODS.register
def random_cam(seen: Seen, *, seed: int = 0) -> Float[Tensor, "b *m"]:
    """Uniform noise in [0, 1] at the map's resolution: the control that every map must beat under every metric.

    It depends on neither image, class nor weights: the n-th sample of a batch has the same noise at every look and on
    every device. Global random states are neither read nor changed.

    Cost: nothing beyond the look. Source: none; a random attribution is the usual floor of faithfulness benchmarks.

    Args:
        seen: what one forward showed.
        seed: which noise.
    """
    a = seen.activation
    generator = torch.Generator().manual_seed(seed)
    # each sample on its own, so that it does not depend on how many follow
    noise = [torch.rand(a.shape[2:], generator=generator, dtype=torch.float64) for _ in a]
    return torch.stack(noise).to(a)


def _channel_slice(channels: int | slice | Sequence[int] | None) -> slice:
    if channels is None:
        return slice(None)
    if isinstance(channels, int):
        return slice(channels, channels + 1)
    if isinstance(channels, slice):
        return channels
    return slice(*channels)


def _class_weights(seen: Seen, head: str | None) -> Float[Tensor, "k c"]:
    call = _head(seen, head)
    if call is None or not isinstance(call.layer, _HEADS):
        raise ValueError(
            f"cam needs one linear layer or 1x1 convolution, and nothing else with weights, between {seen.layer!r} and the "
            "logits; found none. Name it with {'cam': {'head': ...}}, or use grad_cam, which needs no such head."
        )
    a = seen.activation
    try:
        w = merged_weight(call.module).flatten(1).to(a.dtype)
        bias = merged_bias(call.module)
    except ValueError as error:
        raise ValueError(f"cam needs the weights of the classifier {call.name!r}. {error} {_WAY_OUT}") from error
    if w.shape[1] != a.shape[1]:
        raise ValueError(f"The head takes {w.shape[1]} channels and {seen.layer!r} gives {a.shape[1]}; cam needs them equal.")
    bias = w.new_zeros(len(w)) if bias is None else bias.to(a.dtype)
    if isinstance(call.layer, nn.Linear):
        poolings = [a.flatten(2).mean(2) @ w.T + bias]
    else:  # SqueezeNet has a ReLU between its convolution and the pooling
        z = torch.einsum("kc,bcm->bkm", w, a.flatten(2)) + bias[:, None]
        poolings = [z.relu().mean(2), z.mean(2)]
    logits = seen.logits.to(a.dtype)
    slack = 0.03 * logits.abs().amax() + 1e-6  # wide enough for bf16, far below what another head differs by
    if not any(bool(((p - logits).abs() <= slack).all()) for p in poolings):
        raise ValueError(
            f"cam needs the logits to be the head applied to the spatial mean of {seen.layer!r}; here they are not "
            "(another pooling, an operation between, or a softmax in forward). Use grad_cam or name a later layer."
        )
    return w


def _head(seen: Seen, name: str | None) -> Call | None:
    """The classifier of that name, or by default the one behind the layer, if there is one."""
    if not name:
        return seen.head
    calls = {call.name: call for call in seen.forward.calls}
    meant = named_as(name, calls)
    if len(meant) != 1:
        weighted_names = [call.name for call in calls.values() if isinstance(call.layer, _HEADS)]
        raise ValueError(f"The head {name!r} did not run in this forward. With weights: {', '.join(weighted_names[-5:])}.")
    return calls[meant[0]]
