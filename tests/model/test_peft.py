"""The real peft: a net with adapters is explained as its merged twin, by the same names, and nothing of it is changed."""

import copy
import functools

import pytest
import timm
import torch
from compare import close, close_and_alive
from families import made
from nets import Net, cam, loader
from stand_ins import DistributedDataParallel
from torch import nn
from torchvision import models
from traces import differences, model_state, traced
from vits import ViT, photos
from zoo import conv_head, gap_linear, images

from lightning_cam import explain
from lightning_cam.model.head import head_weight
from lightning_cam.model.merged import merged_bias, merged_weight
from lightning_cam.model.names import find_layer, modules_by_name
from lightning_cam.model.trace import record_calls
from lightning_cam.model.wrapped import unwrapped
from lightning_cam.no_trace import no_trace

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

HEAD = "head.3"


def with_lora(net, targets, **options):
    """Random adapters, of which peft's own B = 0 would show nothing."""
    torch.manual_seed(5)
    config = peft.LoraConfig(**dict(r=3, lora_alpha=7, target_modules=targets, init_lora_weights=False) | options)
    return peft.get_peft_model(net, config).double().eval()


def merged(net):
    return copy.deepcopy(net).merge_and_unload()


def of(net, name=HEAD):
    return modules_by_name(net)[name]


# ---- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [dict(), dict(use_rslora=True), dict(lora_bias=True), dict(use_dora=True)], ids=str)
@pytest.mark.parametrize(("make", "name"), [(gap_linear, HEAD), (conv_head, "head.1")])
def test_the_weights_are_those_that_peft_merges(make, name, options):
    net = with_lora(make(), [name], **options)
    for part in net.modules():  # magnitudes as they begin would make DoRA the same as LoRA
        for magnitude in getattr(part, "lora_magnitude_vector", {}).values():
            magnitude.weight.data *= torch.rand_like(magnitude.weight) + 0.5
    twin = merged(net).get_submodule(name)
    close(merged_weight(of(net, name)), twin.weight)
    close(merged_bias(of(net, name)), twin.bias)
    assert not torch.equal(twin.weight, unwrapped(of(net, name)).weight)
    net.disable_adapter_layers()
    assert torch.equal(merged_weight(of(net, name)), unwrapped(of(net, name)).weight)


def test_two_adapters_switched_merged_and_off():
    net = with_lora(gap_linear(), [HEAD])
    net.add_adapter("other", peft.LoraConfig(r=2, target_modules=[HEAD], init_lora_weights=False))
    net.double()
    weights = []
    for active in ("default", "other", ["default", "other"]):
        net.base_model.set_adapter(active)
        weights.append(merged_weight(of(net)))
        close(weights[-1], merged(net).get_submodule(HEAD).weight)
    with net.disable_adapter():
        plain = merged_weight(of(net))
        assert torch.equal(plain, of(net).base_layer.weight)
    close(weights[2] - plain, weights[0] + weights[1] - 2 * plain)
    net.merge_adapter()
    close(merged_weight(of(net)), weights[2])
    net.unmerge_adapter()
    close(merged_weight(of(net)), weights[2])


def test_the_copy_of_the_active_adapter_counts():
    net, x = with_lora(gap_linear(), ["features.2"], modules_to_save=["head"]), images()
    with torch.no_grad():
        of(net).weight += 1
    net.add_adapter("other", peft.LoraConfig(r=2, target_modules=["features.2"], modules_to_save=["head"]))
    net.double().eval()
    for active in ("default", "other"):
        net.set_adapter(active)
        assert of(net) is net.base_model.model.head.modules_to_save[active][3]
        close(explain(net, x, method="cam").heat, explain(merged(net), x, method="cam").heat, 1e-6)
        assert find_layer(net, f"base_model.model.head.modules_to_save.{active}.3") == HEAD
    with pytest.raises(ValueError, match=r"inside the ModulesToSaveWrapper 'head'\. Name 'head'"):
        find_layer(net, "base_model.model.head.modules_to_save.default.3")
    with net.disable_adapter():
        assert of(net) is net.base_model.model.head.original_module[3]
        assert explain(net, x, method="cam").layer == "features"


