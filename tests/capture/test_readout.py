"""Which attention pools the tokens is found as the model runs, and what is no pooling is refused with a line that works."""

import pytest
import timm
import torch
import torch.nn.functional as F
from compare import close
from families import made
from poolers import KINDS, Pooled
from reference_attention import trace
from reference_pooling import Pooling, pooled_tokens
from timm.layers import AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d
from torch import nn
from vits import WIDTH, TwoTowers, ViT, attention_of, photos, timm_vit

from lightning_cam import explain

METHODS = ["attention_rollout", "attention_relevance", "le_grad", "grad_eclip"]


@pytest.mark.parametrize("how", ["fused", "written", "multi head"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_of_blocks_and_pooling_are_the_models_own(kind, how):
    net, x = Pooled(**KINDS[kind], how=how), photos()
    attention = attention_of(net, x, 2, layer="patch")
    close(attention.scores[:, 0], net(x)[:, 2], 1e-12)
    assert attention.last.name == "pooling"
    assert attention.readout.attention is attention.last
    assert [block.name for block in attention.blocks] == [f"blocks.{i}.attn" for i in range(len(net.blocks))]
    for i, image in enumerate(x):
        pooling = Pooling(net, pooled_tokens(net, image))
        close(attention.last.probability[i].detach(), pooling.p.detach(), 1e-12)
        assert attention.layout.prefix == pooling.before
        assert attention.read_tokens(0).tolist() == pooling.rows
        if how != "written":
            close(attention.last.output[i].transpose(0, 1).flatten(1).detach(), pooling.o.detach(), 1e-12)
        for block, (_, p, *_) in zip(attention.blocks, trace(net, image), strict=True):
            close(block.probability[i].detach(), p.detach(), 1e-12)


def test_weights_that_a_model_asks_for_are_those_that_torch_gives():
    class Weighing(Pooled):
        average = True

        def read(self, tokens):
            layer = nn.MultiheadAttention(WIDTH, 2, batch_first=True, dtype=torch.float64)
            with torch.no_grad():
                for i, p in enumerate(layer.parameters()):
                    p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape).sin() * (i + 1))
            probes = self.pooling.latent.expand(len(tokens), -1, -1)
            pooled, weights = layer(probes, tokens, tokens, average_attn_weights=self.average)
            return self.head(pooled[:, 0] + weights.flatten(1).cumsum(1)[:, :WIDTH].sum(1, keepdim=True))

    for average in (True, False):
        net, x = Weighing(), photos()
        net.average = average
        close(attention_of(net, x, 2).scores[:, 0], net(x)[:, 2], 1e-12)  # weights and all


def test_nothing_of_the_model_or_of_torch_is_changed_also_after_an_error():
    net, x = Pooled(prefix=1, how="multi head"), photos()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    for method in METHODS:
        explain(net, x, method=method, target=1)
    calls = 0

    def fail(module, args):
        nonlocal calls
        calls += 1
        if calls > 4:  # the default layer's, the look's, the recorded and one of two that see what is read beside it
            raise RuntimeError("on purpose")

    handle = net.pooling.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        explain(net, x, method="le_grad", target=1)
    handle.remove()
    assert calls == 5
    assert not any("forward" in vars(module) for module in net.modules())
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert torch.overrides._len_torch_function_stack() == 0
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_frozen_models_and_their_own_no_grad_are_captured():
    net, x = Pooled(prefix=1), photos()
    expected = {method: explain(net, x, method=method, target=1).heat for method in METHODS}
    net.requires_grad_(False)
    for method in METHODS:
        close(explain(net, x, method=method, target=1).heat, expected[method], 1e-14)
    net.blocks.forward = torch.no_grad()(net.blocks.forward)
    assert explain(net, x, method="attention_relevance", target=1).heat.any()


TIMM = {
    "a latent": dict(class_token=False),
    "a latent, class token left out": dict(),
    "a latent, any size": dict(reg_tokens=4, dynamic_img_size=True),
    "a latent, of all tokens": dict(reg_tokens=4, pool_include_prefix=True),
    "every token attends": dict(global_pool="prr"),
}


@pytest.mark.parametrize("kind", TIMM)
def test_timms_poolings_fused_and_written_out_agree(kind):
    net, x = timm_vit((48, 64), **{"global_pool": "map", **TIMM[kind]}), torch.rand(2, 3, 48, 64)
    fused = {method: explain(net, x, layer="blocks.1", method=method, target=1).heat for method in METHODS}
    for heat in fused.values():
        assert heat.shape == (2, 3, 4)
        assert heat.std() > 0
    for module in (*(block.attn for block in net.blocks), net.attn_pool):
        assert module.fused_attn
        module.fused_attn = False
    for method in METHODS[:3]:
        close(explain(net, x, layer="blocks.1", method=method, target=1).heat, fused[method], 1e-4)


