"""LibraGrad: what reaches a layer and the biases behind it add up to the score, and nothing else changes."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from compare import close
from complete import cut, lively, reached
from maps import heat
from nets import STRICT, Net, cam, fit
from reference_libra import detached_functions, libra_hires_cam
from timm.models.deit import VisionTransformerDistilled
from timm.models.mlp_mixer import MlpMixer
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torchvision.models import SwinTransformer, VisionTransformer, resnet18
from vits import ViT, photos

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods import libra
from lightning_cam.methods.apply import map_plans
from lightning_cam.registry import METHODS
from lightning_cam.targets import find

pytestmark = STRICT

HIRES = {"libra": {"method": "hires_cam"}}
CLASSES = [2, 0, 1]
SMALL = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=4)
STAGES = dict(embed_dim=8, depths=[2, 2], num_heads=[2, 2])
FAMILIES = {
    "torchvision ViT": (lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4), "encoder.layers.encoder_layer_"),
    "timm ViT": (lambda: TimmViT(**SMALL), "blocks."),
    "DeiT": (lambda: VisionTransformerDistilled(**SMALL), "blocks."),
    "torchvision Swin": (lambda: SwinTransformer([2, 2], window_size=[4, 4], num_classes=4, **STAGES), "features."),
    "timm Swin": (lambda: TimmSwin(32, 2, num_classes=4, window_size=4, **STAGES), "layers."),
    "MLP-Mixer": (lambda: MlpMixer(4, 32, patch_size=8, num_blocks=2, embed_dim=16), "blocks."),
}


def pictures(b=2, side=32):
    return torch.randn(b, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("layer", ["", "0", "1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_and_the_biases_behind_it_add_up_to_the_score_with_libra_and_far_from_it_without(family, layer):
    make, blocks = FAMILIES[family]
    net, x = lively(make()), pictures()
    name = blocks + layer if layer else ""
    for balanced in (True, False):
        by_hand, biases, score = cut(net, x, name, balanced)
        ours = reached(net, x, name, balanced)
        assert ((ours - by_hand).abs() < 1e-10 * score.abs().clamp(min=0.1)).all()
        error = (ours + biases - score).abs() / score.abs()
        assert (error < 1e-10).all() if balanced else (error > 0.05).all()


@pytest.mark.parametrize("how", ["fused", "written", "flat"])
@pytest.mark.parametrize(("prefix", "pool"), [(1, "token"), (0, "mean"), (3, "mean")])
def test_the_map_is_that_of_the_backward_written_by_hand(prefix, pool, how):
    net, x = lively(ViT(prefix, pool, how)), photos()
    for block in (1, 2):
        close(heat(net, x, HIRES, CLASSES, f"blocks.{block - 1}"), libra_hires_cam(net, x, CLASSES, block), 1e-10)


def test_a_whole_look_adds_up_where_every_token_is_on_the_map_and_nothing_is_added_behind():
    net, x = lively(ViT(prefix=0, pool="mean")), photos()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    found = explain(net, x, layer="blocks.0", method=HIRES)
    close(found.heat.flatten(1).sum(1), found.score, 1e-10)
    plain = explain(net, x, layer="blocks.0", method="hires_cam")
    assert ((plain.heat.flatten(1).sum(1) - plain.score).abs() > 0.05 * plain.score.abs()).all()
    assert torch.equal(found.score, plain.score)


@pytest.mark.parametrize("method", ["grad_cam", "shapley_cam", "guided_grad_cam", "full_grad"])
def test_on_a_net_of_relus_it_is_the_method_bit_for_bit(method):
    net, x = resnet18(num_classes=4).double().eval(), pictures(side=48)
    assert torch.equal(*(heat(net, x, spec, [1, 2], "layer3") for spec in (method, {"libra": {"method": method}})))


def test_a_method_without_a_gradient_is_as_it_was():
    net, x = ViT(), photos()
    for method in ("activation_mean", {"random_cam": {"seed": 2}}, "recipro_cam"):
        close(heat(net, x, libra(method), CLASSES, "blocks.0"), heat(net, x, method, CLASSES, "blocks.0"), 1e-12)


def test_it_is_found_by_name_with_the_options_of_its_method_and_takes_none_itself():
    net, x = ViT(prefix=0, pool="mean"), photos()
    by_name = {"libra": {"method": {"activation_mean": {"channels": 3}}}}
    expected = heat(net, x, {"activation_mean": {"channels": 3}}, CLASSES, "blocks.0")
    assert torch.equal(heat(net, x, by_name, CLASSES, "blocks.0"), expected)
    assert torch.equal(heat(net, x, libra("hires_cam"), CLASSES, "blocks.0"), heat(net, x, HIRES, CLASSES, "blocks.0"))
    assert libra("hires_cam").__name__ == "libra_hires_cam"
    with pytest.raises(ValueError, match="libra has no option 'gamma'"):
        explain(net, x, method={"libra": {"method": "grad_cam", "gamma": 1}})
    with pytest.raises(ValueError, match="libra wraps another method"):
        explain(net, x, method="libra")


def test_a_method_that_runs_the_model_anew_is_balanced_there_too():
    """With one step, integrated gradients take the gradient halfway from the baseline's tokens to the image's."""
    net, x = lively(ViT(prefix=0, pool="mean")), photos()
    with torch.no_grad():
        start, end = (net.blocks[0](net.embed(image)) for image in (torch.full_like(x, 0.3), x))
    middle = ((start + end) / 2).requires_grad_()
    with detached_functions():
        (g,) = torch.autograd.grad(net.read(net.blocks[1:](middle))[:, 0].sum(), middle)
    expected = ((end - start) * g).sum(2).reshape(3, 2, 3)
    method = {"integrated_gradients": {"baseline": 0.3, "steps": 1}}
    close(heat(net, x, {"libra": {"method": method}}, [0, 0, 0], "blocks.0"), expected, 1e-10)
    assert (heat(net, x, method, [0, 0, 0], "blocks.0") - expected).abs().max() > 0.05 * expected.abs().max()


def test_noise_and_mirrors_go_within_and_around_it():
    net, x = ViT(depth=2), photos(1)

    def of(method, images=x):
        return heat(net, images, method, [2], "blocks.0")

    noise = {"n": 2, "sigma": 0.3}
    within = of({"libra": {"method": {"smooth": {"method": "hires_cam", **noise}}}})
    close(within, of({"smooth": {"method": HIRES, **noise}}), 1e-12)
    assert (within - of({"smooth": {"method": "hires_cam", **noise}})).abs().max() > 1e-3 * within.abs().max()
    straight = of(HIRES)
    expected = (straight + of(HIRES, x.flip(-1)).flip(-1)) / 2
    for method in ({"flip_average": {"method": HIRES}}, {"libra": {"method": {"flip_average": {"method": "hires_cam"}}}}):
        close(of(method), expected, 1e-12)
    assert torch.equal(of({"libra": {"method": HIRES}}), straight)


def test_a_contrast_is_the_difference_of_the_maps_of_its_classes():
    net, x = ViT(), photos()
    contrast = {"contrast": {"gamma": 0.5, "similar": [1, 3], "classes": 2}}
    of_class = {c: heat(net, x, HIRES, [c] * 3, "blocks.1") for c in (1, 2, 3)}
    found = explain(net, x, layer="blocks.1", method=HIRES, target=contrast)
    close(found.heat, of_class[2] - 0.25 * (of_class[1] + of_class[3]), 1e-10)


def test_likeness_to_a_reference_is_complete_too():
    """A cosine is a norm and a product: held constant, its length lets the dot product through."""
    net, x = lively(ViT(prefix=0, pool="mean")), photos()
    for norm in (net.norm, *(block.norm1 for block in net.blocks), *(block.norm2 for block in net.blocks)):
        nn.init.zeros_(norm.bias)
    for linear in (net.head, *(part for block in net.blocks for part in (block.attn.proj, block.mlp[0], block.mlp[2]))):
        nn.init.zeros_(linear.bias)
    for block in net.blocks:
        nn.init.zeros_(block.attn.qkv.bias)
    reference = torch.tensor([1.0, -2.0, 0.5, 3.0])
    for target in ("similarity", "projection"):
        spec = {target: {"reference": reference}}
        found = explain(net, x, layer="blocks.0", method=HIRES, target=spec)
        close(found.heat.flatten(1).sum(1), found.score, 1e-10)
        assert found.score.abs().min() > 1e-3


class Counting(ViT):
    forwards = 0

    def forward(self, x):
        self.forwards += 1
        return super().forward(x)


def test_layers_targets_and_methods_share_one_more_forward():
    net = Counting()
    methods = [HIRES, {"libra": {"method": "grad_cam"}}]
    with open_session(net, ["blocks.0", "blocks.1"]) as session:
        forward = session.forward(photos(), find(["predicted", 1, 2]))
        for method in methods:
            for found in map_plans(["blocks.0", "blocks.1"], [METHODS.find(method)], None):
                assert found.heat(forward).shape == (3, 3, 2, 3)
    assert net.forwards == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_values_of_the_forward_are_the_models_own(family):
    net, x = lively(FAMILIES[family][0]()), pictures()
    with open_session(net, [], x) as session:
        forward = session.forward(x, find(1))
        scores = forward.balanced.target_scores.score, forward.target_scores.score
        outputs = [(forward.balanced.outputs[layer].output, output.output) for layer, output in forward.outputs.items()]
    for balanced, own in (scores, *outputs):
        # torch runs its own MultiheadAttention otherwise where a mode looks on
        assert (balanced - own).abs().max() < 1e-13 if family == "torchvision ViT" else torch.equal(balanced, own)


def test_a_random_model_is_told():
    class Random(ViT):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    with pytest.raises(RuntimeError, match=r"gave other scores in a second forward.*a random step"):
        explain(Random(), photos(), layer="blocks.0", method=HIRES)


def test_a_compiled_model_and_one_that_is_frozen_are_explained_as_they_are():
    net, x = ViT(), photos()
    expected = heat(net, x, HIRES, CLASSES, "blocks.0")
    assert torch.equal(heat(torch.compile(net, backend="eager"), x, HIRES, CLASSES, "blocks.0"), expected)
    close(heat(net.requires_grad_(False), x, HIRES, CLASSES, "blocks.0"), expected, 1e-14)


def test_layers_after_a_no_grad_of_the_models_own_are_balanced():
    net, x = ViT(), photos()
    expected = heat(net, x, HIRES, CLASSES, "blocks.1")
    whole = net.blocks[1].forward
    net.blocks[1].forward = torch.no_grad()(whole)
    close(heat(net, x, HIRES, CLASSES, "blocks.1"), expected, 1e-14)


def test_under_autocast_the_map_is_that_of_single_precision_but_for_rounding():
    net, x = lively(ViT()).float(), photos().float()
    maps = []
    for context in (nullcontext, lambda: torch.autocast("cpu", dtype=torch.bfloat16)):
        with open_session(net, ["blocks.0"], context=context) as session:
            seen = Seen(session.forward(x, find(2)), "blocks.0")
            maps.append(METHODS.find(HIRES).function(seen))
    assert maps[1].dtype == torch.float32
    close(maps[1], maps[0], 0.05)
    assert not torch.equal(*maps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_gives_the_map_of_a_single_one_but_for_rounding(dtype):
    net, x = lively(ViT()).float(), photos().float()
    expected = heat(net, x, HIRES, layer="blocks.0")
    found = heat(net.to(dtype), x.to(dtype), HIRES, layer="blocks.0")
    assert found.dtype == torch.float32
    close(found, expected, 0.05)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_adapters_are_part_of_the_linear_layers_they_adapt(dora):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["qkv", "proj"], init_lora_weights=False, use_dora=dora)
    net, x = peft.get_peft_model(lively(ViT()), config).double().eval(), photos()
    expected = heat(net, x, HIRES, layer="base_model.model.blocks.0")
    close(heat(net.merge_and_unload(), x, HIRES, layer="blocks.0"), expected, 1e-6)


def torch_as_it_is():
    """What a look could leave behind in torch."""
    spaces = (vars(torch), vars(F), vars(torch.Tensor), vars(torch.nn.modules.module))
    functions = {(i, name): value for i, space in enumerate(spaces) for name, value in space.items() if callable(value)}
    hooks = torch.nn.modules.module
    counts = len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)
    message = torch._C._autograd._saved_tensors_hooks_get_disabled_error_message()
    return functions, counts, message, len(_get_current_function_mode_stack()), torch.is_grad_enabled()


@pytest.mark.parametrize("method", [HIRES, {"libra": {"method": "attention_rollout"}}])
def test_nothing_of_the_model_or_of_torch_is_changed_by_a_look_or_by_one_that_fails(method):
    net, x = ViT(), photos()
    net.blocks[1].register_buffer("count", torch.zeros(1))
    net.blocks[0].train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    members = {name: dict(vars(module)) for name, module in net.named_modules()}
    before = torch_as_it_is()
    for _ in range(2):
        try:
            explain(net, x, layer="blocks.0", method=method)
        except ValueError:
            assert method is not HIRES
    assert torch_as_it_is() == before
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert members == {name: dict(vars(module)) for name, module in net.named_modules()}


class Gated(Net):
    def __init__(self):
        super().__init__()
        self.relu = nn.GELU()


def test_a_run_draws_it_at_every_look_and_trains_as_without(tmp_path):
    callback = cam("trunk", [HIRES, "hires_cam"])
    nets = [Gated(), Gated()]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, callbacks in zip(nets, (callback, None), strict=True):
        fit(tmp_path, callbacks, net, max_epochs=1)
    balanced, plain = (callback.history[f"trunk/{name}"].heats for name in ("libra_hires_cam", "hires_cam"))
    assert len(balanced) == len(plain) == 2
    for first, second in zip(balanced, plain, strict=True):
        assert first.isfinite().all() and (first - second).abs().max() > 1e-3 * second.abs().max()
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
