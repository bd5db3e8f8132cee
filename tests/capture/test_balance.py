"""The rules of a balanced backward, one by one, against formulas with what is constant detached; and what none is known for."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from compare import close
from complete import lively
from torch import nn
from torch.utils.checkpoint import checkpoint
from vits import ViT, photos, timm_vit

from lightning_cam import explain
from lightning_cam.capture.balance.function_mode import BalancingMode

HIRES = {"libra": {"method": "hires_cam"}}
W = torch.linspace(-2, 3, 6, dtype=torch.float64)


def values(seed=0):
    x = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[0, 0, 0] = 0.0  # where x / x is no number
    return x


def sides():
    return torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def balanced(function, x):
    """The value of a function and its gradient by x, of a sum with weights, by the rules."""
    x = x.clone().requires_grad_()
    with BalancingMode({}).running():
        y = function(x)
    return y.detach(), *torch.autograd.grad((y * weights(y)).sum(), x)


def plain(function, x):
    """The same by autograd alone."""
    x = x.clone().requires_grad_()
    y = function(x)
    return y.detach(), *torch.autograd.grad((y * weights(y)).sum(), x)


def weights(y):
    return torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)


def exponentials(x):
    return torch.exp(x) / torch.exp(x).sum(-1, keepdim=True)


def deviation(x, axes, eps):
    return ((x - x.mean(axes, keepdim=True)) ** 2).mean(axes, keepdim=True).add(eps).sqrt().detach()


def half(x):
    return x / 2 + x.detach() / 2


def squared_by_hand(x):
    """As in ConvNeXt v2's norm of responses."""
    size = x.norm(dim=1, keepdim=True)
    return x + torch.addcmul(W, W, x * (size / (size.mean(-1, keepdim=True) + 1e-6)))


def rotated(x):
    """As positions are turned into queries, written into a buffer."""
    out = torch.zeros_like(x)
    out[..., ::2] = -x[..., 1::2]
    out[..., 1::2] = x[..., ::2]
    return out * W + x * (1 - W)


def in_place(x):
    """A gate, and a change of a part, written where the features are."""
    x = x.clone()
    x[:, 1:].mul_(x[:, 1:].sigmoid())
    x += 1
    x[:, :1] *= 2
    return F.silu(x, inplace=True)


def in_place_by_hand(x):
    gate = torch.cat([torch.ones_like(x[:, :1]), x[:, 1:].sigmoid()], 1).detach()
    x = x * gate + 1
    x = torch.cat([2 * x[:, :1], x[:, 1:]], 1)
    return x * x.sigmoid().detach()


def attended(x):
    return F.scaled_dot_product_attention(x @ K, x, 2 * x, torch.zeros(4, 4, dtype=x.dtype), scale=0.3)


K = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MHA = nn.MultiheadAttention(6, 2, batch_first=True).double().eval()
RULES = {
    "gelu": (F.gelu, lambda x: x * ((1 + torch.erf(x / math.sqrt(2))) / 2).detach()),
    "gelu by tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))).detach() / 2,
    ),
    "gelu by hand": (
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))).detach() / 2,
    ),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: x / (1 + torch.exp(-1.702 * x)).detach()),
    "silu": (nn.SiLU(), lambda x: x / (1 + torch.exp(-x)).detach()),
    "hardswish": (nn.Hardswish(), lambda x: x * ((x + 3).clamp(0, 6) / 6).detach()),
    "mish": (nn.Mish(), lambda x: x * torch.tanh(torch.log1p(torch.exp(x))).detach()),
    "glu": (nn.GLU(1), lambda x: x[:, :2] / (1 + torch.exp(-x[:, 2:])).detach()),
    "square of relu": (lambda x: F.relu(x) ** 2, lambda x: x.relu() * x.relu().detach()),
    "SwiGLU": (
        lambda x: F.silu(x[:, :2]) * x[:, 2:],
        lambda x: half(x[:, :2] / (1 + torch.exp(-x[:, :2])).detach()) * half(x[:, 2:]),
    ),
    "squeeze and excitation": (
        lambda x: x * F.hardsigmoid(x.mean(2, keepdim=True)),
        lambda x: x * ((x.mean(2, keepdim=True) + 3).clamp(0, 6) / 6).detach(),
    ),
    "layer norm": (
        lambda x: F.layer_norm(x, (6,), W, W + 1, 0.1),
        lambda x: (x - x.mean(-1, keepdim=True)) / deviation(x, -1, 0.1) * W + W + 1,
    ),
    "layer norm over two axes": (
        nn.LayerNorm((4, 6), elementwise_affine=False).double(),
        lambda x: (x - x.mean((1, 2), keepdim=True)) / deviation(x, (1, 2), 1e-5),
    ),
    "layer norm by hand": (
        lambda x: (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 0.1),
        lambda x: (x - x.mean(-1, keepdim=True)) / deviation(x, -1, 0.1),
    ),
    "layer norm of variance and mean": (
        lambda x: (
            (x - torch.var_mean(x, -1, keepdim=True)[1])
            * torch.rsqrt(torch.var_mean(x, dim=-1, correction=0, keepdim=True)[0] + 0.1)
        ),
        lambda x: (x - x.mean(-1, keepdim=True)) / deviation(x, -1, 0.1),
    ),
    "rms norm": (
        lambda x: F.rms_norm(x, (6,), W, 0.1),
        lambda x: x / ((x**2).mean(-1, keepdim=True) + 0.1).sqrt().detach() * W,
    ),
    "rms norm without options": (
        lambda x: torch.rms_norm(x, (6,)),
        lambda x: x / ((x**2).mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt().detach(),
    ),
    "rms norm by hand": (
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1),
        lambda x: x / ((x**2).mean(-1, keepdim=True) + 0.1).sqrt().detach(),
    ),
    "length": (lambda x: F.normalize(x, dim=-1), lambda x: x / (x**2).sum(-1, keepdim=True).sqrt().detach()),
    "cosine": (
        lambda x: F.cosine_similarity(W.expand(2, 4, 6), x, dim=-1),
        lambda x: (x * W).sum(-1) / ((x**2).sum(-1).sqrt() * W.norm()).detach(),
    ),
    "norm of responses": (
        squared_by_hand,
        lambda x: (
            x + W + W * x * (x.norm(dim=1, keepdim=True) / (x.norm(dim=1, keepdim=True).mean(-1, keepdim=True) + 1e-6)).detach()
        ),
    ),
    "attention": (attended, lambda x: exponentials(0.3 * (x @ K) @ x.mT).detach() @ (2 * x)),
    "attention by hand": (
        lambda x: torch.einsum("bij,bjc->bic", ((x @ K) @ x.mT - 1).softmax(-1), x),
        lambda x: exponentials((x @ K) @ x.mT).detach() @ x,
    ),
    "attention by exponentials": (
        lambda x: (torch.exp(x @ x.mT) / torch.exp(x @ x.mT).sum(-1, keepdim=True)).bmm(x),
        lambda x: exponentials(x @ x.mT).detach() @ x,
    ),
    "positions": (rotated, rotated),
    "in place": (in_place, in_place_by_hand),
}
OF_MAPS = {
    "group norm": (
        lambda x: F.group_norm(x, 2, W[:4], W[2:], 0.1),
        lambda x: (
            (
                (x.reshape(2, 2, 18) - x.reshape(2, 2, 18).mean(2, keepdim=True)) / deviation(x.reshape(2, 2, 18), 2, 0.1)
            ).reshape(x.shape)
            * W[:4, None, None]
            + W[2:, None, None]
        ),
    ),
    "instance norm": (
        nn.InstanceNorm2d(4).double(),
        lambda x: (x - x.mean((2, 3), keepdim=True)) / deviation(x, (2, 3), 1e-5),
    ),
    "response norm": (
        lambda x: F.local_response_norm(x, 3, alpha=3.0),
        lambda x: (
            x / torch.stack([1 + 3 * (x[:, max(k - 1, 0) : k + 2] ** 2).sum(1) / 3 for k in range(4)], 1).pow(0.75).detach()
        ),
    ),
    "batch norm": (
        lambda x: F.batch_norm(x, W[:4], W[2:].abs() + 1, W[1:5]),
        lambda x: (x - W[:4, None, None]) / (W[2:].abs() + 1 + 1e-5).sqrt()[:, None, None] * W[1:5, None, None],
    ),
}


