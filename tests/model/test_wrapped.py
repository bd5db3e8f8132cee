"""Wrappers are seen through, told by hand-written stand-ins of them: by name, as what they wrap, with the weights that act."""

import pytest
import stand_ins
import torch
from compare import close
from lightning.fabric import Fabric
from stand_ins import ModulesToSaveWrapper, as_peft
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations
from zoo import conv_head, gap_linear, images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods.backprop import full_gradients
from lightning_cam.model.head import head_weight
from lightning_cam.model.merged import merged_bias, merged_weight
from lightning_cam.model.names import find_layer, modules_by_name, named_as
from lightning_cam.model.trace import record_calls
from lightning_cam.model.traced_forward import trace_forward
from lightning_cam.model.wrapped import unwrapped, wrapped
from lightning_cam.targets import find

RANKS = {"first": 2, "second": 3}
HEAD = "head.3"


def compiled(module):
    return torch.compile(module, backend="eager")


def by_fabric(module):
    return Fabric(accelerator="cpu", devices=1).setup_module(module)


WRAPPERS = {
    "compiled": (compiled, "_orig_mod."),
    "parallel": (nn.DataParallel, "module."),
    "distributed": (stand_ins.DistributedDataParallel, "module."),
    "sharded": (stand_ins.FullyShardedDataParallel, "_fsdp_wrapped_module."),
    "checkpointed": (checkpoint_wrapper, "_checkpoint_wrapped_module."),
    "fabric": (by_fabric, "_forward_module."),
    "adapted": (as_peft, "base_model.model."),
    "distributed, compiled, adapted": (
        lambda net: stand_ins.DistributedDataParallel(compiled(as_peft(net))),
        "module._orig_mod.base_model.model.",
    ),
    "compiled by fabric": (lambda net: by_fabric(compiled(net)), "_forward_module._orig_mod."),
}


def adapted(net, at=HEAD, ranks=RANKS, kind=stand_ins.Linear, **options):
    """The net with LoRA on a layer, of random weights."""
    torch.manual_seed(3)
    net.set_submodule(at, kind(net.get_submodule(at), ranks, **options).double().eval())
    return net


def acting(layer, c):
    """Weight and bias of a layer by what it does to unit vectors."""
    x = torch.eye(c, dtype=torch.float64)
    if isinstance(unwrapped(layer), nn.Conv2d):
        x = x[:, :, None, None]
    bias = layer(torch.zeros_like(x[:1])).flatten()
    return (layer(x).flatten(1) - bias).T, bias


# ---- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRAPPERS)
def test_names_are_those_of_the_net_without_its_wrapper(kind):
    wrap, level = WRAPPERS[kind]
    plain, net = gap_linear(), wrap(gap_linear())
    assert list(modules_by_name(net)) == list(modules_by_name(plain)) == [name for name, _ in plain.named_modules()]
    for name in ("features", "features.2", HEAD):
        assert find_layer(net, name) == find_layer(net, level + name) == find_layer(plain, level + name) == name
        assert find_layer(net, f"{level}{name}#0") == f"{name}#0"
        assert find_layer(net, net.get_submodule(level + name)) == name
    found = explain(net, images(), target=1)
    assert found.layer == "features"
    assert torch.equal(found.heat, explain(plain, images(), target=1).heat)
    assert torch.equal(found.heat, explain(net, images(), target=1, layer=f"{level}features").heat)


def test_levels_inside_a_net_are_left_out_of_its_names():
    net = adapted(gap_linear())
    net.features[2] = nn.Sequential(stand_ins.Conv2d(nn.Conv2d(5, 6, 1), RANKS), compiled(nn.ReLU()))
    net.features[1] = checkpoint_wrapper(net.features[1])
    net.head[0] = ModulesToSaveWrapper(nn.Sequential(net.head[0]), {"a": nn.Sequential(nn.AdaptiveAvgPool2d(1))})
    names = [name for name in modules_by_name(net) if name]
    assert names == [
        "features", "features.0", "features.1", "features.2", "features.2.0", "features.2.1", "features.3",
        "head", "head.0", "head.0.0", "head.1", "head.2", "head.3",
    ]  # fmt: skip
    for spelling in ("features.2.0", "features.2.0.base_layer", "base_model.model.features.2.0.base_layer"):
        assert find_layer(net, spelling) == "features.2.0"
    assert find_layer(net, "head.0.modules_to_save.a.0") == find_layer(net, "head.0.0") == "head.0.0"
    assert find_layer(net, net.features[2][0].base_layer) == "features.2.0"
    # of a run whose wrappers this one does not have
    assert find_layer(gap_linear(), "base_model.model.head.3.base_layer") == HEAD
    assert find_layer(gap_linear(), "head.modules_to_save.default.3") == HEAD


