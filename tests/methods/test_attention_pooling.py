"""Tokens pooled by attention: against slow references and identities."""

import functools

import maps
import pytest
import reference_pooling as reference
import torch
import torch.nn.functional as F
from compare import close
from maps import CLASSES
from poolers import KINDS, Pool, Pooled
from reference_attention import attention_relevance, attention_rollout, le_grad
from torch import nn
from vits import HEADS, WIDTH, ViT, attention_of, photos

from lightning_cam import explain
from lightning_cam.methods.attention import rollout

REFERENCES = {
    "attention_rollout": reference.rollout,
    "attention_relevance": reference.relevance,
    "le_grad": reference.le_grad,
    "grad_eclip": reference.grad_eclip,
}
UNFUSED = ["two latents, their mean", "all attend, the mean is read", "no blocks"]
CASES = [*((kind, "fused") for kind in KINDS), *((kind, how) for kind in UNFUSED for how in ("written", "multi head"))]
D = WIDTH // HEADS

heat = functools.partial(maps.heat, layer="patch")


@pytest.mark.parametrize(("kind", "how"), CASES)
@pytest.mark.parametrize("method", REFERENCES)
def test_method_equals_its_reference_however_the_pooling_is_called(method, kind, how):
    net, x = Pooled(**KINDS[kind], how=how), photos()
    if (method, how) == ("grad_eclip", "written"):  # queries and keys are its own
        with pytest.raises(ValueError, match=r"as in 'pooling'.*fused_attn=True.*write method=\"attention_relevance\""):
            heat(net, x, method)
        return
    expected = REFERENCES[method](net, x, CLASSES)
    assert expected.std() > 0
    close(heat(net, x, method), expected)


class OnOne(Pool):
    """Each probe attends to the last token alone."""

    def gather(self, probes, tokens):
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (self.q(probes), self.k(tokens), self.v(tokens)))
        mask = torch.arange(tokens.shape[1]) == tokens.shape[1] - 1
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(probes.shape[1], -1)).transpose(1, 2).flatten(2)


def pooled_on_one(**options):
    net = Pooled(**options)
    net.pooling.__class__ = OnOne
    return net


@pytest.mark.parametrize("prefix", [0, 3])
def test_a_pooling_of_a_single_token_is_that_tokens_row_of_the_rollout(prefix):
    net, x = pooled_on_one(prefix=prefix), photos()
    row = rollout(attention_of(net, x))[:, -1, prefix:].reshape(3, 2, 3)
    close(heat(net, x, "attention_rollout"), row, 1e-14)
    alone = heat(pooled_on_one(depth=0), x, "attention_rollout")
    assert torch.equal(alone, F.one_hot(torch.tensor(5), 6).double().reshape(1, 2, 3).expand(3, 2, 3))


def test_uniform_attention_gives_a_uniform_map_whose_sum_is_one():
    for depth in (0, 2):
        net, x = Pooled(depth=depth), photos()
        for q in (net.pooling.q, *(block.attn.qkv for block in net.blocks)):
            q.weight.data[:WIDTH] = 0  # no queries
            q.bias.data[:WIDTH] = 0
        found = heat(net, x, "attention_rollout")
        assert (found - 1 / 6).abs().max() < 1e-14


@pytest.mark.parametrize("given", ["all", "mean first"])
def test_a_rollout_and_what_comes_before_the_patches_sum_to_one(given):
    net, x = Pooled(prefix=1 - (given == "mean first"), given=given), photos()
    attention = attention_of(net, x)
    p = attention.readout.attention.probability.detach()
    whole = p.mean(1)[:, 0]
    before = (whole[:, None] @ rollout(attention))[:, 0, 0] if given == "all" else whole[:, 0]
    assert ((heat(net, x, "attention_rollout").sum((1, 2)) + before) - 1).abs().max() < 1e-14


@pytest.mark.parametrize("method", ["le_grad", "attention_relevance", "grad_eclip"])
@pytest.mark.parametrize("kind", ["a latent", "no blocks, all attend"])
def test_a_pooling_of_values_that_are_zero_is_worth_nothing(method, kind):
    net, x = Pooled(**KINDS[kind]), photos()
    net.pooling.v.weight.data.zero_()
    net.pooling.v.bias.data.zero_()
    assert not heat(net, x, method).any()


