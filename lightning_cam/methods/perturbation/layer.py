"""Methods that change the activation and run only what follows the layer.

They need no gradient, so they explain also a model whose score has none. Places are emptied to zero or to the mean token, the
mean of the sample's own activation over its map. Behind norms and attention zero is no absence but a token that no image gives,
and what the model makes of it is counted too: zeroing registers overstates their part, replacing them by their mean or by one
another does not (arXiv 2604.14433). b batch, c channels, m map, n changed samples, s shares of a kernel.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import above_rounding
from lightning_cam.methods.gradient import weighted
from lightning_cam.registry import METHODS

Fill = Literal["zero", "mean"]


@METHODS.register
def ablation_cam(seen: Seen, *, chunk: int = 64) -> Float[Tensor, "b *m"]:
    """Ablation-CAM: channels weighted by the share of the score that is lost without them.

    ``sum_k w_k A_k`` with ``w_k = (S - S_{A_k = 0}) / |S|``, signed, in units of the activation. The paper divides by S, which
    turns the map over where S is negative; here a channel without which the score falls always counts positive. Where S
    is 0 nothing is divided. After global average pooling and one linear layer ``w_k = w_ck mean(A_k) / |S|``. Prefix tokens
    stay as they are. A channel is put to zero and not to its mean over the map, which after pooling changes no score at all;
    a mean over the batch would make a map depend on its neighbours. token_ablation and recipro_cam know the mean token.

    Cost: the trunk once a chunk on one image, the tail once a channel. Source: Desai & Ramaswamy 2020 (WACV).

    Args:
        seen: what one forward showed.
        chunk: how many changed activations are run at a time.

    Raises:
        ValueError: for a chunk below 1.
    """
    a = seen.activation
    score = seen.score
    ablated = torch.stack([_rescored(seen, i, a.shape[1], partial(_ablated, a[i]), chunk) for i in range(len(a))])
    size = score.abs()
    # as of a map: where no score differs from another but by rounding, no channel counts
    rounding = seen.score_eps * (size + ablated.abs().amax(1))
    w = above_rounding(score[:, None] - ablated, rounding) / size.where(size > 0, 1)[:, None]
    return weighted(w, a)


@METHODS.register
def recipro_cam(seen: Seen, *, kernel: Sequence[float] = (1.0,), fill: Fill = "zero", chunk: int = 64) -> Float[Tensor, "b *m"]:
    """Recipro-CAM: at each place, the score of that place's activation alone, all other places empty.

    ``S(A kept at uv only) - S(empty)``, signed, in units of the score. The paper scales each map to [0, 1], which takes any
    constant away; here it is the score of the empty map, so that zero means no evidence. After global average pooling and
    one linear layer it is ``cam / (u v)``, with the mean token less its mean over the map. Prefix tokens stay as they are.
    Differences below the rounding of the score itself (1/256 of it in bfloat16) are lost.

    Cost: the trunk once a chunk on one image, the tail once a place and once more. Source: Byun & Lee 2022,
    arXiv 2209.14074; they take the class's probability as the score, which a target can do here.

    Args:
        seen: what one forward showed.
        kernel: the shares of the place's activation that it and its neighbours along each side are given, itself in the middle;
            (1/4, 1/2, 1/4) is the paper's.
        fill: what an empty place holds: ``zero``, as in the paper, or ``mean``, the mean token, for transformers.
        chunk: how many changed activations are run at a time.

    Raises:
        ValueError: for a chunk below 1, a kernel without a middle, or a fill of another name.
    """
    if len(kernel) % 2 == 0:
        raise ValueError(f"kernel={tuple(kernel)!r}: expected an odd number of shares, the place's own in the middle.")
    a = seen.activation
    places = a[0, 0].numel()
    shares = a.new_tensor(kernel)
    fills = _fills(a, fill)
    change = [partial(_single, a[i], fill=fills[i], kernel=shares) for i in range(len(a))]
    single = torch.stack([_rescored(seen, i, places, change[i], chunk) for i in range(len(a))])
    empty = torch.cat([seen.rescore(i, activation=fills[i : i + 1].expand_as(a[:1])) for i in range(len(a))])
    heat: Tensor = (single - empty[:, None]).unflatten(1, a.shape[2:])
    return above_rounding(heat, seen.score_eps * (single.abs().amax(1) + empty.abs()))


@METHODS.register
def token_ablation(seen: Seen, *, fill: Fill = "mean", chunk: int = 64) -> Float[Tensor, "b *m"]:
    """Token ablation: at each place, the score that is lost when that place alone is emptied.

    ``S - S(A emptied at uv)``, signed, in units of the score: occlusion at the layer, and the counterpart of recipro_cam, which
    keeps one place where this takes one away. After global average pooling and one linear layer it is ``cam / (u v)`` less,
    with the mean token, its mean over the map. Prefix tokens stay as they are. What several places say alike is lost with
    none of them. Differences below the rounding of the score itself (1/256 of it in bfloat16) are lost.

    Cost: the trunk once a chunk on one image, the tail once a place. Source: Zeiler & Fergus 2014, section 4.2,
    arXiv 1311.2901, at a layer; the mean in place of zero after arXiv 2604.14433.

    Args:
        seen: what one forward showed.
        fill: what an emptied place holds: ``mean``, the mean token, or ``zero``.
        chunk: how many changed activations are run at a time.

    Raises:
        ValueError: for a chunk below 1, or a fill of another name.
    """
    a = seen.activation
    places = a[0, 0].numel()
    fills = _fills(a, fill)
    scores = [_rescored(seen, i, places, partial(_emptied, a[i], fill=fills[i]), chunk) for i in range(len(a))]
    emptied = torch.stack(scores)
    heat: Tensor = (seen.score[:, None] - emptied).unflatten(1, a.shape[2:])
    return above_rounding(heat, seen.score_eps * (seen.score.abs() + emptied.abs().amax(1)))


def _fills(a: Float[Tensor, "b c *m"], fill: Fill) -> Float[Tensor, "b c *ones"]:
    """What an empty place of each sample holds: zero, or the mean over its map."""
    if fill not in ("zero", "mean"):
        raise ValueError(f"fill={fill!r}: expected 'zero', or 'mean' for the sample's mean over the map.")
    mean = a.flatten(2).mean(2).reshape(*a.shape[:2], *[1] * (a.ndim - 2))
    if fill == "zero":
        return torch.zeros_like(mean)
    return mean


def _ablated(a: Float[Tensor, "c *m"], channels: Int[Tensor, "n"]) -> Float[Tensor, "n c *m"]:
    """The activation, each time with another channel set to zero."""
    changed = a.repeat(len(channels), *[1] * a.ndim)
    changed[torch.arange(len(channels), device=a.device), channels] = 0
    return changed


def _emptied(a: Float[Tensor, "c *m"], places: Int[Tensor, "n"], fill: Float[Tensor, "c *ones"]) -> Float[Tensor, "n c *m"]:
    """The activation, each time with another place emptied."""
    changed = a.flatten(1).repeat(len(places), 1, 1)
    changed[torch.arange(len(places), device=a.device), :, places] = fill.flatten()
    maps: Tensor = changed.unflatten(2, a.shape[1:])
    return maps


def _single(
    a: Float[Tensor, "c *m"], places: Int[Tensor, "n"], fill: Float[Tensor, "c *ones"], kernel: Float[Tensor, "s"]
) -> Float[Tensor, "n c *m"]:
    """The activation of one place, each time another, at that place or spread around it; all else empty."""
    sides = a.shape[1:]
    values = (a - fill).flatten(1)[:, places].T
    share = values.new_ones((len(places), 1))
    # what each cell is given is a product over the sides, as a separable kernel has it
    for side, center in zip(sides, torch.unravel_index(places, sides), strict=True):
        tap = torch.arange(side, device=a.device) - center[:, None] + len(kernel) // 2
        within = (tap >= 0) & (tap < len(kernel))
        side_share = kernel[tap.clamp(0, len(kernel) - 1)].where(within, 0)
        share = (share[:, :, None] * side_share[:, None]).flatten(1)
    changed: Tensor = fill + (values[:, :, None] * share[:, None]).unflatten(2, sides)
    return changed


def _rescored(
    seen: Seen, sample: int, count: int, change: Callable[[Tensor], Float[Tensor, "n c *m"]], chunk: int
) -> Float[Tensor, "n"]:
    """The score of every change of one sample's activation."""
    indices = torch.arange(count, device=seen.activation.device)
    chunks = indices.split(checked(chunk))
    return torch.cat([seen.rescore(sample, activation=change(part)) for part in chunks])


def checked(chunk: int) -> int:
    """A chunk of at least one.

    Raises:
        ValueError: for less.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk!r}: expected how many changed samples are run at a time, 1 or more.")
    return chunk