class Own(nn.Module):
    """Attributes of a user's that are called as wrappers' are."""

    def __init__(self):
        super().__init__()
        self.module, self.base_model = nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU())
        self.base_model.model, self.base_layer = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.base_layer(self.base_model.model(self.base_model[0](self.module(x)))).mean((2, 3)))


def test_a_users_own_attributes_of_these_names_stay():
    net, x = Own(), torch.rand(1, 3, 12, 12)
    names = [name for name, _ in net.named_modules()]
    assert list(modules_by_name(net)) == names
    for name in names[1:]:
        assert find_layer(net, name) == find_layer(compiled(net), name) == find_layer(as_peft(net), name) == name
    assert explain(net, x, layer="module").layer == "module"
    assert explain(net, x).layer == explain(as_peft(net), x).layer == "base_layer"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.module = nn.Conv2d(3, 4, 3), nn.Sequential()
        self.module.layer = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.module.layer(self.layer(x)).mean((2, 3))


def test_a_name_of_two_meanings_is_refused_with_two_that_have_one():
    net, x = stand_ins.DistributedDataParallel(Twice()), torch.rand(1, 3, 12, 12)
    message = "'module.layer' may or may not hold a wrapper's level, and so means two layers. "
    with pytest.raises(ValueError) as refused:
        find_layer(net, "module.layer")
    assert str(refused.value) == message + "Name 'layer' or 'module.module.layer'."
    assert find_layer(net, "layer") == "layer"
    assert find_layer(net, "module.module.layer") == "module.layer"
    assert explain(net, x, layer="layer").layer == "layer"
    assert explain(net, x, layer="module.module.layer").heat.shape[1:] == (8, 8)
    # without the wrapper each name has one meaning; with a level too many, two
    assert find_layer(Twice(), "module.layer") == "module.layer"
    with pytest.raises(ValueError, match=r"Name 'layer' or 'module\.layer'"):
        find_layer(Twice(), "_orig_mod.module.layer")


def test_branches_and_copies_that_do_not_run_are_refused_with_the_layer_to_name():
    net = adapted(gap_linear())
    net.features[3] = ModulesToSaveWrapper(nn.ReLU(), {"a": nn.ReLU(), "b": nn.ReLU()})
    net.features[0] = parametrizations.weight_norm(net.features[0])
    net = as_peft(net.double())
    parts = {
        "head.3.lora_A.first": HEAD,
        "base_model.model.head.3.lora_B.second": HEAD,
        "features.3.original_module": "features.3",
        "base_model.model.features.3.modules_to_save.b": "features.3",
        "features.0.parametrizations.weight": "features.0",
    }
    for part, layer in parts.items():
        for way in (part, net.get_submodule("base_model.model." + part.removeprefix("base_model.model."))):
            with pytest.raises(ValueError, match=rf"is no layer of its own: .* inside the \w+ '{layer}'\. Name '{layer}'\."):
                find_layer(net, way)
        assert find_layer(net, layer) == layer
    assert find_layer(net, "features.3.modules_to_save.a") == "features.3"
    with pytest.raises(ValueError, match=r"has no layer 'head\.3\.lora_C'\. Did you mean"):
        find_layer(net, "head.3.lora_C")
    with pytest.raises(ValueError, match=r"'base_model\.model' is the whole model"):
        find_layer(net, "base_model.model")
    with pytest.raises(ValueError, match="The layer given, a ReLU, is not part of the PeftModel"):
        find_layer(net, nn.ReLU())


def test_names_that_may_be_meant():
    assert named_as("module.layer4", ["module.layer4", "layer4"]) == ["module.layer4"]
    assert named_as("_orig_mod.module.layer4", ["module.layer4", "layer4"]) == ["module.layer4", "layer4"]
    assert named_as("modules_to_save.module.fc", ["fc", "c"]) == ["fc"]
    assert named_as("_orig_mod", ["", "fc"]) == []


# ---- what is recorded --------------------------------------------------------------------------------------------------


def test_a_wrapper_is_called_once_and_branches_are_not_layers():
    net = adapted(gap_linear())
    net.features = compiled(net.features)
    net.features._orig_mod[0] = parametrizations.weight_norm(net.features._orig_mod[0])
    x = images().double()
    with torch.compiler.set_stance("force_eager"), record_calls(net, x.shape) as calls:
        net(x)
    assert [call.name for call in calls] == [
        "features.0", "features.1", "features.2", "features.3", "features", "head.0", "head.1", "head.2", HEAD, "head", ""
    ]  # fmt: skip
    assert calls[-3].module is net.head[3] and calls[-3].layer is net.head[3].base_layer