@pytest.mark.parametrize("method", REFERENCES)
def test_probes_that_are_the_same_share_the_gradient_of_one(method):
    net, twins, x = Pooled(), Pooled(probes=2, summary="mean"), photos()
    twins.load_state_dict({**net.state_dict(), "pooling.latent": net.pooling.latent.expand(1, 2, -1)})
    share = 1.0 if method == "attention_rollout" else 0.5
    close(heat(twins, x, method), share * heat(net, x, method), 1e-12)


def test_behind_a_linear_head_relevance_is_attention_times_what_each_value_is_worth():
    net, x = Pooled(depth=0), photos()
    net.pooling.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    for parameter in net.pooling.mlp.parameters():
        parameter.data.zero_()
    net.double()
    tokens = net.norm(net.embed(x)).detach()
    v = net.pooling.v(tokens).unflatten(2, (HEADS, D))
    worth = (net.head.weight @ net.pooling.proj.weight)[CLASSES].unflatten(1, (HEADS, D))
    gain = torch.einsum("bjhd,bhd->bhj", v, worth).detach()  # dS/dP
    q = net.pooling.q(net.pooling.latent[0, 0]).unflatten(0, (HEADS, D))
    k = net.pooling.k(tokens).unflatten(2, (HEADS, D))
    p = (torch.einsum("hd,bjhd->bhj", q, k) / D**0.5).softmax(2).detach()
    close(heat(net, x, "attention_relevance"), (p * gain).relu().mean(1).reshape(3, 2, 3))
    close(heat(net, x, "le_grad"), gain.relu().mean(1).reshape(3, 2, 3))
    constant = net.head(net.pooling.proj.bias)[CLASSES]
    close((p * gain).sum((1, 2)), (net(x).gather(1, torch.tensor(CLASSES)[:, None])[:, 0] - constant).detach())


@pytest.mark.parametrize("method", REFERENCES)
def test_several_targets_and_single_images_give_what_each_gives_alone(method):
    net, x = Pooled(prefix=1), photos()
    several = explain(net, x, method=method, target=[0, 2]).heat
    for t, c in enumerate((0, 2)):
        close(several[:, t], heat(net, x, method, [c] * 3), 1e-13)
    close(heat(net, x, method)[1:2], heat(net, x[1:2], method, CLASSES[1:2]), 1e-12)


def test_a_head_of_zeros_or_a_score_without_gradient_does_not_hide_the_probes():
    net, x = Pooled(probes=3), photos()
    expected = reference.rollout(net, x, CLASSES)
    close(explain(net, x, method="attention_rollout", target=lambda logits, label: logits[:, 0].detach()).heat, expected)
    net.head.weight.data.zero_()
    close(heat(net, x, "attention_rollout"), expected)


@pytest.mark.parametrize("options", [dict(), dict(how="flat"), dict(prefix=0, pool="mean", how="written")])
def test_a_single_block_is_no_pooling(options):
    net, x = ViT(depth=1, **options), photos()
    assert attention_of(net, x, layer="patch").readout is None
    for method in (attention_rollout, attention_relevance, le_grad):
        close(heat(net, x, method.__name__), method(net, x, CLASSES))


@pytest.mark.parametrize("method", REFERENCES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06), (torch.float16, 0.006)])
def test_lower_precision_stays_near(method, dtype, tolerance):
    net, x = Pooled(prefix=1), photos().bfloat16().double()
    for parameter in net.parameters():
        parameter.data = parameter.data.bfloat16().double()
    exact = heat(net, x, method)
    low = heat(net.to(dtype), x.to(dtype), method)
    assert low.dtype == torch.float32
    close(low.double(), exact, tolerance)


def test_relevance_of_small_gradients_is_not_lost_beside_one():
    net, x = Pooled(prefix=1), photos().float().double()
    for parameter in net.parameters():
        parameter.data = parameter.data.float().double()
    net.head.weight.data.mul_(2.0**-30)
    exact = heat(net, x, "attention_relevance")
    close(heat(net.float(), x.float(), "attention_relevance").double(), exact, 1e-4)


@pytest.mark.parametrize("method", REFERENCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_stays_near(method, dtype):
    net, x = Pooled(prefix=1).float(), photos().float()
    exact = heat(net, x, method)
    with torch.autocast("cpu", dtype):
        low = heat(net, x, method)
    assert low.dtype == torch.float32
    close(low, exact, 0.1)
