"""Attention captured and the methods that read it: against slow references, identities, and real transformers."""

import pytest
import timm
import torch
import torch.nn.functional as F
from reference_attention import attention_relevance, attention_rollout, grad_eclip, le_grad, trace
from torch import nn
from torchvision.models import VisionTransformer
from vits import TwoTowers, ViT, photos

from lightning_cam import explain
from lightning_cam.capture.hooks import watch
from lightning_cam.capture.seen import Seen
from lightning_cam.methods.attention import rollout
from lightning_cam.targets.target import find

CLASSES = [2, 0, 3]
REFERENCES = {f.__name__: f for f in (attention_rollout, attention_relevance, le_grad)}
KINDS = {
    "class token": dict(),
    "class token and registers": dict(prefix=4),
    "mean": dict(prefix=0, pool="mean"),
    "mean beside a class token": dict(prefix=1, pool="mean"),
}


def heat(net, x, method, classes=CLASSES, **options):
    return explain(net, x, method=method, target=torch.tensor(classes), **options).heat


def close(a, b, tolerance=1e-10):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-30)


@pytest.mark.parametrize("how", ["fused", "written", "flat"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", REFERENCES)
def test_method_equals_its_reference_however_attention_is_called(method, kind, how):
    net, x = ViT(**KINDS[kind], how=how), photos()
    expected = REFERENCES[method](net, x, CLASSES)
    assert expected.std() > 0
    close(heat(net, x, method), expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prefix", [1, 3])
def test_grad_eclip_equals_its_reference(prefix, seed):
    net, x = ViT(prefix, seed=seed), photos(seed=seed)
    expected = grad_eclip(net, x, CLASSES)
    assert expected.any()
    close(heat(net, x, "grad_eclip"), expected)


def look(net, x, target=0, layer="blocks.0"):
    with watch(net, [layer]) as look_at:
        seen = Seen(look_at(x, find(target)), layer)
        seen.attention  # noqa: B018  # read while the layers are watched
        return seen


@pytest.mark.parametrize("how", ["fused", "written", "flat"])
def test_probabilities_and_scores_are_the_models_own(how):
    net, x = ViT(how=how), photos()
    attention = look(net, x, 2).attention
    close(attention.scores[:, 0], net(x)[:, 2], 1e-12)
    assert [block.name for block in attention.blocks] == [f"blocks.{i}.attn{'.softmax' * (how == 'flat')}" for i in range(3)]
    for i, image in enumerate(x):
        for block, (_, p, *_) in zip(attention.blocks, trace(net, image), strict=True):
            close(block.probability[i].detach(), p.detach(), 1e-12)


def test_gradient_of_attention_agrees_with_finite_differences():
    """A change of one probability of the second block, carried on by hand through the third."""
    net, x = ViT(how="fused"), photos(1)
    attention = look(net, x, 1).attention
    (g,) = attention.gradient(0, [attention.blocks[1].probability])
    block, before = net.blocks[1], net.blocks[0](net.embed(x))[0]

    def score(p, v):
        o = torch.cat([p[h] @ v[:, h * 4 : h * 4 + 4] for h in range(2)], 1)
        y = before + block.attn.proj(o)
        return net.read(
            net.blocks[2](y + block.mlp(block.norm2(y)))[None]
            if y.ndim == 3
            else net.blocks[2]((y + block.mlp(block.norm2(y)))[None])
        )[0, 1]

    _, p, _, _, v, _ = trace(net, x[0])[1]
    for place in ((0, 0, 3), (1, 4, 2)):
        step = torch.zeros_like(p)
        step[place] = 1e-4
        assert abs((score(p + step, v) - score(p - step, v)).item() / 2e-4 - g[0][place].item()) < 1e-7


def test_rollout_rows_sum_to_one():
    for kind in KINDS.values():
        rows = rollout(look(ViT(**kind), photos()).attention).sum(2)
        assert (rows - 1).abs().max() < 1e-14


def test_uniform_attention_gives_a_uniform_map():
    net, x = ViT(), photos()
    for block in net.blocks:
        block.attn.qkv.weight.data[:8] = 0  # no queries
        block.attn.qkv.bias.data[:8] = 0
    found = heat(net, x, "attention_rollout")
    assert (found - found[0, 0, 0]).abs().max() < 1e-15
    assert found[0, 0, 0] > 0


@pytest.mark.parametrize("method", ["le_grad", "attention_relevance", "grad_eclip"])
def test_attention_to_values_that_are_zero_is_worth_nothing(method):
    net, x = ViT(), photos()
    for block in net.blocks:
        block.attn.qkv.weight.data[16:] = 0
        block.attn.qkv.bias.data[16:] = 0
    assert not heat(net, x, method).any()


@pytest.mark.parametrize(
    ("method", "specific"), [("attention_rollout", False), ("attention_relevance", True), ("le_grad", True)]
)
def test_only_maps_of_gradients_depend_on_the_class(method, specific):
    net, x = ViT(), photos()
    a, b = heat(net, x, method, [0, 0, 0]), heat(net, x, method, [1, 1, 1])
    assert ((a - b).abs().max() > 0.1 * a.abs().max()) == specific


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "le_grad", "grad_eclip"])
def test_several_targets_and_single_images_give_what_each_gives_alone(method):
    net, x = ViT(), photos()
    several = explain(net, x, method=method, target=[0, 2]).heat
    for t, c in enumerate((0, 2)):
        close(several[:, t], heat(net, x, method, [c] * 3), 1e-13)
    close(heat(net, x, method)[1:2], heat(net, x[1:2], method, CLASSES[1:2]), 1e-12)


def test_a_head_of_zeros_does_not_hide_which_tokens_are_read():
    net, x = ViT(prefix=1, pool="mean"), photos()
    expected = attention_rollout(net, x, CLASSES)
    net.head.weight.data.zero_()
    close(heat(net, x, "attention_rollout"), expected)


def test_frozen_models_and_their_own_no_grad_are_captured():
    net, x = ViT(), photos()
    expected = {method: heat(net, x, method) for method in REFERENCES}
    net.requires_grad_(False)
    for method in REFERENCES:
        close(heat(net, x, method), expected[method], 1e-14)
    whole = net.blocks[1].forward
    net.blocks[1].forward = torch.no_grad()(whole)
    assert heat(net, x, "attention_relevance").any()


def similarity(output, label):
    return output["image"] @ output["text"][2]


@pytest.mark.parametrize("method", ["grad_eclip", "attention_relevance", "le_grad", "attention_rollout"])
def test_the_image_tower_of_two_is_explained_for_an_embedding(method):
    net, x = TwoTowers(), photos()
    found = explain(net, x, method=method, layer="visual.blocks.2.norm1", target=similarity, output=lambda output: output)
    text = net(x)["text"][2].detach()
    alone = explain(net.visual, x, method=method, target=lambda logits, label: F.normalize(logits, dim=1) @ text)
    close(found.heat, alone.heat, 1e-12)
    assert found.heat.any()


def test_torch_is_as_it_was_also_after_an_error():
    before = F.scaled_dot_product_attention, F.multi_head_attention_forward, F.softmax, torch.softmax
    net, x = ViT(), photos()
    for method in ("attention_rollout", "le_grad"):
        heat(net, x, method)

    class Fails(nn.Module):
        times = 0

        def forward(self, y):
            self.times += 1
            if self.times > 2:  # the second is the forward that looks for the default layer
                raise RuntimeError("on purpose")
            return y

    for at in ("norm", "blocks"):
        net = ViT()
        setattr(net, at, nn.Sequential(getattr(net, at), Fails()))
        with pytest.raises(RuntimeError, match="on purpose"):
            heat(net, x, "attention_rollout")
        assert not any("forward" in vars(module) for module in net.modules())
        assert not torch.nn.modules.module._global_forward_hooks
        assert not torch.nn.modules.module._global_forward_pre_hooks
        assert torch.overrides._len_torch_function_stack() == 0
    assert before == (F.scaled_dot_product_attention, F.multi_head_attention_forward, F.softmax, torch.softmax)
    assert all(p.grad is None for p in net.parameters())


def torchvision_vit():
    torch.manual_seed(0)
    net = VisionTransformer(image_size=32, patch_size=8, num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=5)
    nn.init.normal_(net.heads.head.weight)
    return net


def timm_vit(**options):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=(48, 64), depth=3, num_classes=5, **options)


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "le_grad", "grad_eclip"])
def test_torchvision_and_timm_transformers(method):
    found = explain(torchvision_vit(), torch.rand(2, 3, 32, 32), method=method)
    assert found.heat.shape == (2, 4, 4)
    assert found.heat.std() > 0
    found = explain(timm_vit(), torch.rand(2, 3, 48, 64), method=method)
    assert found.heat.shape == (2, 3, 4)
    assert found.heat.std() > 0