def test_a_parametrized_weight_is_no_map():
    """A weight [b c 3 3] of a convolution that is computed in the forward looks like a batch of maps."""
    net, x = gap_linear(), images()
    net.features[2] = parametrizations.weight_norm(net.features[2])
    net.features[2].parametrizations.weight.original1.data = torch.rand(6, 5, 3, 3, dtype=torch.float64)
    x = torch.cat([x, x])
    assert len(x) == 6
    assert explain(net, x).layer == "features"
    with record_calls(net, x.shape) as calls:
        net(x)
    assert not [call.name for call in calls if "parametrizations" in call.name]


def test_the_copy_that_runs_is_the_active_one():
    original, first, second = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
    wrapper = ModulesToSaveWrapper(original, {"first": first, "second": second})
    assert wrapped(wrapper) == ("modules_to_save.first", first)
    wrapper.active_adapters = ["second"]
    assert unwrapped(wrapper) is second
    wrapper.active_adapters = ["third"]
    assert unwrapped(wrapper) is original
    wrapper.active_adapters = []
    assert unwrapped(wrapper) is original
    wrapper.active_adapters, wrapper.disable_adapters = ["first"], True
    assert unwrapped(wrapper) is original
    assert wrapped(original) is None


# ---- weights -----------------------------------------------------------------------------------------------------------


def states(layer):
    """A layer in every state that its adapters may have."""
    yield "both"
    layer.active_adapters = ["second"]
    yield "one of two"
    layer.active_adapters = ["second", "another"]
    yield "one that is not here"
    layer.active_adapters = []
    yield "none"
    layer.active_adapters, layer.disable_adapters = ["first"], True
    yield "switched off"
    layer.disable_adapters, layer.merged_adapters = False, ["first"]
    yield "merged"


@pytest.mark.parametrize("options", [dict(), dict(bias=True), dict(dora=True)], ids=str)
def test_the_weights_are_those_that_act(options):
    layer = adapted(gap_linear(), **options).head[3]
    differ = set()
    for state in states(layer):
        weight, bias = acting(layer, 6)
        close(merged_weight(layer), weight.detach())
        close(merged_bias(layer), bias.detach())
        differ.add(merged_weight(layer).sum().item())
        assert not merged_weight(layer).requires_grad, state
    assert len(differ) == 3


def test_the_weights_of_a_convolution_and_without_a_bias_are_those_that_act():
    layer = adapted(conv_head(), "head.1", kind=stand_ins.Conv2d, bias=True).head[1]
    for _ in states(layer):
        weight, bias = acting(layer, 6)
        close(merged_weight(layer).flatten(1), weight.detach())
        close(merged_bias(layer), bias.detach())
    layer.base_layer.bias, layer.merged_adapters, layer.active_adapters = None, [], ["first"]
    close(merged_bias(layer), acting(layer, 6)[1].detach())
    assert merged_bias(nn.Linear(3, 3, bias=False)) is None


def test_an_adapter_on_an_adapter_and_on_a_copy():
    layer = stand_ins.Linear(adapted(gap_linear()).head[3], {"third": 2}).double()
    close(merged_weight(layer), acting(layer, 6)[0].detach())
    close(merged_weight(compiled(layer)), acting(layer, 6)[0].detach())
    copies = ModulesToSaveWrapper(nn.Linear(6, 4).double(), {"a": layer})
    close(merged_weight(copies), acting(copies, 6)[0].detach())


def test_half_precision_is_merged_in_single():
    layer = adapted(gap_linear()).head[3].to(torch.bfloat16)
    exact = merged_weight(layer)
    assert exact.dtype == torch.float32
    close(exact, merged_weight(layer.float()), 1e-6)


NORMS = {"weight_norm": nn.utils.weight_norm, "parametrized": parametrizations.weight_norm}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("kind", [*NORMS, "compiled", "copy", "adapted"])
def test_cam_takes_what_acts_for_the_classifiers_weights(kind):
    net, x = gap_linear(), images()
    head = net.head[3]
    if kind == "compiled":
        net.head[3] = compiled(head)
    elif kind == "copy":
        net.head = ModulesToSaveWrapper(nn.Sequential(nn.Flatten(), nn.Linear(9, 9)), {"a": net.head})
    elif kind == "adapted":
        adapted(net, bias=True)
    else:
        net.head[3] = NORMS[kind](head)
        length = head.weight_g if kind == "weight_norm" else head.parametrizations.weight.original0
        length.data *= 3  # it acts by another length than it was made with
    weight, _ = acting(net.head[3] if kind != "copy" else head, 6)
    heat = explain(net, x, method="cam", target=1).heat
    a = net.features(x.double()).detach()
    close(heat, torch.einsum("c,bcuv->buv", weight[1].detach(), a).float(), 1e-6)
    for spelling in (HEAD, "base_model.model.head.modules_to_save.default.3"):
        assert torch.equal(explain(net, x, method={"cam": {"head": spelling}}, target=1).heat, heat)


