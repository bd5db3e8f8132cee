"""Tiny vision transformers: own ones in float64 of any prefix, pooling and way to call attention, and two libraries'."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.targets import find

HEADS, WIDTH = 2, 8


class Attend(nn.Module):
    """Self-attention: torch's fused call, the same written out, or a Softmax module on [b*heads n n]."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.softmax, self.drop = nn.Softmax(-1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        if self.how == "fused":
            o = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "written":
            o = self.drop((q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)) @ v
        else:
            p = self.softmax((q @ k.mT / q.shape[-1] ** 0.5).flatten(0, 1))
            o = (p @ v.flatten(0, 1)).unflatten(0, (b, HEADS))
        return self.proj(o.transpose(1, 2).reshape(b, n, WIDTH))


class Block(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attend(how)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """For images of 8 x 12: patches of 4, a grid of 2 x 3, after ``prefix`` tokens."""

    def __init__(self, prefix: int = 1, pool: str = "token", how: str = "fused", depth: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.prefix = nn.Parameter(torch.randn(1, prefix, WIDTH))
        self.place = nn.Parameter(torch.randn(1, prefix + 6, WIDTH))
        self.blocks = nn.Sequential(*(Block(how) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)
        self.pool = pool
        for p in self.parameters():
            p.data.mul_(1.7)  # far from uniform attention
        self.double().eval()

    def embed(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).mT
        return torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1) + self.place

    def read(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if self.pool == "token" else tokens[:, self.prefix.shape[1] :].mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.blocks(self.embed(x)))


def attention_of(net: nn.Module, x: Tensor, target: Any = 0, layer: str = "blocks.0") -> Any:
    """The attention captured in one look behind this layer."""
    with open_session(net, [layer]) as session:
        return Seen(session.forward(x, find(target)), layer).attention


class TwoTowers(nn.Module):
    """As CLIP: an image tower and a text tower, run side by side; returns both embeddings."""

    def __init__(self, how: str = "fused") -> None:
        super().__init__()
        self.visual, self.text = ViT(how=how), ViT(prefix=0, pool="mean", how=how, depth=2, seed=5)
        self.words = nn.Parameter(torch.randn(5, 7, WIDTH, dtype=torch.float64))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        text = self.text.head(self.text.norm(self.text.blocks(self.words)[:, -1]))
        return {"image": F.normalize(self.visual(x), dim=1), "text": F.normalize(text, dim=1)}


def photos(b: int = 3, seed: int = 7) -> Tensor:
    return torch.randn(b, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def torchvision_vit(layers: int = 2, heads: int = 2, width: int = 8) -> VisionTransformer:
    """torchvision's, for images of 32 x 32, with a head that is not zero as theirs is at first."""
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, layers, heads, width, 2 * width, num_classes=5)
    nn.init.normal_(net.heads.head.weight)
    return net


def timm_vit(size: int | tuple[int, int] = 32, depth: int = 2, **options: Any) -> nn.Module:
    """timm's, of patches of 16."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=size, depth=depth, num_classes=5, **options)