OTHERS = {
    "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=[HEAD]),
    "IA3": lambda: peft.IA3Config(target_modules=[HEAD], feedforward_modules=[]),
    "AdaLora": lambda: peft.AdaLoraConfig(target_modules=[HEAD], total_step=10),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_adapters_are_refused_by_name_and_looked_at_merged(kind):
    net, x = peft.get_peft_model(gap_linear(), OTHERS[kind]()).double().eval(), images()
    way_out = (
        r"Merge a copy of the model first, copy\.deepcopy\(model\)\.merge_and_unload\(\), and look at that\. Or use grad_cam"
    )
    with pytest.raises(
        ValueError, match=rf"'head.3'.* adapter 'default' .* peft\.tuners\.{kind.lower()}\..* nor DoRA\. {way_out}"
    ):
        explain(net, x, method="cam")
    twin = copy.deepcopy(net).merge_and_unload()
    assert explain(twin, x, method="cam").layer == "features"
    close_and_alive(explain(net, x).heat, explain(twin, x).heat)


# ---- heat --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1, {"contrast": {"classes": 1}}, {"contrast": {"classes": [0, 2]}}], ids=str)
@pytest.mark.parametrize("method", ["cam", "grad_cam", "full_grad", "score_cam", "ablation_cam"])
def test_a_convolutional_net_is_explained_as_its_merged_twin(method, target):
    if method == "cam" and target != 1:
        target = [1, 2]
    net, x = with_lora(gap_linear(k=6), ["features.0", "features.2", HEAD], lora_bias=True), images()
    found, twin = (explain(model, x.double(), method=method, target=target) for model in (net, merged(net)))
    assert found.layer == twin.layer == "features"
    close(found.score, twin.score)
    close_and_alive(found.heat, twin.heat, 1e-6 if found.heat.dtype == torch.float32 else 1e-10)


def test_look_alikes_are_those_of_the_merged_classifier():
    net, x = with_lora(gap_linear(k=9), [HEAD], lora_alpha=60), images()
    chosen = []
    for model in (net, merged(net), net.base_model.model):
        with record_calls(model, x.shape) as calls:
            logits = model(x)
        rows = nn.functional.normalize(head_weight(calls, logits))
        chosen.append((rows @ rows.T).fill_diagonal_(-2).topk(3).indices)
    assert torch.equal(chosen[0], chosen[1]) and torch.equal(chosen[0], chosen[2])
    rows = nn.functional.normalize(of(net).base_layer.weight)
    assert not torch.equal(chosen[0], (rows @ rows.T).fill_diagonal_(-2).topk(3).indices)


METHODS = ("grad_cam", "attention_rollout", "attention_relevance", "le_grad", "grad_eclip", "full_grad")


@pytest.mark.parametrize("targets", [["qkv"], ["qkv", "proj", "head"], "all-linear"], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_transformer_is_explained_as_its_merged_twin(method, targets):
    net, x = with_lora(ViT().double(), targets), photos().double()
    found, twin = (explain(model, x, method=method, target=1) for model in (net, merged(net)))
    assert found.layer == twin.layer == "blocks.2.norm1"
    close_and_alive(found.heat, twin.heat, 1e-6 if found.heat.dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "le_grad", "grad_eclip"])
def test_attention_of_timms_transformer_is_that_of_its_merged_twin(method):
    net = made(functools.partial(timm.create_model, "vit_tiny_patch16_224", img_size=64, depth=3, num_classes=5))
    net, x = with_lora(net, ["qkv", "proj"]), torch.rand(2, 3, 64, 64).double()
    found, twin = (explain(model, x, method=method, target=[0, 1, 2]) for model in (net, merged(net)))
    assert found.layer == twin.layer == "blocks.2.norm1"
    close_and_alive(found.heat, twin.heat, 1e-6 if found.heat.dtype == torch.float32 else 1e-10)


def test_torchs_own_attention_under_lora_keeps_its_weights_to_the_bit():
    """Peft merges and unmerges them at every forward, which leaves new parameters, off by rounding."""
    make = functools.partial(models.VisionTransformer, 64, 16, 3, 2, 16, 32, num_classes=5)
    net, x = with_lora(made(make), ["self_attention"]).float(), torch.rand(2, 3, 64, 64)
    assert type(of(net, "encoder.layers.encoder_layer_0.self_attention")).__module__ == "peft.tuners.lora.layer"
    before = model_state(net)
    for method in ("grad_cam", "attention_rollout", "score_cam"):
        assert explain(net, x, method=method).layer == "encoder.layers.encoder_layer_2.ln_1"
        assert model_state(net) == before

    def fail(output):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        explain(net, x, output=fail)
    assert model_state(net) == before
    net(x)
    assert model_state(net) != before


class Adapted(Net):
    """LoRA in a convolution, in torch's own attention and on the classifier, of which a part has a name of its own."""

    def __init__(self):
        super().__init__(dropout=0.2, norm=True)
        self.attention, self.norm = nn.MultiheadAttention(5, 1, batch_first=True), nn.LayerNorm(5)
        self.trunk = peft.get_peft_model(self.trunk, peft.LoraConfig(r=2, target_modules=["0"], lora_dropout=0.1))
        peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["head", "attention"]), self)

    def forward(self, x):
        x = self.relu(self.last(self.trunk(x))).flatten(2).mT
        x = self.norm(x)
        return self.head((x + self.attention(x, x, x)[0]).mean(1))


