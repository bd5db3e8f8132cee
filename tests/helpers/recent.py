"""Families that are fine-tuned today, tiny and of random weights, of timm and Hugging Face. b batch, t time, h w image."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models.maxxvit import MaxxVit, model_cfgs
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

_WIDTHS = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
_SIZES = _WIDTHS | dict(image_size=32, patch_size=8)


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        make: makes a network of it.
        layer: the layer that an expert names.
        grid: its map's sides.
        prefix: how many tokens come before the grid; None where the layer returns no tokens.
        channels_last: whether its channels come last.
        image: the shape of one image.
    """

    make: Callable[[], nn.Module]
    layer: str
    grid: tuple[int, ...]
    prefix: int | None = None
    channels_last: bool = False
    image: tuple[int, ...] = (3, 64, 64)

    def images(self) -> Tensor:
        """Two images, the same ones at every call."""
        return torch.rand(2, *self.image, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    def maps(self, output: Tensor) -> Tensor:
        """What the layer returns as [b c *m]."""
        if self.prefix is not None:
            return output[:, self.prefix :].mT.unflatten(2, self.grid)
        if self.channels_last:
            return output.movedim(-1, 1)
        return output


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return functools.partial(timm.create_model, name, num_classes=5, **options)


def _timm_vit(name: str, patch: int) -> Callable[[], nn.Module]:
    return _timm(name, img_size=2 * patch, depth=2, embed_dim=24, num_heads=2)


def _timm_maxvit() -> nn.Module:
    config = model_cfgs["maxvit_tiny_tf"]
    attention = dataclasses.replace(config.transformer_cfg, dim_head=8, window_size=(2, 2), grid_size=(2, 2))
    sizes = dict(embed_dim=(8, 16), depths=(1, 1), stem_width=8, block_type=("M", "M"), head_hidden_size=16)
    return MaxxVit(dataclasses.replace(config, transformer_cfg=attention, **sizes), img_size=32, num_classes=5)


def _hugging_face(kind: str, task: str = "ImageClassification", **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{kind}Config")(num_labels=5, **options)
        net: nn.Module = getattr(transformers, f"{kind}For{task}")(config)
        return net

    return make


def _vision_tower(kind: str) -> Callable[[], nn.Module]:
    text = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    return _hugging_face(kind, text_config=text | dict(bos_token_id=1, eos_token_id=2), vision_config=_SIZES)


class _Probed(nn.Module):
    """A backbone of Hugging Face's that comes without a classifier, and one linear layer."""

    def __init__(self, kind: str, **options: Any) -> None:
        import transformers

        super().__init__()
        self.backbone = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**options))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).pooler_output)


_SMALL = (3, 32, 32)
_STAGES = dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
_WINDOWS = dict(embed_dim=12, num_heads=[2, 2], window_size=4)

OF_TIMM = {
    "dinov2 with registers": Family(
        _timm_vit("vit_small_patch14_reg4_dinov2", 14), "blocks.1.norm1", (2, 2), 5, image=(3, 28, 28)
    ),
    "dinov3": Family(_timm_vit("vit_small_patch16_dinov3", 16), "norm", (2, 2), 5, image=_SMALL),
    "eva-02": Family(_timm_vit("eva02_tiny_patch14_224", 14), "blocks.1", (2, 2), 1, image=(3, 28, 28)),
    "siglip 2": Family(_timm_vit("vit_base_patch16_siglip_224.v2_webli", 16), "norm", (2, 2), 0, image=_SMALL),
    "clip": Family(_timm_vit("vit_base_patch16_clip_224", 16), "blocks.1.norm1", (2, 2), 1, image=_SMALL),
    "swin v2": Family(
        _timm("swinv2_tiny_window8_256", img_size=64, depths=(1, 2), **_WINDOWS), "norm", (8, 8), channels_last=True
    ),
    "hiera": Family(
        _timm("hiera_tiny_224", img_size=64, embed_dim=12, num_heads=1, stages=(1, 1, 1, 1)), "blocks.3", (2, 2), 0
    ),
    "maxvit": Family(_timm_maxvit, "stages", (4, 4), image=_SMALL),
    "convnext v2": Family(_timm("convnextv2_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), "stages", (2, 2)),
    "fastvit": Family(_timm("fastvit_t8", layers=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64)), "final_conv", (2, 2)),
    "mlp-mixer": Family(
        functools.partial(MlpMixer, num_classes=5, img_size=32, patch_size=8, num_blocks=2, embed_dim=16),
        "norm", (4, 4), 0, image=_SMALL,
    ),
}  # fmt: skip
OF_HUGGING_FACE = {
    "dinov2 with registers": Family(
        _hugging_face("Dinov2WithRegisters", **_SIZES), "dinov2_with_registers.layernorm", (4, 4), 5, image=_SMALL
    ),
    "dinov3": Family(
        functools.partial(_Probed, "DINOv3ViT", **_SIZES, num_register_tokens=2),
        "backbone.model.layer.1.norm1", (4, 4), 3, image=_SMALL,
    ),
    "dinov3 convnext": Family(functools.partial(_Probed, "DINOv3ConvNext", **_STAGES), "backbone.model.stages.3", (2, 2)),
    "siglip": Family(_vision_tower("Siglip"), "vision_model.post_layernorm", (4, 4), 0, image=_SMALL),
    "clip": Family(_vision_tower("CLIP"), "vision_model.encoder.layers.1", (4, 4), 1, image=_SMALL),
    "swin v2": Family(
        _hugging_face("Swinv2", image_size=64, depths=[1, 2], **_WINDOWS), "swinv2.layernorm", (8, 8), 0
    ),
    "convnext v2": Family(_hugging_face("ConvNextV2", **_STAGES), "convnextv2.encoder.stages.3", (2, 2)),
    "videomae": Family(
        _hugging_face("VideoMAE", "VideoClassification", **_SIZES, num_frames=4, tubelet_size=2),
        "videomae.encoder.layer.1", (2, 4, 4), 0, image=(4, *_SMALL),
    ),
}  # fmt: skip


class Logits(nn.Module):
    """The logits alone, for references."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        output = self.net(x)
        return output if isinstance(output, Tensor) else output.logits


def linear_layers(net: nn.Module) -> list[str]:
    """Where adapters go: linear layers, and convolutions over single places."""
    names = []
    for name, module in net.named_modules():
        alone = type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1
        if isinstance(module, nn.Linear) or alone:
            names.append(name)
    return names
