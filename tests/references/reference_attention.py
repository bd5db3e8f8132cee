"""Slow references for the methods that read attention: one image, one head, one query at a time, from the papers' formulas."""

import torch
from reference import replicates
from torch import Tensor
from vits import HEADS, WIDTH, ViT

D = WIDTH // HEADS


def attend(block, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One block of one image, from its weights: tokens out, attention [heads n n], q, k, v and the heads' output [n c]."""
    attn, y = block.attn, block.norm1(x)
    q, k, v = (y @ w.T + b for w, b in zip(attn.qkv.weight.split(WIDTH), attn.qkv.bias.split(WIDTH), strict=True))
    rows = []
    for h in range(HEADS):
        part = slice(h * D, (h + 1) * D)
        e = torch.exp(
            torch.stack([torch.stack([q[i, part] @ k[j, part] for j in range(len(x))]) for i in range(len(x))]) / D**0.5
        )
        rows.append(e / e.sum(1, keepdim=True))
    p = torch.stack(rows)
    o = torch.cat([p[h] @ v[:, h * D : (h + 1) * D] for h in range(HEADS)], 1)
    x = x + o @ attn.proj.weight.T + attn.proj.bias
    return x + block.mlp(block.norm2(x)), p, q, k, v, o


def trace(net: ViT, image: Tensor):
    x, seen = net.embed(image[None])[0], []
    for block in net.blocks:
        x, *parts = attend(block, x)
        seen.append((x, *parts))
    return seen


def read_rows(net: ViT, per_token: Tensor) -> Tensor:
    """The class token's row, or the mean over the patches' rows, at the patches, as a grid of 2 x 3."""
    skip = net.prefix.shape[1]
    row = per_token[0] if net.pool == "token" else sum(per_token[i] for i in range(skip, len(per_token))) / 6
    return row[skip:].reshape(2, 3)


@replicates("attention_rollout")
def attention_rollout(net: ViT, images: Tensor, classes: list[int]) -> Tensor:
    """Abnar & Zuidema: A = 0.5 W_att + 0.5 I, normalised; rollout A~(l) = A(l) A~(l-1)."""
    maps = []
    for image in images:
        rolled = None
        for _, p, *_ in trace(net, image):
            n = p.shape[1]
            a = torch.zeros(n, n, dtype=p.dtype)
            for i in range(n):
                for j in range(n):
                    a[i, j] = 0.5 * sum(p[h, i, j] for h in range(HEADS)) / HEADS + 0.5 * (i == j)
                a[i] /= a[i].sum()
            rolled = a if rolled is None else a @ rolled
        maps.append(read_rows(net, rolled.detach()))
    return torch.stack(maps)


@replicates("attention_relevance")
def attention_relevance(net: ViT, images: Tensor, classes: list[int]) -> Tensor:
    """Chefer et al. 2021, eq. 5: A- = E_h((dA * A)+); eq. 6: R = R + A- R, R = I at first."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        seen = trace(net, image)
        score = net.read(seen[-1][0][None])[0, c]
        n = seen[0][1].shape[1]
        r = torch.eye(n, dtype=image.dtype)
        for _, p, *_ in seen:
            g = torch.autograd.grad(score, p, retain_graph=True)[0]
            weighted = torch.zeros(n, n, dtype=p.dtype)
            for h in range(HEADS):
                for i in range(n):
                    for j in range(n):
                        weighted[i, j] += max(float(g[h, i, j]) * float(p[h, i, j].detach()), 0.0) / HEADS
            r = r + weighted @ r
        maps.append(read_rows(net, r - torch.eye(n, dtype=r.dtype)))
    return torch.stack(maps)


@replicates("le_grad")
def le_grad(net: ViT, images: Tensor, classes: list[int]) -> Tensor:
    """Bousselham et al.: s_l from block l's tokens; E_l(j) = 1/(h n) sum_h sum_i (ds_l / dA_l[h, i, j])+; mean over l."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        seen, skip = trace(net, image), net.prefix.shape[1]
        total = torch.zeros(6, dtype=image.dtype)
        for tokens, p, *_ in seen:
            g = torch.autograd.grad(net.read(tokens[None])[0, c], p, retain_graph=True)[0]
            n = p.shape[1]
            for j in range(6):
                for h in range(HEADS):
                    for i in range(n):
                        total[j] += max(float(g[h, i, skip + j]), 0.0) / (HEADS * n) / len(seen)
        maps.append(total.reshape(2, 3))
    return torch.stack(maps)


@replicates("grad_eclip")
def grad_eclip(net: ViT, images: Tensor, classes: list[int]) -> Tensor:
    """Zhao et al.: H_i = ReLU(sum_c w_c lambda_i v_ic), w = dS/do_cls, lambda = cos(q_cls, k_i) scaled to [0, 1]."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        tokens, _, q, k, v, o = trace(net, image)[-1]
        score, skip = net.read(tokens[None])[0, c], net.prefix.shape[1]
        w = torch.autograd.grad(score, o)[0][0]
        cosine = [(q[0] @ k[skip + j] / (q[0].norm() * k[skip + j].norm())).item() for j in range(6)]
        heat = torch.zeros(6, dtype=image.dtype)
        for j in range(6):
            close = (cosine[j] - min(cosine)) / (max(cosine) - min(cosine))
            heat[j] = max(sum(float(w[i]) * float(v[skip + j, i].detach()) * close for i in range(WIDTH)), 0.0)
        maps.append(heat.reshape(2, 3))
    return torch.stack(maps)