@pytest.mark.parametrize("rule", [*RULES, *OF_MAPS])
def test_a_rule_is_its_formula_with_the_value_as_ever(rule):
    function, formula = {**RULES, **OF_MAPS}[rule]
    x = sides() if rule in OF_MAPS else values()
    value, gradient = balanced(function, x)
    own_value, own_gradient = plain(function, x)
    expected_value, expected = plain(formula, x)
    assert torch.equal(value, own_value)
    close(value, expected_value, 1e-10)
    close(gradient, expected, 1e-10)
    if rule not in ("positions", "batch norm"):  # these are linear as they are
        assert (gradient - own_gradient).abs().max() > 1e-3 * expected.abs().max()


def test_a_gate_at_zero_is_its_limit():
    x = torch.zeros(1, dtype=torch.float64)
    for function, limit in ((F.gelu, 0.5), (F.silu, 0.5), (F.hardswish, 0.5), (F.mish, 0.6)):
        close(balanced(function, x)[1], torch.full_like(x, limit), 1e-12)


@pytest.mark.parametrize("weighed", [True, False])
def test_torchs_own_multihead_attention_is_met_within(weighed):
    """Both of its ways: with weights returned, and without."""
    x = values()
    options = dict(need_weights=weighed, average_attn_weights=False)
    value, gradient = balanced(lambda x: MHA(x, x, x, **options)[0], x)
    p = MHA(x, x, x, average_attn_weights=False)[1].detach()
    w, b = MHA.in_proj_weight[12:].detach(), MHA.in_proj_bias[12:].detach()

    def formula(x):
        v = (x @ w.T + b).unflatten(-1, (2, 3)).transpose(1, 2)
        return F.linear((p @ v).transpose(1, 2).flatten(2), MHA.out_proj.weight.detach(), MHA.out_proj.bias.detach())

    expected_value, expected = plain(formula, x)
    close(value, expected_value, 1e-10)
    close(gradient, expected, 1e-10)


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.function = torch.jit.script(scripted)

    def forward(self, x):
        return self.function(x)


def scripted(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) + x


class Kernel(torch.autograd.Function):
    """As a kernel that brings a backward of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.sigmoid() * (1 - x.sigmoid())


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


WITHOUT_RULE = {
    "tanh": (torch.tanh, "tanh"),
    "tanh in place": (lambda x: x.clone().tanh_(), "tanh"),
    "tanh of a part, in place": (lambda x: part_in_place(x), "tanh"),
    "sigmoid": (nn.Sigmoid(), "sigmoid"),
    "softmax": (nn.Softmax(-1), "softmax"),
    "softplus": (F.softplus, "softplus"),
    "elu": (nn.ELU(), "elu"),
    "sin": (torch.sin, "sin"),
    "tanh, scaled by a weight": (lambda x: x.tanh() * nn.Parameter(torch.ones(8).double()), "tanh"),
    "sin as a gate": (lambda x: x * x.sin(), "sin"),
    "exp": (lambda x: x.exp() + x, "exp"),
    "cube": (lambda x: x**3, "pow"),
    "logsumexp": (lambda x: x.logsumexp(-1, keepdim=True) + x, "logsumexp"),
    "division by features": (lambda x: x / x.sum(-1, keepdim=True), "div"),
    "one over features": (lambda x: x * (1 / (2 + x.relu())), "reciprocal"),
    "rounded division": (lambda x: torch.div(x, 1 + x.norm(), rounding_mode="floor") + x.sinh(), "sinh"),
    "features times features": (lambda x: x @ x.mT @ x, "matmul"),
    "three features": (lambda x: torch.einsum("bnc,bnc,bnc->bnc", x, x, x), "einsum"),
    "weights of features": (lambda x: F.linear(x[0], x[1, :, :].detach() * x[1]).mean() + x, "linear"),
    "norm by the batch": (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm"),
    "weights of a norm": (lambda x: F.layer_norm(x, (8,), x[0, 0]), "layer_norm"),
    "a kernel": (Kernel.apply, "KernelBackward"),
    "scripted": (Scripted(), ".*Backward0?"),
}


def part_in_place(x):
    x = x.clone()
    x[:, 2:].tanh_()
    return x


def with_function(function):
    """A ViT in which the second block's GELU is something else."""
    net = lively(ViT(prefix=0, pool="mean"))
    net.blocks[1] = Calling(function).double()
    return net