def test_the_multi_head_attention_module_is_captured_as_its_own_weights_tell():
    net, x = torchvision_vit().eval(), torch.rand(2, 3, 32, 32)
    attention = look(net, x, layer="encoder.layers.encoder_layer_0").attention
    y = net._process_input(x)
    y = torch.cat([net.class_token.expand(2, -1, -1), y], 1) + net.encoder.pos_embedding
    for block, captured in zip(net.encoder.layers, attention.blocks, strict=True):
        z = block.ln_1(y)
        weights = block.self_attention(z, z, z, need_weights=True, average_attn_weights=False)[1]
        close(captured.probability, weights, 1e-5)
        y = block(y)
    close(attention.scores[:, 0], net(x)[:, 0], 1e-5)


def test_attention_weights_asked_for_are_captured_too():
    net, x = torchvision_vit(), torch.rand(2, 3, 32, 32)
    expected = {method: explain(net, x, method=method, target=1).heat for method in REFERENCES}
    for block in net.encoder.layers:
        whole = block.self_attention.forward
        block.self_attention.forward = lambda *args, whole=whole, need_weights=False, **kw: whole(
            *args, need_weights=True, **kw
        )
    for method in REFERENCES:
        close(explain(net, x, method=method, target=1).heat, expected[method], 1e-5)


