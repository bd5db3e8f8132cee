"""Methods that read attention: against slow references, identities, and real transformers."""

import functools

import maps
import pytest
import torch
import torch.nn.functional as F
from compare import close
from maps import CLASSES
from reference_attention import attention_relevance, attention_rollout, grad_eclip, le_grad
from vits import TwoTowers, ViT, attention_of, photos, timm_vit, torchvision_vit

from lightning_cam import explain
from lightning_cam.methods.attention import rollout

REFERENCES = {f.__name__: f for f in (attention_rollout, attention_relevance, le_grad)}

heat = functools.partial(maps.heat, layer=None)

KINDS = {
    "class token": dict(),
    "class token and registers": dict(prefix=4),
    "mean": dict(prefix=0, pool="mean"),
    "mean beside a class token": dict(prefix=1, pool="mean"),
}


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


def test_rollout_rows_sum_to_one():
    for kind in KINDS.values():
        rows = rollout(attention_of(ViT(**kind), photos())).sum(2)
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


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "le_grad", "grad_eclip"])
def test_torchvision_and_timm_transformers(method):
    found = explain(torchvision_vit(3, 3, 24), torch.rand(2, 3, 32, 32), method=method)
    assert found.heat.shape == (2, 4, 4)
    assert found.heat.std() > 0
    found = explain(timm_vit((48, 64), 3), torch.rand(2, 3, 48, 64), method=method)
    assert found.heat.shape == (2, 3, 4)
    assert found.heat.std() > 0


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