def test_look_alikes_are_those_by_the_weights_that_act():
    net, x = adapted(gap_linear(k=6)), images()
    with record_calls(net, x.shape) as calls:
        logits = net(x.double())
    weight = head_weight(calls, logits)
    close(weight, acting(net.head[3], 6)[0].detach())
    rows = torch.nn.functional.normalize(weight)
    similar = (rows @ rows.T)[1].argsort(descending=True)[1:4].tolist()
    rows = torch.nn.functional.normalize(net.head[3].base_layer.weight)
    assert similar != (rows @ rows.T)[1].argsort(descending=True)[1:4].tolist()
    by_weights = explain(net, x, target={"contrast": {"classes": 1}})
    named = explain(net, x, target={"contrast": {"classes": 1, "similar": similar}})
    close(by_weights.heat, named.heat, 1e-6)


def unreadable():
    quantised, other = gap_linear(), adapted(gap_linear(), kind=stand_ins.SVDLinear)
    quantised.head[3] = stand_ins.Linear4bit(quantised.head[3])
    both = gap_linear()
    both.head[3] = stand_ins.Linear4bit(both.head[3])
    both.head[3] = adapted(gap_linear()).head[3]
    both.head[3].base_layer = stand_ins.Linear4bit(both.head[3].base_layer)
    return {"quantised": quantised, "adapted and quantised": both, "of another kind": other}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("quantised", r"this Linear4bit cannot be read: they are packed or sharded, \(12, 1\) of torch.uint8 for 4 outputs\. "),
        ("adapted and quantised", r"this Linear4bit cannot be read: they are packed or sharded, \(12, 1\) of torch.uint8"),
        ("of another kind", r"under the adapter 'first' cannot be read: stand_ins.SVDLinear is neither LoRA nor DoRA\. "),
    ],
)
def test_weights_that_cannot_be_read_are_refused_where_they_are_needed(kind, message):
    net, x = unreadable()[kind], images()
    with pytest.raises(ValueError, match=f"cam needs the weights of the classifier 'head.3'. .*{message}.*Or use grad_cam"):
        explain(net, x, method="cam", target=1)
    with pytest.raises(ValueError, match=r"whose weights can be read \(not packed .*'similar': \[3, 7\].*or use 'rivals'"):
        explain(net, x, target={"contrast": {"classes": 1}})
    # each line that is named works, and nothing else asks for the weights
    for target in (1, {"contrast": {"classes": 1, "similar": [3, 0]}}, {"rivals": {"classes": 1}}):
        found = explain(net, x, method="grad_cam", target=target)
        assert found.layer == "features" and found.heat.any()


def test_an_adapter_that_does_not_act_needs_no_formula():
    net, x = unreadable()["of another kind"], images()
    net.head[3].disable_adapters = True
    expected = explain(gap_linear(), x, method="cam", target=1).heat
    assert torch.equal(explain(net, x, method="cam", target=1).heat, expected)


def test_a_grouped_convolution_under_an_adapter_is_refused():
    layer = stand_ins.Conv2d(nn.Conv2d(4, 4, 1, groups=2), {"a": 2})
    with pytest.raises(ValueError, match="the adapter 'a' cannot be read: its convolution has groups"):
        merged_weight(layer)


def test_nothing_is_read_of_a_layer_without_weights():
    with pytest.raises(ValueError, match="A ReLU has no weights that can be read"):
        merged_weight(nn.ReLU())


def test_full_gradients_count_the_biases_that_act():
    """By completeness: of a piecewise linear net they sum to the score."""
    for options in (dict(bias=True), dict(dora=True)):
        net, x = adapted(gap_linear(), **options), images().double()
        net.features[0] = ModulesToSaveWrapper(nn.Conv2d(3, 5, 3), {"a": net.features[0]})
        with open_session(net, ["features"]) as session:
            seen = Seen(session.forward(x, find(1)), "features")
            of_image, of_biases = full_gradients(seen)
        total = of_image.flatten(1).sum(1) + sum(bias.flatten(1).sum(1) for bias in of_biases)
        close(total, seen.score)


class Attends(nn.Module):
    """Attention straight behind a convolution, without a norm between them."""

    def __init__(self):
        super().__init__()
        self.stem, self.attn, self.head = nn.Conv2d(3, 6, 4, 4), SelfAttention(6), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.attn(self.stem(x).flatten(2).mT).mean(1))


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(torch.nn.functional.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("is_adapted", [False, True])
def test_a_projection_under_an_adapter_is_part_of_its_attention_and_what_runs_before_it_is_not(is_adapted):
    torch.manual_seed(3)
    net = Attends().double().eval()
    if is_adapted:
        adapted(net, "attn.qkv")
    x = images(1)
    forward = trace_forward(net, x.shape, lambda: net(x), within=False)
    parts = {forward.calls[i].name for i in forward.attention_parts}
    assert parts == {"attn.qkv", "attn.proj"}