@pytest.mark.parametrize(
    "options", [dict(), dict(class_token=False, global_pool="avg"), dict(reg_tokens=4, dynamic_img_size=True)]
)
@pytest.mark.parametrize("method", REFERENCES)
def test_fused_and_written_out_agree(method, options):
    net, x = timm_vit(**options), torch.rand(2, 3, 48, 64)
    fused = explain(net, x, method=method, target=1).heat
    for block in net.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
    close(explain(net, x, method=method, target=1).heat, fused, 1e-5)
    assert fused.std() > 0


@pytest.mark.parametrize("mask", [None, "bool", "float", "causal"])
def test_attention_written_out_is_torchs_own(mask):
    from lightning_cam.capture.attention_recorder import AttentionRecorder

    q, k, v = (torch.randn(2, h, 6, 4, dtype=torch.float64) for h in (4, 2, 2))
    options = {
        "causal": dict(is_causal=True),
        "bool": dict(attn_mask=torch.rand(6, 6) > 0.3),
        "float": dict(attn_mask=torch.randn(6, 6).double()),
    }
    if mask == "bool":
        options["bool"]["attn_mask"].fill_diagonal_(True)
    given = dict(scale=0.3, enable_gqa=True, **options.get(mask, {}))
    expected = F.scaled_dot_product_attention(q, k, v, **given)
    with AttentionRecorder(2, {}).running():
        close(F.scaled_dot_product_attention(q, k, v, **given), expected, 1e-12)


@pytest.mark.parametrize("method", [*REFERENCES, "grad_eclip"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_lower_precision_stays_near(method, dtype, tolerance):
    net, x = ViT(), photos().bfloat16().double()
    for parameter in net.parameters():
        parameter.data = parameter.data.bfloat16().double()
    exact = heat(net, x, method)
    low = heat(net.to(dtype), x.to(dtype), method)
    assert low.dtype == torch.float32
    if method == "grad_eclip" and dtype == torch.bfloat16:
        tolerance = 0.04  # measured .032: three factors, each rounded, and cosines stretched to their range
    close(low.double(), exact, tolerance)
