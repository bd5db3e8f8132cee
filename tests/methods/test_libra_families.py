"""LibraGrad on what else is fine-tuned today, random and without biases: the image times its gradient is the score."""

import pytest
import timm
import torch
from complete import error_at_image, unbiased
from torchvision import models

SMALL = dict(depth=2, embed_dim=24, num_heads=2)
TIMM = {
    "vit_base_patch16_siglip_224": dict(img_size=64, **SMALL),
    "vit_small_patch14_reg4_dinov2": dict(img_size=56, **SMALL),
    "vit_small_patch16_dinov3": dict(img_size=64, **SMALL),  # rotary
    "eva02_tiny_patch14_224": dict(img_size=56, **SMALL),  # rotary, SwiGLU
    "beitv2_base_patch16_224": dict(img_size=64, **SMALL),  # positions within attention
    "swinv2_tiny_window8_256": dict(img_size=64, window_size=4, depths=(1, 2), embed_dim=16, num_heads=(2, 2)),  # cosines
    "hiera_tiny_224": dict(img_size=64),  # the largest of tokens
    "convnextv2_atto": dict(),  # a norm of responses
    "efficientnet_b0": dict(),  # SiLU in place, squeeze and excitation
    "maxvit_rmlp_pico_rw_256": dict(img_size=64),
    "fastvit_t8": dict(),
    "poolformer_s12": dict(),  # group norm
}
TORCHVISION = ["mobilenet_v3_small", "convnext_tiny", "regnet_y_400mf", "googlenet"]
HEAVY = ("hiera", "maxvit", "fastvit", "poolformer", "efficientnet", "convnext")


def image(side):
    return torch.randn(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n.startswith(HEAVY) else n for n in TIMM])
def test_timms_models_are_complete_with_libra_and_far_from_it_without(name):
    net, x = unbiased(timm.create_model(name, num_classes=4, **TIMM[name])), image(TIMM[name].get("img_size", 64))
    assert error_at_image(net, x, balanced=True) < 1e-9
    assert error_at_image(net, x, balanced=False) > 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_models_are_complete_with_libra(name):
    net = unbiased(getattr(models, name)(num_classes=4))
    assert error_at_image(net, image(64), balanced=True) < 1e-9


def test_attention_that_is_linear_is_refused_where_features_multiply_features():
    net = unbiased(timm.create_model("efficientvit_b0", num_classes=4))
    with pytest.raises(ValueError, match=r"libra has no rule for 'matmul' in 'stages.2.blocks.1.context_module.main'"):
        error_at_image(net, image(64), balanced=True)