def test_timms_siglip_is_read_by_its_probe():
    net = timm.create_model("vit_base_patch16_siglip_224", img_size=64, depth=2, embed_dim=48, num_heads=4, num_classes=5)
    x = torch.rand(2, 3, 64, 64)
    for method in METHODS:
        assert explain(net.eval(), x, method=method, target=1).heat.any()
    attention = attention_of(net, x, 1, layer="norm")
    assert (len(attention.blocks), attention.last.name) == (2, "attn_pool")
    tokens = net.forward_features(x)
    net.attn_pool.fused_attn = False
    weights = []
    net.attn_pool.q_norm.register_forward_hook(lambda module, args, q: weights.append(q))
    net.attn_pool.k_norm.register_forward_hook(lambda module, args, k: weights.append(k))
    net.attn_pool(tokens)
    q, k = weights
    close(attention.last.probability, (q @ k.mT * net.attn_pool.scale).softmax(3), 1e-5)


class Convolutional(nn.Module):
    """Convolutions whose map is pooled by attention, as CLIP's ResNets and ConvNeXts."""

    def __init__(self, pool, flat=False):
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.flat = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()), flat
        self.pool, self.head = pool(), nn.Linear(16, 4)
        self.double().eval()

    def forward(self, x):
        maps = self.stem(x)
        return self.head(self.pool(maps.flatten(2).mT if self.flat else maps))


POOLS = {
    "latent": (lambda: AttentionPoolLatent(16, num_heads=2), True, 0),
    "absolute places": (lambda: AttentionPool2d(16, (5, 7), head_dim=8), False, 1),
    "rotary places": (lambda: RotAttentionPool2d(16, head_dim=8), False, 1),
    "class token": (lambda: RotAttentionPool2d(16, head_dim=8, class_token=True, qkv_separate=True), False, 1),
}


@pytest.mark.parametrize("kind", POOLS)
def test_a_map_of_convolutions_pooled_by_attention_is_its_probes_row(kind):
    pool, flat, prefix = POOLS[kind]
    net, x = Convolutional(pool, flat), torch.rand(2, 3, 18, 27, dtype=torch.float64)  # 5 x 7 cells, no aspect tells
    attention = attention_of(net, x, 1, layer="stem")
    assert attention.blocks == ()
    assert attention.layout.prefix == prefix
    p = attention.last.probability
    gradients = torch.autograd.grad(attention.scores.sum(), p, retain_graph=True)[0]
    row = p[:, :, 0, prefix:].detach()
    g = gradients[:, :, 0, prefix:]
    shown = {"attention_rollout": row, "attention_relevance": (row * g).relu(), "le_grad": g.relu()}
    for method, expected in shown.items():
        found = explain(net, x, method=method, target=1)
        assert found.heat.shape == (2, 5, 7)
        close(found.heat, expected.mean(1).unflatten(1, (5, 7)), 1e-12)
    assert explain(net, x, method="grad_eclip", target=[0, 1, 2, 3]).heat.any()
    net.pool.fused_attn = False
    for method, expected in shown.items():
        close(explain(net, x, method=method, target=1).heat, expected.mean(1).unflatten(1, (5, 7)), 1e-10)


@pytest.mark.slow
def test_clips_resnet_is_read_by_its_pooling():
    torch.manual_seed(0)
    net = timm.create_model("resnet50_clip", num_classes=5).eval()
    x = torch.rand(1, 3, 64, 96)
    for method in METHODS:
        assert explain(net, x, method=method, target=1).heat.shape == (1, 2, 3)
    assert attention_of(net, x, 1, layer="stages").last.name == "head"


class Pair(TwoTowers):
    """An image tower pooled by attention beside a text tower."""

    def __init__(self):
        super().__init__()
        self.visual = Pooled(prefix=1)


@pytest.mark.parametrize("method", METHODS)
def test_the_image_tower_of_two_is_pooled_as_it_is_alone(method):
    net, x = Pair(), photos()

    def similarity(output, label):
        return output["image"] @ output["text"][2]

    found = explain(net, x, method=method, layer="visual.blocks.1", target=similarity, output=lambda output: output)
    text = net(x)["text"][2].detach()
    alone = explain(net.visual, x, method=method, target=lambda logits, label: F.normalize(logits, dim=1) @ text)
    close(found.heat, alone.heat, 1e-12)
    assert found.heat.any()


class Beside(Pooled):
    """The head is given a pooling and a mean."""

    def read(self, tokens):
        tokens = self.norm(tokens)
        return self.head(self.pooling(tokens)[:, 0] + tokens.mean(1))


