"""Methods that read a transformer's attention, or the attention that pools a convolutional net's map.

b batch, h heads, n tokens, q probes of a pooling by attention, k its keys, d channels of a head, u v patch grid.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.attention import Attention
from lightning_cam.capture.gradient import at_least_float
from lightning_cam.capture.seen import Seen
from lightning_cam.heat import min_max
from lightning_cam.registry import METHODS


@METHODS.register
def attention_rollout(seen: Seen) -> Float[Tensor, "b u v"]:
    """Attention rollout: attention, with the residual beside it, multiplied through all blocks.

    ``A = (mean_h P + I) / 2`` with rows made to sum to 1, ``R = A_L ... A_1``; the row of the class token, or the mean over
    the rows of the tokens that are pooled, at the patches. Class-agnostic, >= 0; with the prefix tokens' share it sums to 1.

    Of tokens pooled by attention ``P_q`` [b h q n] it is ``mean_h P_q R``, the mean over the probes that the score reads. The
    paper's ``I`` is the residual stream, by which a token stays at its place. A probe is at no place and brings nothing of the
    image along: all that it holds of it came by ``P_q``, so there is no ``I`` to add. Without blocks ``R = I``.

    Source: Abnar & Zuidema 2020, arXiv 2005.00928; heads by their mean, as there. It has no pooling by attention.

    Raises:
        ValueError: if the model has no attention over all tokens of the image, or hides it.
    """
    attention = seen.attention
    rows = attention.read_tokens(seen.position)
    through = rollout(attention)
    if attention.readout is None:
        return attention.to_map(through[:, rows].mean(1))
    pooled = attention.exact(attention.last.probability).mean(1)[:, rows].mean(1)
    return attention.to_map(_carried(pooled, through, attention))


@METHODS.register
def attention_relevance(seen: Seen) -> Float[Tensor, "b u v"]:
    """Generic attention explainability: attention weighted by its gradient, carried through all blocks.

    ``R <- R + mean_h ReLU(dS/dP * P) R`` from ``R = I``; the row of the class token, or the mean over the rows of the
    tokens that are pooled, at the patches, less the identity begun with. Specific to the score, >= 0, no fixed unit.

    Of tokens pooled by attention ``P_q`` it is ``mean_h ReLU(dS/dP_q * P_q) R'``, the mean over the probes that the score
    reads: the rule for cross attention, eq. 10, from relevance 0, with ``R' = I + (R - I) / (sums of its rows)`` (eq. 8 and 9;
    a row of zeros stays one) and the probes' own relevance I, since they have met no attention before.

    Source: Chefer et al. 2021, eq. 5 and 6 (self-attention), 8 to 10 (cross attention), arXiv 2103.15679.

    Raises:
        ValueError: if the model has no attention over all tokens of the image, or hides it, or the score is detached.
    """
    attention = seen.attention
    probabilities = [recorded.probability for recorded in attention.sequence]
    gradients = attention.gradient(seen.position, probabilities)
    weighted = [attention.exact(g * p.detach()).relu().mean(1) for p, g in zip(probabilities, gradients, strict=True)]
    identity = _identity(attention)
    rows = attention.read_tokens(seen.position)
    if attention.readout is None:
        relevance = identity
        for a in weighted:
            relevance = relevance + _product(a, relevance)
        return attention.to_map((relevance - identity)[:, rows].mean(1))
    # R - I from the first: beside 1 its rounding would be more than its rows' sums where gradients are small
    own = torch.zeros_like(identity)
    for a in weighted[:-1]:
        own = own + a + _product(a, own)
    total = own.sum(2, keepdim=True)
    shares = identity + own / total.where(total > 0, 1)
    return attention.to_map(_carried(weighted[-1][:, rows].mean(1), shares, attention))


@METHODS.register
def le_grad(seen: Seen) -> Float[Tensor, "b u v"]:
    """LeGrad: how much each block's own score would grow with the attention paid to each patch.

    ``mean_l mean_hq ReLU(dS_l/dP_l)``, with ``S_l`` the score of block l's tokens read as those of the last block are, by
    the model's own pooling, norm and head. Specific to the score, >= 0, in units of the score; the paper's map is this one
    scaled to [0, 1]. The last block's term is taken from the score itself.

    Of tokens pooled by attention ``P_q`` it is ``mean_l mean_hq ReLU(dS_l/dP_q,l)``: the pooling is applied to block l's
    tokens, and the gradient taken by the attention it pays to them, over the probes q that the score reads. So it is in the
    paper's code for SigLIP and CoCa, but for its mask of what an empty prompt finds. Without blocks there is one term, what is
    pooled.

    Source: Bousselham et al. 2024, arXiv 2404.03214. They pool all tokens by their mean, also where the model reads the class
    token, and their code takes the last two blocks by default; here it is the model's own reading, of all blocks.

    Raises:
        ValueError: if the model has no attention over all tokens of the image, or hides it, or its blocks share modules.
    """
    attention = seen.attention
    gradients = attention.own_gradients(seen.position)
    if attention.readout is not None:
        rows = attention.read_tokens(seen.position)
        gradients = [g[:, :, rows] for g in gradients]
    paid = [attention.exact(g).relu().mean((1, 2)) for g in gradients]
    return attention.to_map(torch.stack(paid).mean(0))


@METHODS.register
def grad_eclip(seen: Seen) -> Float[Tensor, "b u v"]:
    """Grad-ECLIP: the last attention's values, weighted by the gradient of what the class token gathers of them.

    ``ReLU(sum_ch dS/do_ch v_i,ch lambda_i)`` over the channels of all heads, with ``o`` the class token's attention output,
    before its projection, and ``lambda_i = minmax_i cos(q, k_i)``. For models pooled by a class token, such as the image
    tower of CLIP with an embedding's similarity as target. Specific to the score, >= 0, in its units.

    Of tokens pooled by attention the pooling is this last attention and its probe the class token: q the probe's query, k and v
    of the tokens pooled, o what the probe gathers. Of several probes it is the mean of the maps of those that the score reads.

    Source: Zhao et al., ICML 2024; extended as arXiv 2502.18816. Their code recomputes the last block with a single head, and
    takes the cosine behind the output projection; here the model's own heads are kept, and their queries and keys compared.

    Raises:
        ValueError: if queries and values of the last block are hidden, or the score reads no single token.
    """
    attention = seen.attention
    last = attention.last
    rows = attention.read_tokens(seen.position)
    if attention.readout is None and len(rows) != 1:
        raise ValueError(
            f'grad_eclip explains what one token gathers; the score reads {len(rows)}. Write method="attention_relevance".'
        )
    if last.query is None or last.key is None or last.value is None or last.output is None:
        raise ValueError(
            f"grad_eclip needs queries, keys and values, which an attention written out by hand, as in {last.name!r}, does not "
            "tell. Let it call scaled_dot_product_attention (timm: fused_attn=True; Hugging Face: attn_implementation='sdpa'), "
            'or write method="attention_relevance".'
        )
    (gradient,) = attention.gradient(seen.position, [last.output])
    q, k, v, g = (_all_heads(tensor) for tensor in (last.query, last.key, last.value, gradient))
    maps = []
    for row in rows.split(1):
        likeness = min_max(_cosine(q[:, row], k, attention), constant=1.0)
        w = g[:, row] * likeness[..., None]
        maps.append((w * v).sum(2).relu())
    return attention.to_map(torch.stack(maps).mean(0))


def rollout(attention: Attention) -> Float[Tensor, "b n n"]:
    """From every token (column) to every token behind the last block (row); rows sum to 1. Without blocks the identity."""
    identity = _identity(attention)
    through = identity
    for block in attention.blocks:
        mixed = (attention.exact(block.probability).mean(1) + identity) / 2
        through = _product(mixed / mixed.sum(2, keepdim=True), through)
    return through


def _carried(pooled: Float[Tensor, "b k"], through: Float[Tensor, "b n n"], attention: Attention) -> Float[Tensor, "b n"]:
    """What a pooling holds of its keys, as what it holds of the tokens that blocks made them of."""
    return _product(attention.to_tokens(pooled)[:, None], through)[:, 0]


def _product(a: Float[Tensor, "b m n"], b: Float[Tensor, "b n o"]) -> Float[Tensor, "b m o"]:
    """The matrix product in full precision, also where the caller's autocast would take it in half."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def _all_heads(tensor: Float[Tensor, "b h n d"]) -> Float[Tensor, "b n h*d"]:
    return at_least_float(tensor.detach()).transpose(1, 2).flatten(2)


def _identity(attention: Attention) -> Float[Tensor, "b n n"]:
    # without blocks the tokens are the readout's keys
    p = attention.exact(attention.sequence[0].probability)
    return torch.eye(p.shape[3], dtype=p.dtype, device=p.device).expand(len(p), -1, -1)


def _cosine(query: Float[Tensor, "b 1 c"], key: Float[Tensor, "b n c"], attention: Attention) -> Float[Tensor, "b n"]:
    """The query's cosine to each key; tokens beside the patches, which no map shows, are given a patch's, to widen no range."""
    cosine = F.cosine_similarity(query, key, dim=2)
    patches = attention.to_map(cosine).flatten(1)
    filler = patches[:, :1]
    prefix = attention.layout.prefix or 0
    return torch.cat([filler.expand(-1, prefix), patches, filler.expand(-1, attention.layout.suffix)], 1)
