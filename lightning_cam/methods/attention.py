"""Methods that read a transformer's attention. b batch, h heads, n tokens, d channels of a head, u v patch grid."""

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

    Source: Abnar & Zuidema 2020, arXiv 2005.00928; heads by their mean, as there.

    Raises:
        ValueError: if the model has no attention over all tokens of the image, or hides it.
    """
    attention = seen.attention
    rows = attention.read_tokens(seen.position)
    return attention.to_map(rollout(attention)[:, rows].mean(1))


@METHODS.register
def attention_relevance(seen: Seen) -> Float[Tensor, "b u v"]:
    """Generic attention explainability: attention weighted by its gradient, carried through all blocks.

    ``R <- R + mean_h ReLU(dS/dP * P) R`` from ``R = I``; the row of the class token, or the mean over the rows of the
    tokens that are pooled, at the patches, less the identity begun with. Specific to the score, >= 0, no fixed unit.

    Source: Chefer et al. 2021, eq. 5 and 6 (self-attention), arXiv 2103.15679.

    Raises:
        ValueError: if the model has no attention over all tokens of the image, or hides it, or the score is detached.
    """
    attention = seen.attention
    probabilities = [block.probability for block in attention.blocks]
    gradients = attention.gradient(seen.position, probabilities)
    identity = _identity(attention)
    relevance = identity
    for p, g in zip(probabilities, gradients, strict=True):
        relevance = relevance + at_least_float(g * p.detach()).relu().mean(1) @ relevance
    rows = attention.read_tokens(seen.position)
    return attention.to_map((relevance - identity)[:, rows].mean(1))


@METHODS.register
def le_grad(seen: Seen) -> Float[Tensor, "b u v"]:
    """LeGrad: how much each block's own score would grow with the attention paid to each patch.

    ``mean_l mean_hq ReLU(dS_l/dP_l)``, with ``S_l`` the score of block l's tokens read as those of the last block are, by
    the model's own pooling, norm and head. Specific to the score, >= 0, in units of the score; the paper's map is this one
    scaled to [0, 1]. The last block's term is taken from the score itself.

    Source: Bousselham et al. 2024, arXiv 2404.03214. They pool all tokens by their mean, also where the model reads the class
    token, and their code takes the last two blocks by default; here it is the model's own reading, of all blocks.

    Raises:
        ValueError: if the model has no attention over all tokens of the image, or hides it, or its blocks share modules.
    """
    attention = seen.attention
    paid = [at_least_float(g).relu().mean((1, 2)) for g in attention.own_gradients(seen.position)]
    return attention.to_map(torch.stack(paid).mean(0))


@METHODS.register
def grad_eclip(seen: Seen) -> Float[Tensor, "b u v"]:
    """Grad-ECLIP: the last attention's values, weighted by the gradient of what the class token gathers of them.

    ``ReLU(sum_ch dS/do_ch v_i,ch lambda_i)`` over the channels of all heads, with ``o`` the class token's attention output,
    before its projection, and ``lambda_i = minmax_i cos(q, k_i)``. For models pooled by a class token, such as the image
    tower of CLIP with an embedding's similarity as target. Specific to the score, >= 0, in its units.

    Source: Zhao et al., ICML 2024; extended as arXiv 2502.18816. Their code recomputes the last block with a single head, and
    takes the cosine behind the output projection; here the model's own heads are kept, and their queries and keys compared.

    Raises:
        ValueError: if queries and values of the last block are hidden, or the score reads no single token.
    """
    attention = seen.attention
    last = attention.blocks[-1]
    row = attention.read_tokens(seen.position)
    if len(row) != 1:
        raise ValueError(f"grad_eclip explains what one token gathers; the score reads {len(row)}. Use attention_relevance.")
    if last.query is None or last.key is None or last.value is None or last.output is None:
        raise ValueError(
            f"grad_eclip needs queries, keys and values, which an attention written out by hand, as in {last.name!r}, does not "
            "tell. Let it call scaled_dot_product_attention (timm: fused_attn=True), or use attention_relevance."
        )
    (gradient,) = attention.gradient(seen.position, [last.output])
    q, k, v, g = (_all_heads(tensor) for tensor in (last.query, last.key, last.value, gradient))
    likeness = min_max(_cosine(q[:, row], k, attention), constant=1.0)
    w = g[:, row] * likeness[..., None]
    return attention.to_map((w * v).sum(2).relu())


def rollout(attention: Attention) -> Float[Tensor, "b n n"]:
    """From every token (column) to every token behind the last block (row); rows sum to 1."""
    identity = _identity(attention)
    through = identity
    for block in attention.blocks:
        mixed = (at_least_float(block.probability.detach()).mean(1) + identity) / 2
        through = mixed / mixed.sum(2, keepdim=True) @ through
    return through


def _all_heads(tensor: Float[Tensor, "b h n d"]) -> Float[Tensor, "b n h*d"]:
    return at_least_float(tensor.detach()).transpose(1, 2).flatten(2)


def _identity(attention: Attention) -> Float[Tensor, "b n n"]:
    p = at_least_float(attention.blocks[0].probability.detach())
    return torch.eye(p.shape[2], dtype=p.dtype, device=p.device).expand(len(p), -1, -1)


def _cosine(query: Float[Tensor, "b 1 c"], key: Float[Tensor, "b n c"], attention: Attention) -> Float[Tensor, "b n"]:
    """The query's cosine to each key; prefix tokens, which no map shows, are given a patch's, to widen no range."""
    cosine = F.cosine_similarity(query, key, dim=2)
    prefix = attention.layout.prefix or 0
    patches = cosine[:, prefix:]
    return torch.cat([patches[:, :1].expand(-1, prefix), patches], 1)