def refusal(name, where):
    return rf"libra has no rule for '{name}' in '{where}', and the score depends on the layer through it.*would not add up.*"


@pytest.mark.parametrize("case", WITHOUT_RULE)
def test_a_function_without_a_rule_is_refused_by_name_with_its_module_and_what_to_write(case):
    function, name = WITHOUT_RULE[case]
    net, x = with_function(function), photos()
    where = "blocks.1"
    if isinstance(function, nn.Module):
        where = "blocks.1.function"
    with pytest.raises(ValueError, match=refusal(name, where) + r'behind it.*without libra.*method="grad_cam"'):
        explain(net, x, layer="blocks.0", method=HIRES)
    if case == "tanh":  # the ways out
        assert explain(net, x, layer="blocks.0", method="grad_cam").heat.any()
        assert explain(net, x, layer="blocks.1", method=HIRES).heat.any()
        assert explain(net, x, layer="blocks.0", method={"libra": {"method": "activation_mean"}}).heat.any()


def test_what_no_gradient_reaches_is_not_refused():
    """Before a softmax that attends, in a gate, and where the score does not look."""
    x = values()
    close(balanced(lambda x: x.sin().softmax(-1) @ x.mT, x)[1], plain(lambda x: x.sin().softmax(-1).detach() @ x.mT, x)[1])
    close(balanced(lambda x: x * (1 + x.sinh()).sigmoid(), x)[1], (1 + x.sinh()).sigmoid() * weights(x))
    close(balanced(lambda x: torch.cat([x, x.sin() * 0], 1)[:, :4], x)[1], weights(x))
    with pytest.raises(ValueError, match="libra has no rule for 'sin' in 'the target'"):
        balanced(lambda x: torch.cat([x, x.sin()], 1), x)


@pytest.mark.parametrize("target", ["log_probability", "softmax_probability"])
def test_a_target_that_is_no_logit_is_refused_with_the_logit_as_the_way_out(target):
    net, x = ViT(), photos()
    name = {"log_probability": "log_softmax", "softmax_probability": "softmax"}[target]
    with pytest.raises(ValueError, match=refusal(name, "the target") + 'explain the logit, target="predicted"'):
        explain(net, x, layer="blocks.0", method=HIRES, target=target)
    assert explain(net, x, layer="blocks.0", method=HIRES, target="predicted").heat.any()


class Gated(nn.Module):
    """A map multiplied with a gate, which is made of the map or of the image."""

    def __init__(self, how: str, of_the_map: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.of_the_map = how, of_the_map
        self.net, self.behind = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU()), nn.Conv2d(4, 4, 3)
        self.gate = nn.Conv2d(4 if of_the_map else 3, 4, 3, 1, 1)
        self.squeeze = nn.Linear(4, 4)
        self.double()

    def forward(self, x):
        y = self.net(x)
        gate = self.gate(y if self.of_the_map else x)
        if self.how == "squeeze and excitation":
            gate = self.squeeze(gate.mean((2, 3))).sigmoid()[..., None, None]
        elif self.how == "in place":
            gate = gate.sigmoid_()
        else:
            gate = gate.sigmoid()
        return self.behind(y * gate).mean((2, 3))


