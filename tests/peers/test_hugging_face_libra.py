"""LibraGrad on Hugging Face's models, random and without biases: the image times its gradient is the score."""

import pytest
import torch
from complete import error_at_image, unbiased

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

VIT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16)
STAGES = dict(image_size=64, embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=4)
MODELS = [
    ("ViT", VIT, "sdpa"),
    ("ViT", VIT, "eager"),
    ("DeiT", VIT, "sdpa"),
    ("Beit", VIT, "eager"),
    ("Dinov2", VIT, "sdpa"),
    ("Dinov2", dict(VIT, use_swiglu_ffn=True), "eager"),
    ("Dinov2WithRegisters", VIT, "sdpa"),
    ("Swin", STAGES, "sdpa"),
    ("Swinv2", STAGES, "eager"),
    ("ConvNextV2", dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]), "eager"),
    ("Siglip", dict(vision_config=dict(VIT)), "sdpa"),
]


def photograph():
    return torch.rand(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(("kind", "options", "attention"), MODELS)
def test_classifiers_are_complete_with_libra_and_far_from_it_without(kind, options, attention):
    config = getattr(transformers, f"{kind}Config")(**options, num_labels=4)
    config._attn_implementation = attention
    net = getattr(transformers, f"{kind}ForImageClassification")(config)
    if kind == "Dinov2WithRegisters":  # its registers are not written to before they are loaded
        torch.nn.init.zeros_(net.dinov2_with_registers.embeddings.register_tokens)
    unbiased(net)
    assert error_at_image(net, photograph(), balanced=True) < 1e-9
    assert error_at_image(net, photograph(), balanced=False) > 1e-3


def test_the_image_tower_of_clip_is_complete():
    config = transformers.CLIPVisionConfig(**VIT, projection_dim=8)
    net = unbiased(transformers.CLIPVisionModelWithProjection(config))
    assert error_at_image(net, photograph(), balanced=True, output="image_embeds") < 1e-9
    assert error_at_image(net, photograph(), balanced=False, output="image_embeds") > 1e-3
