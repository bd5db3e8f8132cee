"""Hugging Face's own classes, random and small: read right without being told, attention by either implementation."""

import pytest
import torch
from compare import close_and_alive as close
from families import made, plain

from lightning_cam import explain

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

VIT = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16)
STAGES = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])


def of(kind, task="ImageClassification", **options):
    """A small model of a kind, always with the same weights."""

    def make():
        config = getattr(transformers, f"{kind}Config")(num_labels=5, **options)
        return getattr(transformers, f"{kind}For{task}")(config)

    return made(make)


def photographs():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))


class Logits(torch.nn.Module):
    """The model's logits alone, for the reference."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).logits


@pytest.mark.parametrize(
    ("kind", "options", "layer", "prefix"),
    [
        ("ViT", VIT, "2.layernorm_before", 1),
        ("DeiT", VIT, "2.layernorm_before", 2),
        ("Beit", VIT, ".2", 1),
        ("Dinov2", VIT, "layernorm", 1),
        ("Dinov2WithRegisters", VIT, "layernorm", 5),
        ("Swin", dict(image_size=64, embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=4), "layernorm", 0),
    ],
)
def test_the_map_is_the_patches_where_the_score_still_depends_on_them(kind, options, layer, prefix):
    net, x = of(kind, **options), photographs()
    found = explain(net, x, target=1)
    assert found.layer.endswith(layer)
    a, g, _ = plain(Logits(net), f"net.{found.layer}", x, 1)
    u, v = found.heat.shape[1:]
    assert a.shape[1] == prefix + u * v
    a, g = a[:, prefix:], g[:, prefix:]
    close(found.heat, (g.mean(1, keepdim=True) * a).sum(2).unflatten(1, (u, v)))


@pytest.mark.parametrize("kind", ["ResNet", "ConvNext"])
def test_the_map_of_a_convolutional_net_is_its_last_stages(kind):
    net, x = of(kind, **STAGES, **({"embedding_size": 8, "layer_type": "basic"} if kind == "ResNet" else {})), photographs()
    found = explain(net, x, target=1)
    assert found.layer.endswith("stages.3")
    a, g, _ = plain(Logits(net), f"net.{found.layer}", x, 1)
    close(found.heat, (g.mean((2, 3), keepdim=True) * a).sum(1))


def test_a_segmentation_is_explained_at_its_coarsest_stage():
    net = of("Segformer", "SemanticSegmentation", **STAGES, num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16)
    found = explain(net, photographs(), target="segment")
    assert found.layer.endswith("3")
    assert found.heat.shape == (2, 2, 2)
    assert found.heat.any()


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "le_grad"])
@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters"])
def test_attention_is_the_same_by_either_implementation(kind, method):
    x = photographs()
    fused, written = (
        explain(of(kind, **VIT, attn_implementation=how), x, method=method, target=1).heat for how in ("sdpa", "eager")
    )
    close(fused, written)


def test_the_image_tower_of_clip_is_explained_for_an_embedding():
    config = transformers.CLIPVisionConfig(**VIT, projection_dim=16)
    net, x = made(lambda: transformers.CLIPVisionModelWithProjection(config)), photographs()
    text = torch.randn(16, generator=torch.Generator().manual_seed(5))
    for method in ("grad_cam", "grad_eclip", "attention_relevance", "le_grad"):
        target = {"similarity": {"reference": text}}
        found = explain(net, x, method=method, target=target, output="image_embeds")
        assert found.layer.endswith("2.layer_norm1")
        assert found.heat.shape == (2, 4, 4)
        assert found.heat.any()
        close(found.score, torch.cosine_similarity(net(x).image_embeds, text[None]).detach())
