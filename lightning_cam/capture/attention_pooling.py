"""Pooling by attention: the last reading of an image's tokens, by probes that are no tokens of it.

b batch, h heads, q probes, k keys, n tokens of the blocks.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lightning_cam.capture.attention_recorder import AttentionRecorder, RecordedAttention
from lightning_cam.model.layout import Layout

WAY_OUT = 'Write method="grad_cam", which needs no attention.'
_MOST_PREFIX = 16  # as of a layout: a mean or class token put before the keys, registers


@dataclass(frozen=True, eq=False)
class Readout:
    """A pooling by attention behind all blocks, or behind convolutions.

    Its probes are a latent (timm's ``global_pool="map"``, SigLIP, CoCa) or made of all tokens (CLIP's ResNets: their mean).
    They hold no place of the image, so no residual stream leads past it: the score reads tokens through its rows alone.

    Attributes:
        attention: with probabilities [b h q k].
        layout: how its keys are read as a map.
    """

    attention: RecordedAttention
    layout: Layout

    def to_tokens(self, keys: Float[Tensor, "b k"], layout: Layout) -> Float[Tensor, "b n"]:
        """A number for each key as one for each token of the blocks, which are read by ``layout``.

        Both have the same patches. Tokens beside them that it is not given have zero; keys that are no tokens of the blocks,
        such as a mean put before them, are left out.
        """
        before = (layout.prefix or 0) - (self.layout.prefix or 0)
        return F.pad(keys, (before, layout.suffix - self.layout.suffix))  # fewer than none: cut off


def make_readout(attention: RecordedAttention, layout: Layout, module: nn.Module | None) -> Readout:
    """An attention behind all blocks as the pooling of their tokens.

    Args:
        attention: with probabilities [b h q k].
        layout: how the tokens of the blocks are read as a map.
        module: the module in which it ran.

    Raises:
        ValueError: if its keys cannot be told to be these tokens.
    """
    k = attention.probability.shape[-1]
    cells = math.prod(layout.grid)
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        raise ValueError(
            f"The attention in {attention.name!r} adds keys that are no tokens, behind those that are. Make it without "
            f"add_bias_kv and add_zero_attn. {WAY_OUT}"
        )
    n = cells + layout.extra
    # where only some tokens beside the patches are left out, their number does not say which
    if k not in (cells, n) and (layout.extra or not 0 < k - cells <= _MOST_PREFIX):
        raise ValueError(
            f"The pooling by attention in {attention.name!r} has {k} keys, and the blocks before it have {n} tokens, {cells} "
            f"of them patches, so which it is given cannot be told; expected {cells} or {n} keys. {WAY_OUT}"
        )
    suffix = layout.suffix
    if k == cells:
        suffix = 0
    return Readout(attention, replace(layout, prefix=k - cells - suffix, suffix=suffix))


@dataclass(frozen=True, eq=False)
class Runs:
    """How the model is run anew within a look.

    Attributes:
        rerun: at the same images, recorded from its beginning; gives the scores.
        rescore: at another image in place of the first, without gradient; gives that one's scores.
        first: the first image.
    """

    rerun: Callable[[], Tensor]
    rescore: Callable[[Tensor], Tensor]
    first: Shaped[Tensor, "1 ..."]


def reads_beside(runs: Runs, names: Mapping[nn.Module, str], position: int) -> bool:
    """Whether the score depends on the image other than through one attention.

    That attention is made to gather nothing, and the model is run at an image and at another: only what leads past it, such
    as the residual stream beside a block, can still tell them apart.

    Args:
        runs: how the model is run.
        names: the modules that may run, with their names.
        position: which of the attentions, in the order in which they run.
    """
    told = []
    # another whatever it shows: turned over and scaled, which no normalisation of an input undoes
    for shown in (runs.first, (1 - 2 * runs.first).to(runs.first.dtype)):
        recorder = AttentionRecorder(1, names, silent=position)
        with recorder.running():
            told.append(runs.rescore(shown))
        # a head fresh from zeros gives the same score for all, what it is given still tells
        if recorder.head_input is not None:
            told.append(recorder.head_input)
    half = len(told) // 2
    return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(told[:half], told[half:], strict=True))
