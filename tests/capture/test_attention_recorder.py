"""Attention is captured as the model computes it, however it calls it, and torch is left as it was."""

import contextlib
import functools

import maps
import pytest
import torch
import torch.nn.functional as F
from compare import close
from reference_attention import trace
from torch import nn
from traces import model_state, modes
from vits import ViT, attention_of, photos, timm_vit, torchvision_vit

from lightning_cam import explain

METHODS = ["attention_rollout", "attention_relevance", "le_grad"]

heat = functools.partial(maps.heat, layer=None)


@pytest.mark.parametrize("how", ["fused", "written", "flat"])
def test_probabilities_and_scores_are_the_models_own(how):
    net, x = ViT(how=how), photos()
    attention = attention_of(net, x, 2)
    close(attention.scores[:, 0], net(x)[:, 2], 1e-12)
    assert [block.name for block in attention.blocks] == [f"blocks.{i}.attn{'.softmax' * (how == 'flat')}" for i in range(3)]
    for i, image in enumerate(x):
        for block, (_, p, *_) in zip(attention.blocks, trace(net, image), strict=True):
            close(block.probability[i].detach(), p.detach(), 1e-12)


def test_gradient_of_attention_agrees_with_finite_differences():
    """A change of one probability of the second block, carried on by hand through the third."""
    net, x = ViT(how="fused"), photos(1)
    attention = attention_of(net, x, 1)
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


def test_a_head_called_by_keyword_is_met_like_another():
    class ByKeyword(ViT):
        def read(self, tokens):
            return F.linear(input=self.norm(tokens)[:, 0], weight=self.head.weight, bias=self.head.bias)

    assert torch.equal(heat(ByKeyword(), photos(), "attention_relevance"), heat(ViT(), photos(), "attention_relevance"))


def test_frozen_models_and_their_own_no_grad_are_captured():
    net, x = ViT(), photos()
    expected = {method: heat(net, x, method) for method in METHODS}
    net.requires_grad_(False)
    for method in METHODS:
        close(heat(net, x, method), expected[method], 1e-14)
    whole = net.blocks[1].forward
    net.blocks[1].forward = torch.no_grad()(whole)
    assert heat(net, x, "attention_relevance").any()


class Parts(ViT):
    """A transformer some of which runs in a mode of its own."""

    def __init__(self, where: str, mode=torch.no_grad, **options) -> None:
        super().__init__(**options)
        self.where, self.mode = where, mode

    def within(self, where: str):
        return self.mode() if where == self.where else contextlib.nullcontext()

    def forward(self, x):
        with self.within("all"):
            return self.head(self.features(x))

    def features(self, x):
        with self.within("trunk"):
            with self.within("blocks"):
                tokens = self.embed(x)
                for block in self.blocks:
                    with self.within("each block"):
                        tokens = block(tokens)
            return self.norm(tokens)[:, 0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("where", ["all", "trunk", "blocks", "each block"])
@pytest.mark.parametrize("method", [*METHODS, "grad_eclip"])
def test_no_mode_of_the_models_own_hides_a_gradient(method, where, frozen, mode):
    x = photos()
    net = Parts(where, mode).requires_grad_(not frozen)
    before = model_state(net), modes()
    found = explain(net, x, layer="blocks.0", method=method, target=1).heat
    assert found.any() and not found.is_inference()
    close(found, explain(ViT(), x, layer="blocks.0", method=method, target=1).heat, 1e-12)
    assert (model_state(net), modes()) == before


@pytest.mark.parametrize("method", [*METHODS, "grad_eclip"])
def test_an_operation_in_place_behind_the_blocks_is_like_any_other(method):
    class Shifted(ViT):
        def read(self, tokens):
            return super().read(tokens + self.place)

    class InPlace(ViT):
        def read(self, tokens):
            tokens += self.place
            return super().read(tokens)

    close(heat(InPlace(), photos(), method), heat(Shifted(), photos(), method), 1e-12)


class Cut(ViT):
    """Its head is trained, and what is in front of it runs without gradient."""

    def read(self, tokens):
        with torch.no_grad():
            tokens = F.layer_norm(tokens, (8,))[:, 0]
        return self.head(tokens)


@pytest.mark.parametrize("method", ["attention_relevance", "le_grad", "grad_eclip"])
def test_a_trained_head_behind_what_has_no_gradient_is_no_map_of_zeros(method):
    with pytest.raises(ValueError, match=r'under torch.no_grad\(\) or detached. Write method="attention_rollout"'):
        explain(Cut(), photos(), method=method, layer="blocks.0", target=1)
    assert explain(Cut(), photos(), method="attention_rollout", layer="blocks.0", target=1).heat.any()


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


def test_the_multi_head_attention_module_is_captured_as_its_own_weights_tell():
    net, x = torchvision_vit(3, 3, 24).eval(), torch.rand(2, 3, 32, 32)
    attention = attention_of(net, x, layer="encoder.layers.encoder_layer_0")
    y = net._process_input(x)
    y = torch.cat([net.class_token.expand(2, -1, -1), y], 1) + net.encoder.pos_embedding
    for block, captured in zip(net.encoder.layers, attention.blocks, strict=True):
        z = block.ln_1(y)
        weights = block.self_attention(z, z, z, need_weights=True, average_attn_weights=False)[1]
        close(captured.probability, weights, 1e-5)
        y = block(y)
    close(attention.scores[:, 0], net(x)[:, 0], 1e-5)


def test_attention_weights_asked_for_are_captured_too():
    net, x = torchvision_vit(3, 3, 24), torch.rand(2, 3, 32, 32)
    expected = {method: explain(net, x, method=method, target=1).heat for method in METHODS}
    for block in net.encoder.layers:
        whole = block.self_attention.forward
        block.self_attention.forward = lambda *args, whole=whole, need_weights=False, **kw: whole(
            *args, need_weights=True, **kw
        )
    for method in METHODS:
        close(explain(net, x, method=method, target=1).heat, expected[method], 1e-5)


@pytest.mark.parametrize(
    "options", [dict(), dict(class_token=False, global_pool="avg"), dict(reg_tokens=4, dynamic_img_size=True)]
)
@pytest.mark.parametrize("method", METHODS)
def test_fused_and_written_out_agree(method, options):
    net, x = timm_vit((48, 64), 3, **options), torch.rand(2, 3, 48, 64)
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