def test_training_with_adapters_is_bit_identical_and_has_the_names_of_the_net_without(tmp_path):
    watching = cam(
        layer=["trunk", "base_model.model.trunk.0", "norm"],
        method=["grad_cam", "attention_rollout"],
        target="contrast",
        on_error="raise",
    )
    train, val = functools.partial(loader, 24, shuffle=True, size=4), functools.partial(loader, 12)
    runs = [traced(tmp_path, callbacks, Adapted, train, val) for callbacks in ([watching], [])]
    assert differences(*runs) == []
    assert {key.rpartition("/")[0] for key in watching.history} == {"trunk", "trunk.0", "norm"}


def test_parameters_that_a_forward_replaces_come_back_in_their_order():
    class Replacing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.born = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1)), None
            self.third, self.sharded = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def forward(self, x):
            del self.first, self.third, self.sharded
            self.first, self.born = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
            self.third, self.sharded = torch.zeros(1), torch.zeros(2)
            return x

    net = Replacing()
    before = dict(net.named_parameters())
    with no_trace(net):
        net(torch.rand(1, 3, 4, 4))
        assert dict(net.named_parameters())["first"] is not before["first"]
    after = dict(net.named_parameters())
    assert list(after) == ["first", "second", "third", "born"]  # what it makes at its first forward it keeps
    assert all(after[name] is before[name] for name in before if name != "sharded")
    assert net.third is before["third"] and net.sharded.shape == (2,)  # put together for a forward: the strategy's own affair


def test_parameters_of_a_forward_that_stops_halfway_come_back(monkeypatch):
    """Memory that runs out between adding the adapter to the frozen weights and taking it off leaves the sum of them."""
    net = with_lora(models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3), ["self_attention"])
    kind = type(net.get_submodule("base_model.model.encoder.layers.encoder_layer_0.self_attention.base_layer.out_proj"))
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    before = model_state(net)

    def run_out(*args):
        raise torch.OutOfMemoryError("on purpose")

    monkeypatch.setattr(kind, "get_delta_weight", run_out)
    with pytest.raises(torch.OutOfMemoryError, match="on purpose"):
        explain(net, x, layer="encoder.ln")
    assert model_state(net) == before
    with pytest.raises(torch.OutOfMemoryError, match="on purpose"):
        net(x)
    assert model_state(net) != before  # peft itself leaves the sum