@pytest.mark.parametrize("of_the_map", [False, True])
@pytest.mark.parametrize("how", ["a gate", "in place", "squeeze and excitation"])
def test_a_layer_that_feeds_only_a_gate_is_refused_with_what_is_true_and_what_to_write(how, of_the_map):
    net, x = Gated(how, of_the_map), photos()
    out = r'Name a layer from which what is multiplied comes, or one behind the product, or .*such as method="grad_cam"\.'
    told = r"through 'sigmoid' in 'the model', a gate, and what that multiplies does not depend on the layer\..*holds gates.*"
    with pytest.raises(ValueError, match=told + out):
        explain(net, x, layer="gate", method=HIRES)
    told = r"With libra nothing of the score reaches the layer 'gate': .* holds constant \(a gate, .*or not at all\. "
    for layers in (["net", "gate"], ["gate", "net"]):
        with pytest.raises(ValueError, match=told + out):
            explain(net, x, layer=layers, fuse="mean", method=HIRES)
        assert explain(net, x, layer=layers, fuse="mean", method="grad_cam").heat.any()
    assert explain(net, x, layer="gate", method="grad_cam").heat.any()
    for layer in ("net", "behind"):
        assert explain(net, x, layer=layer, method=HIRES).heat.any()


@pytest.mark.parametrize("how", ["fused", "written"])
def test_a_layer_that_feeds_only_queries_and_keys_is_refused_as_a_gate(how):
    class Asked(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net, self.asking = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(3, 4, 4, 4)
            self.double()

        def forward(self, x):
            q, v = self.asking(x).flatten(2).mT, self.net(x).flatten(2).mT
            if how == "fused":
                return F.scaled_dot_product_attention(q, v, v).mean(1)
            return ((q @ v.mT).softmax(-1) @ v).mean(1)

    net, x = Asked(), photos()
    name = {"fused": "scaled_dot_product_attention", "written": "softmax"}[how]
    with pytest.raises(ValueError, match=f"through '{name}' in 'the model', a gate, and what that multiplies does not depend"):
        explain(net, x, layer="asking", method=HIRES)
    assert explain(net, x, layer="asking", method="grad_cam").heat.any()
    assert explain(net, x, layer="net", method=HIRES).heat.any()


@pytest.mark.parametrize("method", ["attention_relevance", "attention_rollout", "le_grad", "grad_eclip"])
def test_a_method_that_reads_attention_is_refused(method):
    net, x = ViT(), photos()
    with pytest.raises(ValueError, match=r'holds attention constant.*method="attention_relevance", or libra with.*grad_cam'):
        explain(net, x, layer="blocks.0", method={"libra": {"method": method}})
    assert explain(net, x, layer="blocks.0", method="attention_relevance").heat.any()
    assert explain(net, x, layer="blocks.0", method={"libra": {"method": "grad_cam"}}).heat.any()


def test_a_gradient_that_is_zero_on_the_map_is_told_with_libra_too():
    with pytest.raises(ValueError, match=r"exactly zero on the whole map.*Name a layer before the last attention"):
        explain(ViT(), photos(), layer="norm", method=HIRES)


class Checkpointed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block, self.reentrant, self.switched_on = block, False, True

    def forward(self, x):
        if not self.switched_on:
            return self.block(x)
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_is_refused_since_it_runs_the_model_in_the_backward(reentrant):
    net, x = ViT(), photos()
    net.blocks[1] = Checkpointed(net.blocks[1])
    net.blocks[1].reentrant = reentrant
    text = r"gradient checkpointing runs the forward once more.*model.set_grad_checkpointing\(False\)"
    if reentrant:  # a kernel like any other
        text = "libra has no rule for 'CheckpointFunctionBackward' in 'blocks.1'"
    with pytest.raises(ValueError, match=text):
        explain(net, x, layer="blocks.0", method=HIRES)
    net.blocks[1].switched_on = False
    expected = explain(ViT(), x, layer="blocks.0", method=HIRES).heat
    assert torch.equal(explain(net, x, layer="blocks.0", method=HIRES).heat, expected)


def test_models_of_libraries_switch_checkpointing_off_as_the_message_says():
    net, x = timm_vit(), torch.rand(1, 3, 32, 32)
    net.set_grad_checkpointing(True)
    with pytest.raises(ValueError, match="gradient checkpointing"):
        explain(net, x, layer="blocks.0", method=HIRES)
    net.set_grad_checkpointing(False)
    assert explain(net, x, layer="blocks.0", method=HIRES).heat.any()


def test_a_models_own_error_passes_through():
    net = with_function(lambda x: x.reshape(5, 5))
    with pytest.raises(RuntimeError, match="shape '\\[5, 5\\]' is invalid"):
        explain(net, photos(), layer="blocks.0", method=HIRES)
