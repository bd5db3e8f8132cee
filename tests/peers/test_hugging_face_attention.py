"""Hugging Face's transformers, random and small: rollout of the attentions they return, and SigLIP's pooling by a probe."""

import pytest
import torch
from compare import close
from families import made
from vits import attention_of

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.targets import find

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

METHODS = ["attention_rollout", "attention_relevance", "le_grad"]
SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16)
TEXT = dict(SIZES, vocab_size=50, max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1)

# kind: the class, its options, tokens before the patches, rows that are read, how logits are found in its output
KINDS = {
    "ViT": ("ViTForImageClassification", dict(), 1, "first", None),
    "BEiT": ("BeitForImageClassification", dict(use_relative_position_bias=True), 1, "patches", None),
    "DINOv2 with registers": ("Dinov2WithRegistersForImageClassification", dict(), 5, "any", None),
    "DINOv3": ("DINOv3ViTModel", dict(num_register_tokens=4), 5, "first", "pooler_output"),
    "CLIP's image tower": ("CLIPVisionModelWithProjection", dict(projection_dim=16), 1, "first", "image_embeds"),
}


def small(kind, how):
    name, options, *_ = KINDS[kind]
    config = getattr(transformers, name).config_class(**{**SIZES, "num_labels": 5, **options}, attn_implementation=how)
    return made(lambda: getattr(transformers, name)(config)).double()


def photographs():
    return torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def one(output, label):
    return output[:, 1]


def rollout(attentions):
    """Of every image, from the definition."""
    through = []
    for image in zip(*attentions, strict=True):
        rolled = torch.eye(image[0].shape[1], dtype=torch.float64)
        for p in image:
            a = (p.double().mean(0) + torch.eye(p.shape[1], dtype=torch.float64)) / 2
            rolled = a / a.sum(1, keepdim=True) @ rolled  # some of these models take the softmax in single precision
        through.append(rolled)
    return torch.stack(through)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rollout_is_that_of_the_attentions_the_model_returns(kind):
    prefix, read, output = KINDS[kind][2:]
    net, x = small(kind, "eager"), photographs()
    found = {method: explain(net, x, method=method, target=one, output=output).heat for method in METHODS}
    attentions = [p.detach() for p in net(x, output_attentions=True).attentions]
    assert [p.shape[-1] for p in attentions] == [16 + prefix] * 3
    whole = rollout(attentions)
    if read == "any":  # class token and mean of patches are concatenated
        expected = torch.cat([whole[:, :1], whole[:, prefix:]], 1).mean(1)
    else:
        expected = whole[:, 0] if read == "first" else whole[:, prefix:].mean(1)
    close(found["attention_rollout"], expected[:, prefix:].unflatten(1, (4, 4)))
    fused = small(kind, "sdpa")
    for method in METHODS:
        assert found[method].std() > 0
        close(explain(fused, x, method=method, target=one, output=output).heat, found[method], 1e-5)


def siglip(how="sdpa"):
    config = transformers.SiglipVisionConfig(**SIZES, attn_implementation=how)
    return made(lambda: transformers.SiglipVisionModel(config)).double()


def test_siglips_image_tower_is_read_by_its_probe():
    net, x = siglip("eager"), photographs()
    found = explain(net, x, method="attention_rollout", target=one, output="pooler_output")
    output = net(x, output_attentions=True)
    tokens = output.last_hidden_state
    probe = net.head.probe.expand(len(x), -1, -1)
    weights = net.head.attention(probe, tokens, tokens, average_attn_weights=True)[1].detach()
    close(found.heat, (weights @ rollout([p.detach() for p in output.attentions]))[:, 0].unflatten(1, (4, 4)))
    with_queries = explain(siglip(), x, method="grad_eclip", target=one, output="pooler_output").heat
    assert with_queries.any()
    close(explain(net, x, method="grad_eclip", target=one, output="pooler_output").heat, with_queries, 1e-5)
    for method in METHODS:
        eager = explain(net, x, method=method, target=one, output="pooler_output").heat
        close(explain(siglip(), x, method=method, target=one, output="pooler_output").heat, eager, 1e-5)
        assert eager.std() > 0


def test_siglips_classifier_reads_the_mean_of_the_patches_and_leaves_the_probe_aside():
    config = transformers.SiglipConfig(vision_config=SIZES, text_config=TEXT, num_labels=5)
    net, x = made(lambda: transformers.SiglipForImageClassification(config)), photographs().float()
    attention = attention_of(net, x, one, layer="vision_model.encoder.layers.0")
    assert attention.readout is None
    assert attention.read_tokens(0).tolist() == list(range(16))
    for method in METHODS:
        assert explain(net, x, method=method, target=one).heat.std() > 0


@pytest.mark.parametrize("method", [*METHODS, "grad_eclip"])
def test_siglips_two_towers_are_explained_for_a_text(method):
    class Compared(torch.nn.Module):
        """As a user writes it: images alone, against texts that were fixed."""

        def __init__(self, net):
            super().__init__()
            self.net, self.words = net, torch.tensor([[3, 4, 5, 1], [7, 8, 9, 1]])

        def forward(self, pixel_values):
            return self.net(input_ids=self.words, pixel_values=pixel_values).logits_per_image

    config = transformers.SiglipConfig(vision_config=SIZES, text_config=TEXT)
    net, x = Compared(made(lambda: transformers.SiglipModel(config)).double()), photographs()
    found = explain(net, x, method=method, target=1, layer="net.vision_model.post_layernorm").heat
    assert found.shape == (2, 4, 4)
    assert found.any()
    texts = torch.nn.functional.normalize(net.net.get_text_features(net.words).pooler_output, dim=1).detach()

    def similarity(output, label):
        return net.net.logit_scale.exp() * torch.nn.functional.normalize(output, dim=1) @ texts[1] + net.net.logit_bias

    alone = explain(net.net.vision_model, x, method=method, target=similarity, output="pooler_output").heat
    close(found, alone, 1e-10)


def test_aims_pooling_is_read_by_its_query():
    config = transformers.Aimv2VisionConfig(**SIZES, attn_implementation="sdpa")
    net, x = made(lambda: transformers.Aimv2VisionModel(config)), photographs().float()
    with open_session(net, ["encoder.layers.0"], output="pooler_output") as session:
        attention = Seen(session.forward(x, find(one)), "encoder.layers.0").attention
        assert attention.last.probability.shape == (2, 2, 1, 16)
    for method in [*METHODS, "grad_eclip"]:
        assert explain(net, x, method=method, target=one, output="pooler_output").heat.any()