# ---- default layers ----------------------------------------------------------------------------------------------------


def by_timm(name, **options):
    return functools.partial(timm.create_model, name, num_classes=5, **options)


def by_hugging_face(kind):
    def make():
        transformers = pytest.importorskip("transformers")
        sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=64)
        config = getattr(transformers, f"{kind}Config")(**sizes, patch_size=16, num_labels=5)
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    return make


def clip():
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=99, bos_token_id=1, eos_token_id=2)
    vision = dict(**sizes, image_size=64, patch_size=16)
    return transformers.CLIPForImageClassification(
        transformers.CLIPConfig(text_config=text, vision_config=vision, num_labels=5)
    )


# family: how it is made, the default layer, where LoRA goes, the classifier, and the layers of it that are linear
FAMILIES = {
    "vit": (by_timm("vit_tiny_patch16_224", img_size=64, depth=3), "blocks.2.norm1", ["qkv"], ["head"], ["head"]),
    "vit with normed queries and keys": (
        by_timm("vit_tiny_patch16_224", img_size=64, depth=3, qk_norm=True), "blocks.2.norm1", ["qkv"], ["head"], ["head"],
    ),
    "deit": (
        by_timm("deit_tiny_distilled_patch16_224", img_size=64, depth=3),
        "blocks.2.norm1", ["qkv"], ["head", "head_dist"], ["head", "head_dist"],
    ),
    "swin": (
        by_timm("swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1, 1)), "norm", ["qkv"], ["head"], ["head.fc"],
    ),
    "convnext": (by_timm("convnext_atto", depths=(1, 1, 1, 1)), "stages", ["fc1", "fc2", "stem.0"], ["head"], ["head.fc"]),
    "resnet": (by_timm("resnet18"), "layer4", ["conv1", "conv2"], ["fc"], ["fc"]),
    "hugging face's vit": (
        by_hugging_face("ViT"), "vit.layers.2.layernorm_before", ["q_proj", "v_proj"], ["classifier"], ["classifier"],
    ),
    "dinov2": (by_hugging_face("Dinov2"), "dinov2.layernorm", ["q_proj", "v_proj"], ["classifier"], ["classifier"]),
    "clip": (clip, "vision_model.encoder.layers.2", ["q_proj", "v_proj"], ["classifier"], ["classifier"]),
}  # fmt: skip


QUICK = {"vit", "hugging face's vit", "clip"}
EACH = [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]


@pytest.mark.parametrize("family", EACH)
def test_the_default_layer_is_the_same_with_and_without_adapters(family):
    make, layer, targets, head, linear = FAMILIES[family]
    x = torch.rand(2, 3, 64, 64)
    ways = {
        "in attention": dict(target_modules=targets),
        "a trained copy of the classifier": dict(target_modules=targets, modules_to_save=head),
        "in attention and the classifier": dict(target_modules=[*targets, *linear]),
        "in all": dict(target_modules="all-linear" if family != "resnet" else [*targets, *linear]),
    }
    heats = {"plain": explain(made(make), x, target=1)}
    for way, config in ways.items():
        net = peft.get_peft_model(made(make), peft.LoraConfig(r=2, **config)).eval()
        heats[way] = explain(net, x, target=1)
        assert f"base_model.model.{heats[way].layer}" in dict(net.named_modules())
    heats["compiled"] = explain(torch.compile(made(make), backend="eager"), x, target=1)
    heats["distributed"] = explain(DistributedDataParallel(made(make)), x, target=1)
    heats["distributed and adapted"] = explain(DistributedDataParallel(net), x, target=1)
    for way, found in heats.items():
        assert found.layer == layer, way
        # fresh adapters add nothing: B = 0
        close_and_alive(found.heat, heats["plain"].heat, 1e-5)
