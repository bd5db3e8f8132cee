"""Hugging Face's own CLIP, SigLIP, DETR, Conditional DETR and RF-DETR, random and small: prompts and queries."""

from functools import partial

import pytest
import torch
from compare import close_and_alive as close
from families import made
from reference_targets import corners, cosine, followed, surest
from torch import nn
from towers import PROMPTS, tokenize_by_name

from lightning_cam import explain

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)


class Images(nn.Module):
    """A model of two towers, asked for images alone."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net.get_image_features(pixel_values=images)


def clip():
    text = dict(TOWER, vocab_size=40, max_position_embeddings=12, eos_token_id=39)
    vision = dict(TOWER, image_size=64, patch_size=16)
    return Images(transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))


def siglip():
    text = dict(TOWER, vocab_size=40, max_position_embeddings=12)
    vision = dict(TOWER, image_size=64, patch_size=16)
    return Images(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)))


@pytest.mark.parametrize("make", [clip, siglip])
def test_prompts_are_explained_by_the_models_own_text_tower(make):
    net = made(make).double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    target = {"text": {"prompts": PROMPTS, "tokenizer": tokenize_by_name}}
    found = explain(net, x, target=target, output="pooler_output")
    reference = net.net.get_text_features(**tokenize_by_name(PROMPTS)).pooler_output.detach()
    image = net(x).pooler_output.detach()
    expected = torch.tensor([[cosine(image[i], reference[t]) for t in range(3)] for i in range(2)], dtype=torch.float64)
    close(found.score, expected, 1e-10)
    stored = {}
    handle = net.get_submodule(found.layer).register_forward_hook(lambda module, args, output: stored.update(map=output))
    f = net(x).pooler_output
    handle.remove()
    a, side = stored["map"], found.heat.shape[-1]
    for t in range(3):
        score = (f @ reference[t]) / f.norm(dim=1) / reference[t].norm()
        (g,) = torch.autograd.grad(score.sum(), a, retain_graph=True)
        first = a.shape[1] - side * side
        g, of_patches = g[:, first:], a[:, first:].detach()
        heat = (g.mean(1, keepdim=True) * of_patches).sum(2).reshape(2, side, side)
        close(found.heat[:, t], heat, 1e-10)
    named = {"text": {**target["text"], "tower": "net.get_text_features"}}
    assert torch.equal(explain(net, x, target=named, output="pooler_output").heat, found.heat)


def resnet():
    sizes = dict(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic")
    return transformers.ResNetConfig(**sizes, out_features=["stage4"])


SMALL = dict(
    d_model=32,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    num_queries=7,
    num_labels=4,
)


def detr(kind="Detr"):
    backbone = dict(use_timm_backbone=False, backbone_config=resnet(), use_pretrained_backbone=False, backbone=None)
    config = getattr(transformers, f"{kind}Config")(**backbone, **SMALL)
    return getattr(transformers, f"{kind}ForObjectDetection")(config)


def conditional_detr():
    return detr("ConditionalDetr")


def rf_detr():
    backbone = transformers.models.rf_detr.configuration_rf_detr.RfDetrDinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        num_windows=2,
        out_indices=[2, 4],
    )
    decoder = dict(decoder_self_attention_heads=2, decoder_cross_attention_heads=2, decoder_n_points=2)
    sizes = dict(d_model=32, decoder_layers=2, decoder_ffn_dim=32, num_queries=9, num_labels=4)
    return transformers.RfDetrForObjectDetection(transformers.RfDetrConfig(backbone_config=backbone, **decoder, **sizes))


def store(stored, module, args, output):
    stored["map"] = output


@pytest.mark.parametrize(
    ("make", "activation", "layer"),
    [
        (detr, "softmax", "model.backbone.model.encoder.stages.3"),
        (conditional_detr, "sigmoid", "model.backbone.model.encoder.stages.3"),
        pytest.param(rf_detr, "sigmoid", "model.backbone.projector", marks=pytest.mark.slow),
    ],
)
def test_a_query_is_explained_at_the_last_map_of_the_backbone(make, activation, layer):
    if not hasattr(transformers, "RfDetrConfig") and make is rf_detr:
        pytest.skip("this transformers has no RF-DETR")
    net = made(make)
    with torch.no_grad():  # queries that differ
        for head in (m for name, m in net.named_modules() if name.startswith(("class_", "bbox")) and isinstance(m, nn.Linear)):
            head.weight.mul_(3)
    x = torch.rand(2, 3, 64, 64)
    found = explain(net, x, target="detection")
    assert found.layer == layer
    score, heat = [], []
    for image in x:
        stored = {}
        handle = net.get_submodule(layer).register_forward_hook(partial(store, stored))
        output = net(image[None].clone().requires_grad_())  # whose backbone may be frozen
        handle.remove()
        logits, boxes = output.logits[0], output.pred_boxes[0]
        query, c = surest(logits, activation)
        query = followed(logits, boxes, corners(boxes[query]), c, activation)
        (g,) = torch.autograd.grad(logits[query, c], stored["map"])
        score.append(logits[query, c].detach())
        heat.append((g.mean((2, 3), keepdim=True) * stored["map"].detach()).sum(1)[0])
    close(found.score, torch.stack(score), 1e-4)
    close(found.heat, torch.stack(heat), 1e-3)
    with pytest.raises(ValueError, match=r"Explain a box with target='detection'\."):
        explain(net, x)
    alone = explain(net, x, target="detection", method={"recipro_cam": {"chunk": 3}}).heat
    assert alone.shape == found.heat.shape and alone.isfinite().all()
