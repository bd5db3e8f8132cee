"""Slow references for tokens pooled by attention: one image, one head, one probe at a time, from the papers' formulas."""

import torch
from poolers import AllAttend, Pooled
from reference_attention import D, trace
from torch import Tensor
from vits import HEADS, WIDTH


class Pooling:
    """The pooling of one image's tokens, from its weights: p [heads q k], queries, keys, values and the heads' output [q c].

    ``rows`` are the probes that the score reads, ``before`` how many keys come before the six patches.
    """

    def __init__(self, net: Pooled, tokens: Tensor) -> None:
        pool = net.pooling
        mean, variance = tokens.mean(1, keepdim=True), tokens.var(1, correction=0, keepdim=True)
        keys = (tokens - mean) / (variance + net.norm.eps) ** 0.5 * net.norm.weight + net.norm.bias
        if net.given == "patches":
            keys = keys[len(keys) - 6 :]
        if net.given == "mean first":
            keys = torch.cat([sum(keys)[None] / len(keys), keys])
        probes = keys if isinstance(pool, AllAttend) else pool.latent[0]
        self.q, self.k, self.v = (x @ f.weight.T + f.bias for f, x in ((pool.q, probes), (pool.k, keys), (pool.v, keys)))
        rows = []
        for h in range(HEADS):
            part = slice(h * D, (h + 1) * D)
            for i in range(len(probes)):
                e = torch.stack([torch.exp(self.q[i, part] @ self.k[j, part] / D**0.5) for j in range(len(keys))])
                rows.append(e / sum(e))
        self.p = torch.stack(rows).reshape(HEADS, len(probes), len(keys))
        self.o = torch.stack(
            [
                torch.cat(
                    [sum(self.p[h, i, j] * self.v[j, h * D : (h + 1) * D] for j in range(len(keys))) for h in range(HEADS)]
                )
                for i in range(len(probes))
            ]
        )
        y = self.o @ pool.proj.weight.T + pool.proj.bias
        y = y + pool.mlp(y)
        self.rows = [0] if net.summary == "first" else list(range(len(probes)))
        self.logits = net.head(sum(y[i] for i in self.rows) / len(self.rows))
        self.before = len(keys) - 6


def pooled_tokens(net: Pooled, image: Tensor) -> Tensor:
    """What is pooled: the last block's tokens, or the patches themselves."""
    blocks = trace(net, image)
    return blocks[-1][0] if blocks else net.embed(image[None])[0]


def carry(net: Pooled, pooling: Pooling, row: list[float], through: Tensor) -> Tensor:
    """``row`` over the keys, times a matrix over the blocks' tokens; keys that are no tokens of theirs are dropped."""
    skip = net.prefix.shape[1]
    heat = torch.zeros(6, dtype=through.dtype)
    for j in range(6):
        for i in range(len(through)):
            key = pooling.before + i - skip  # patches end both rows
            if 0 <= key < len(row) and not (net.given == "mean first" and key == 0):
                heat[j] += row[key] * float(through[i, skip + j])
    return heat


def rollout(net: Pooled, images: Tensor, classes: list[int]) -> Tensor:
    """Abnar & Zuidema: A~(l) = A(l) A~(l-1) with A = 0.5 W_att + 0.5 I; a probe adds no I, since it is no token."""
    maps = []
    for image in images:
        n = 6 + net.prefix.shape[1]
        rolled = torch.eye(n, dtype=image.dtype)
        for _, p, *_ in trace(net, image):
            a = torch.zeros(n, n, dtype=p.dtype)
            for i in range(n):
                for j in range(n):
                    a[i, j] = 0.5 * sum(float(p[h, i, j].detach()) for h in range(HEADS)) / HEADS + 0.5 * (i == j)
            rolled = a @ rolled
        pooling = Pooling(net, pooled_tokens(net, image))
        count = HEADS * len(pooling.rows)
        row = [
            sum(float(pooling.p[h, i, j].detach()) for h in range(HEADS) for i in pooling.rows) / count
            for j in range(len(pooling.k))
        ]
        maps.append(carry(net, pooling, row, rolled).reshape(2, 3))
    return torch.stack(maps)