class Unread(Pooled):
    """The pooling is computed and dropped, as in Hugging Face's classifier by SigLIP."""

    def read(self, tokens):
        tokens = self.norm(tokens)
        self.pooling(tokens)
        return self.head(tokens.mean(1))


class Decoder(Pooled):
    """Two layers of queries that read the tokens, as DETR's."""

    def __init__(self):
        super().__init__(probes=2)
        self.layers = nn.ModuleList([nn.TransformerDecoderLayer(WIDTH, 2, 12, 0.0, batch_first=True) for _ in range(2)])
        self.double().eval()

    def read(self, tokens):
        queries = self.pooling.latent.expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens)
        return self.head(queries.mean(1))


class Perceiver(ViT):
    """Latents read the patches, meet one another, and read them once more."""

    def __init__(self):
        super().__init__(prefix=0, depth=0)
        self.latents = nn.Parameter(torch.randn(1, 4, WIDTH))
        self.readers = nn.ModuleList([nn.MultiheadAttention(WIDTH, 2, batch_first=True) for _ in range(2)])
        self.among = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.double().eval()

    def read(self, tokens):
        latents = self.latents.expand(len(tokens), -1, -1)
        for reader in self.readers:
            latents = latents + reader(latents, tokens, tokens)[0]
            latents = latents + self.among(latents, latents, latents)[0]
        return self.head(latents.mean(1))


class SomeOf(Pooled):
    """Of a class token and two registers the pooling is given the first."""

    def __init__(self):
        super().__init__(prefix=3)

    def read(self, tokens):
        tokens = self.norm(tokens)
        return self.head(self.pooling(torch.cat([tokens[:, :1], tokens[:, 3:]], 1))[:, 0])


class OwnKeys(Pooled):
    """Torch's module with keys of its own, behind the tokens."""

    def __init__(self, **options):
        super().__init__()
        self.pooling = nn.MultiheadAttention(WIDTH, 2, batch_first=True, dtype=torch.float64, **options)
        self.latent = nn.Parameter(torch.randn(1, 1, WIDTH, dtype=torch.float64))

    def read(self, tokens):
        return self.head(self.pooling(self.latent.expand(len(tokens), -1, -1), tokens, tokens)[0][:, 0])


WRONG = {
    "a mean beside it": (Beside, r"'pooling' is from some tokens to others.*by which alone the score reads.*\(3, 2, 1, 6\)"),
    "one that no score reads": (lambda: Unread(depth=0), r"'pooling' is from some tokens to others.*by which alone the score"),
    "a decoder": (Decoder, r"'layers.0.multihead_attn' is from some tokens to others.*\(3, 2, 2, 6\).*at most one pooling"),
    "a perceiver": (Perceiver, r"'readers.0' is from some tokens to others.*\(3, 2, 4, 6\).*at most one pooling"),
    "some prefix tokens": (SomeOf, r"'pooling' has 7 keys.*9 tokens, 6 of them patches.*expected 6 or 9 keys"),
    "keys added": (lambda: OwnKeys(add_bias_kv=True), r"'pooling' adds keys that are no tokens.*without add_bias_kv"),
    "a key of zeros": (lambda: OwnKeys(add_zero_attn=True), r"'pooling' adds keys that are no tokens.*add_zero_attn"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_the_one_pooling_is_refused_with_a_line_that_works(kind):
    make, message = WRONG[kind]
    net, x = make(), photos()
    for method in METHODS:
        with pytest.raises(ValueError, match=rf'(?s){message}.*Write method="grad_cam"'):
            explain(net, x, layer="patch", method=method)
    assert explain(net, x, method="grad_cam").heat.any()


def test_torchs_module_without_keys_of_its_own_is_a_pooling():
    assert explain(OwnKeys(), photos(), method="grad_eclip").heat.any()


def test_a_pooling_that_the_score_does_not_read_is_left_aside():
    net, x = Unread(), photos()
    plain = ViT(prefix=0, pool="mean", depth=2)
    plain.load_state_dict({name: p for name, p in net.state_dict().items() if not name.startswith("pooling")})
    for method in METHODS[:3]:
        assert torch.equal(explain(net, x, method=method, target=1).heat, explain(plain, x, method=method, target=1).heat)


WINDOWED = {
    "cait_xxs24_224": dict(depth=2),
    "maxvit_pico_rw_256": dict(),
    "swin_tiny_patch4_window7_224": dict(depths=(1, 1, 1, 1)),
    "hiera_tiny_224": dict(stages=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_and_stacks_of_class_attention_are_refused_plainly(name):
    net, x = made(lambda: timm.create_model(name, img_size=64, num_classes=5, **WINDOWED[name])), torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r'expected \[b heads n n\].*Write method="grad_cam"'):
        explain(net, x, method="attention_rollout")
    assert explain(net, x, method="grad_cam").heat.any()
