"""LibraGrad twice: its backward through a small ViT by hand, and torch's functions with what is held constant detached."""

import math
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from reference import replicates
from reference_attention import D, attend
from torch import Tensor
from vits import HEADS, WIDTH, ViT


@replicates("libra")
def libra_hires_cam(net: ViT, images: Tensor, classes: list[int], block: int = 0) -> Tensor:
    """Mehri et al.: the input of a block times its gradient, which no autograd takes; patches as a grid of 2 x 3."""
    skip = net.prefix.shape[1]
    with torch.no_grad():
        maps = []
        for image, c in zip(images, classes, strict=True):
            inputs = [net.embed(image[None])[0]]
            for other in net.blocks:
                inputs.append(attend(other, inputs[-1])[0])
            g = read_back(net, inputs[-1], c)
            for other, x in reversed(list(zip(net.blocks, inputs, strict=False))[block:]):
                g = block_back(other, x, g)
            heat = torch.zeros(6, dtype=image.dtype)
            for j in range(6):
                heat[j] = sum(inputs[block][skip + j, k] * g[skip + j, k] for k in range(WIDTH))
            maps.append(heat.reshape(2, 3))
    return torch.stack(maps)


def read_back(net: ViT, tokens: Tensor, c: int) -> Tensor:
    """From the logit to the last block's tokens."""
    g = torch.zeros_like(tokens)
    skip = net.prefix.shape[1]
    rows = [0] if net.pool == "token" else list(range(skip, len(tokens)))
    for i in rows:
        g[i] = net.head.weight[c] / len(rows)
    return norm_back(net.norm, tokens, g)


def block_back(block, x: Tensor, g: Tensor) -> Tensor:
    """From the tokens that a block returns to those it was given: through the MLP, then through attention."""
    _, p, *_, o = attend(block, x)
    middle = x + o @ block.attn.proj.weight.T + block.attn.proj.bias
    first, _, second = block.mlp
    h = block.norm2(middle) @ first.weight.T + first.bias
    gate = (1 + torch.erf(h / math.sqrt(2))) / 2
    g = g + norm_back(block.norm2, middle, ((g @ second.weight) * gate) @ first.weight)
    of_heads = g @ block.attn.proj.weight
    of_values = torch.zeros_like(of_heads)
    for head in range(HEADS):
        part = slice(head * D, (head + 1) * D)
        for j in range(len(x)):
            of_values[j, part] = sum(p[head, i, j] * of_heads[i, part] for i in range(len(x)))
    return g + norm_back(block.norm1, x, of_values @ block.attn.qkv.weight[2 * WIDTH :])


def norm_back(norm, x: Tensor, g: Tensor) -> Tensor:
    """Of y = gamma (x - mean) / std + beta with std a number: r (gamma g - mean of gamma g)."""
    rows = []
    for token, gradient in zip(x, g, strict=True):
        variance = sum((value - token.mean()) ** 2 for value in token) / len(token)
        scaled = norm.weight * gradient
        rows.append((scaled - scaled.mean()) / math.sqrt(variance + norm.eps))
    return torch.stack(rows)


@contextmanager
def detached_functions():
    """Torch's functions as LibraGrad has them, for as long as a test looks; every other part of a net is autograd's."""
    attributes = {
        (F, "gelu"): lambda x, approximate="none": x * phi(x.detach()),
        (F, "layer_norm"): layer_norm,
        (F, "scaled_dot_product_attention"): attention,
        (F, "softmax"): lambda x, dim, **options: exponentials(x.detach(), dim),
        (torch.Tensor, "softmax"): lambda x, dim: exponentials(x.detach(), dim),
    }
    with ExitStack() as undo:
        for (owner, name), function in attributes.items():
            undo.enter_context(patch.object(owner, name, function))
        yield


def phi(x: Tensor) -> Tensor:
    return (1 + torch.erf(x / math.sqrt(2))) / 2


def exponentials(x: Tensor, dim: int) -> Tensor:
    e = torch.exp(x - x.amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


def layer_norm(x: Tensor, shape, weight, bias, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + eps).sqrt().detach() * weight + bias


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask=None, dropout_p=0.0, is_causal=False) -> Tensor:
    similarity = (q @ k.mT).detach() / math.sqrt(q.shape[-1])
    if attn_mask is not None:
        similarity = similarity + attn_mask.detach()
    return exponentials(similarity, -1) @ v