def relevance(net: Pooled, images: Tensor, classes: list[int]) -> Tensor:
    """Chefer et al.: eq. 5 and 6 in the blocks; then eq. 10, R_sq += (R-_ss)^T A- R-_qq, with R-_ss = I and eq. 8 and 9."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        blocks = trace(net, image)
        pooling = Pooling(net, blocks[-1][0] if blocks else net.embed(image[None])[0])
        score = pooling.logits[c]
        n = 6 + net.prefix.shape[1]
        r = torch.eye(n, dtype=image.dtype)
        for _, p, *_ in blocks:
            r = r + _weighted(score, p, range(n)) @ r
        normalized = torch.eye(n, dtype=r.dtype)
        for i in range(n):
            hat = [float(r[i, j]) - (i == j) for j in range(n)]
            for j in range(n):
                normalized[i, j] += hat[j] / sum(hat) if sum(hat) else 0.0
        weighted = _weighted(score, pooling.p, pooling.rows)
        row = [sum(float(weighted[i, j]) for i in range(len(weighted))) / len(weighted) for j in range(len(pooling.k))]
        maps.append(carry(net, pooling, row, normalized).reshape(2, 3))
    return torch.stack(maps)


def le_grad(net: Pooled, images: Tensor, classes: list[int]) -> Tensor:
    """Bousselham et al., for an attentional pooler: E_l(j) = mean_h (d s_l / d A_pool[h, probe, j])+ at block l's tokens."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        blocks = [tokens for tokens, *_ in trace(net, image)] or [net.embed(image[None])[0]]
        total = torch.zeros(6, dtype=image.dtype)
        for tokens in blocks:
            pooling = Pooling(net, tokens)
            (g,) = torch.autograd.grad(pooling.logits[c], pooling.p, retain_graph=True)
            for j in range(6):
                for h in range(HEADS):
                    for i in pooling.rows:
                        share = HEADS * len(pooling.rows) * len(blocks)
                        total[j] += max(float(g[h, i, pooling.before + j]), 0.0) / share
        maps.append(total.reshape(2, 3))
    return torch.stack(maps)


def grad_eclip(net: Pooled, images: Tensor, classes: list[int]) -> Tensor:
    """Zhao et al. with the probe for the class token: (sum_c w_c lambda_j v_jc)+, w = dS/do, lambda = cos(q, k_j) in [0, 1]."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        pooling = Pooling(net, pooled_tokens(net, image))
        (w,) = torch.autograd.grad(pooling.logits[c], pooling.o)
        heat = torch.zeros(6, dtype=image.dtype)
        for i in pooling.rows:
            keys = [pooling.k[pooling.before + j] for j in range(6)]
            cosine = [(pooling.q[i] @ key / (pooling.q[i].norm() * key.norm())).item() for key in keys]
            for j in range(6):
                close = (cosine[j] - min(cosine)) / (max(cosine) - min(cosine))
                v = pooling.v[pooling.before + j].detach()
                heat[j] += max(sum(float(w[i, ch]) * float(v[ch]) * close for ch in range(WIDTH)), 0.0) / len(pooling.rows)
        maps.append(heat.reshape(2, 3))
    return torch.stack(maps)


def _weighted(score: Tensor, p: Tensor, rows: range | list[int]) -> Tensor:
    """Eq. 5: A- = E_h((dA * A)+), of these rows."""
    (g,) = torch.autograd.grad(score, p, retain_graph=True)
    weighted = torch.zeros(len(rows), p.shape[2], dtype=p.dtype)
    for place, i in enumerate(rows):
        for j in range(p.shape[2]):
            for h in range(HEADS):
                weighted[place, j] += max(float(g[h, i, j]) * float(p[h, i, j].detach()), 0.0) / HEADS
    return weighted
