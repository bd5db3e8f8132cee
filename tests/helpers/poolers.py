"""The tiny transformers of ``vits.py``, or their patches alone, with a pooling by attention behind them, in float64."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vits import HEADS, WIDTH, ViT


class Pool(nn.Module):
    """Attention of probes to tokens: torch's fused call, the same written out, or torch's multi-head function with weights."""

    def __init__(self, probes: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.latent = nn.Parameter(torch.randn(1, probes, WIDTH))
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))

    def query(self, tokens: Tensor) -> Tensor:
        """Of what queries are made: a latent, which is none of the tokens."""
        return self.latent.expand(len(tokens), -1, -1)

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.proj(self.gather(self.query(tokens), tokens))
        return y + self.mlp(y)

    def gather(self, probes: Tensor, tokens: Tensor) -> Tensor:
        if self.how == "multi head":
            return self.multi_head(probes, tokens)
        q, k, v = (
            f(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for f, x in zip(self.projections, (probes, tokens, tokens), strict=True)
        )
        if self.how == "fused":
            o = F.scaled_dot_product_attention(q, k, v)
        else:
            o = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
        return o.transpose(1, 2).flatten(2)

    def multi_head(self, probes: Tensor, tokens: Tensor) -> Tensor:
        """As in CLIP's ResNets and torch's own module, which ask for weights and drop them."""
        weight, bias = (torch.cat([getattr(f, part) for f in self.projections]) for part in ("weight", "bias"))
        out = torch.eye(WIDTH, dtype=weight.dtype), torch.zeros(WIDTH, dtype=weight.dtype)
        probes, tokens = probes.transpose(0, 1), tokens.transpose(0, 1)
        options = (WIDTH, HEADS, weight, bias, None, None, False, 0.0, *out)
        return F.multi_head_attention_forward(probes, tokens, tokens, *options, training=False)[0].transpose(0, 1)

    @property
    def projections(self) -> tuple[nn.Linear, ...]:
        return self.q, self.k, self.v


class AllAttend(Pool):
    """Every token attends."""

    def query(self, tokens: Tensor) -> Tensor:
        return tokens


class FirstIsRead(AllAttend):
    """As ``AttentionPool2d``: every token attends, and the first alone is returned."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens)[:, :1]


class Pooled(ViT):
    """A transformer, or with ``depth=0`` its patches, read by a pooling.

    The pooling is given all tokens, the patches alone, or their mean and all tokens; the score reads the first probe or the
    mean over all. Without probes all tokens are.
    """

    def __init__(
        self, prefix: int = 0, given: str = "all", probes: int = 1, summary: str = "first", how: str = "fused", depth: int = 2
    ) -> None:
        super().__init__(prefix, depth=depth)
        torch.manual_seed(20)
        self.given, self.summary = given, summary
        self.pooling = Pool(probes, how)
        if probes == 0:
            self.pooling = {"first": FirstIsRead, "mean": AllAttend}[summary](1, how)
        for p in self.pooling.parameters():
            p.data.mul_(1.7)
        self.double().eval()

    def read(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        if self.given == "patches":
            tokens = tokens[:, self.prefix.shape[1] :]
        if self.given == "mean first":
            tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        pooled = self.pooling(tokens)
        return self.head(pooled[:, 0] if self.summary == "first" else pooled.mean(1))


KINDS: dict[str, dict[str, Any]] = {
    "a latent": dict(),
    "a latent, of a class token too": dict(prefix=1),
    "a latent, registers left out": dict(prefix=3, given="patches"),
    "two latents, their mean": dict(prefix=1, probes=2, summary="mean"),
    "three latents, the first": dict(probes=3),
    "a mean among the keys": dict(given="mean first"),
    "all attend, the mean is read": dict(given="mean first", probes=0),
    "all attend, all are read": dict(prefix=1, probes=0, summary="mean"),
    "no blocks": dict(depth=0),
    "no blocks, two latents": dict(depth=0, probes=2, summary="mean"),
    "no blocks, all attend": dict(depth=0, given="mean first", probes=0),
}
