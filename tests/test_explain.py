"""One look without a Trainer: layers, targets, outputs, what is given back and what is refused."""

import json
import warnings
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision import models
from zoo import conv_head, gap_linear, images

from lightning_cam import Style, explain, methods
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods import grad_cam
from lightning_cam.registry import Registry
from lightning_cam.targets import find


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("resnet18", "layer4", (7, 7)),
        ("squeezenet1_1", "features", (13, 13)),
        ("mobilenet_v2", "features", (7, 7)),
        ("densenet121", "features", (7, 7)),
        ("vgg11", "features", (7, 7)),
        ("convnext_tiny", "features", (7, 7)),
    ],
)
def test_the_default_layer_is_the_one_an_expert_names(name, layer, shape):
    torch.manual_seed(0)
    seen = explain(getattr(models, name)(weights=None, num_classes=5), torch.rand(1, 3, 224, 224))
    assert seen.layer == layer
    assert seen.heat.shape[1:] == shape


def test_shapes_and_types_are_as_documented():
    net, x = gap_linear().float(), images().float()
    one = explain(net, x[0])
    assert one.heat.shape == (1, 4, 5)
    assert one.heat.dtype == torch.float32
    assert one.score.shape == (1,)
    assert one.overlay().shape == (1, 3, 8, 10)
    assert one.overlay().dtype == torch.uint8
    top = explain(net, x, target={"top_k": {"k": 3}})
    assert top.heat.shape == (3, 3, 4, 5)
    assert top.score.shape == (3, 3)
    assert torch.equal(top.classes, net(x).topk(3).indices)
    assert top.overlay().shape == (3, 3, 3, 8, 10)
    assert not one.heat.requires_grad
    assert torch.allclose(one.logits, net(x[:1]), atol=1e-6)


def test_several_targets_are_each_as_if_alone():
    net, x = gap_linear(), images()
    mixed = explain(net, x, target=["predicted", 2, lambda logits, label: logits[:, 1] - logits[:, 3]])
    assert mixed.heat.shape == (3, 3, 4, 5)
    assert torch.equal(mixed.heat[:, 1], explain(net, x, target=2).heat)
    assert torch.equal(mixed.heat[:, 0], explain(net, x).heat)
    assert mixed.classes is None
    ids = explain(net, x, target=[0, 3])
    assert ids.classes.tolist() == [[0, 3]] * 3
    per_image = explain(net, x, target=torch.tensor([1, 2, 0]))
    assert per_image.classes.tolist() == [1, 2, 0]
    assert torch.equal(per_image.heat[1], explain(net, x, target=2).heat[1])


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda y: y, None),
        (lambda y: {"logits": y, "aux": 1}, None),
        (lambda y: {"prediction": y}, "prediction"),
        (lambda y: SimpleNamespace(logits=y, loss=None), None),
        (lambda y: (None, y), 1),
        (lambda y: OrderedDict(out=y), None),
        (lambda y: [y[:, :2], y[:, 2:]], lambda parts: torch.cat(parts, 1)),
    ],
)
def test_logits_are_found_in_whatever_a_model_returns(wrap, output):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_linear()

        def forward(self, x):
            return wrap(self.net(x))

    x = images()
    seen = explain(Wrapped(), x, output=output, layer="net.features")
    assert torch.equal(seen.heat, explain(gap_linear(), x, layer="features").heat)


def test_a_model_is_left_as_it_was():
    net, x = gap_linear(), images()
    net.features[0].weight.grad = torch.ones_like(net.features[0].weight)
    net.train()
    net.features.eval()
    flags = [m.training for m in net.modules()]
    state = torch.random.get_rng_state()
    explain(net, x, method="cam")
    assert [m.training for m in net.modules()] == flags
    assert torch.equal(net.features[0].weight.grad, torch.ones_like(net.features[0].weight))
    assert net.head[-1].weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(m._forward_hooks for m in net.modules())


def test_frozen_models_and_their_own_no_grad_and_inference_mode_are_explained():
    x = images()
    expected = explain(gap_linear(), x, layer="features").heat
    frozen = gap_linear().requires_grad_(False)
    assert torch.equal(explain(frozen, x, layer="features").heat, expected)

    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_linear()

        def forward(self, x):
            with torch.no_grad():
                features = self.net.features(x)
            return self.net.head(features)

    assert torch.equal(explain(Probe(), x, layer="net.features").heat, expected)
    with torch.no_grad():
        assert torch.equal(explain(gap_linear(), x, layer="features").heat, expected)
    net = gap_linear()
    with torch.inference_mode():
        assert torch.equal(explain(net, images(), layer="features").heat, expected)


def test_only_what_follows_the_layer_is_recorded():
    net, x = gap_linear(), images()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        explain(net, x, layer="features")
    assert saved
    assert all(shape[-2:] != (8, 10) for shape in saved)  # nothing at the resolution of the trunk


def test_a_model_that_changes_its_input_changes_a_copy():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_linear()

        def forward(self, x):
            return self.net(x.mul_(2))

    x = images()
    explain(Scales(), x, layer="net.features")
    assert torch.equal(x, images())


def test_several_layers_share_one_look_also_on_parallel_branches():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = gap_linear(0), gap_linear(1)

        def forward(self, x):
            return self.left(x) + self.right(x)

    net, x = Branches(), images()
    names = ["left.features.0", "left.features", "right.features"]
    with open_session(net, names) as session:
        look = session.forward(x, find(2))
        together = [grad_cam(Seen(look, name)) for name in names]
    for name, heat in zip(names, together, strict=True):
        assert torch.allclose(heat, explain(net, x, layer=name, target=2).heat, rtol=1e-12, atol=0)


def test_layers_are_named_modules_or_compiled():
    net, x = gap_linear(), images()
    expected = explain(net, x, layer="features").heat
    assert torch.equal(explain(net, x, layer=net.features).heat, expected)
    compiled = torch.compile(net, backend="eager")
    compiled(x)  # compiled before the hook is there
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(explain(compiled, x, layer="features").heat, expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "feature"}, r"no layer 'feature'. Did you mean 'features'.*top level: features, head"),
        ({"layer": "head.1"}, r"'head.1' returned shape \(3, 6\).*Layers with a map: .*features 6x4x5"),
        ({"layer": "head.0"}, r"returned shape \(3, 6, 1, 1\); expected a map"),
        ({"method": "gradcam"}, r"No method 'gradcam'. Did you mean 'grad_cam'"),
        ({"method": {"grad_cam": {"channels": 1}}}, "has no option 'channels'. It takes: none"),
        ({"method": {"activation_mean": {"channel": 1}}}, "no option 'channel'. Did you mean 'channels'"),
        ({"method": 3}, "A method is a name"),
        ({"method": "nowhere.method"}, "cannot be imported"),
        ({"method": lambda seen: torch.zeros(2)}, r"gave \(2,\); expected maps \[b u v\] for 3 samples"),
        ({"target": "lable"}, "No target 'lable'. Did you mean 'label'"),
        ({"target": 4}, "Class 4 is out of range: the model has 4 outputs, so classes are 0 to 3"),
        ({"target": torch.tensor([0, 1])}, "2 target classes were given for 3 samples"),
        ({"target": lambda logits, label: logits.sum()}, r"one number a sample, shape \[b\] or \[b t\]; got \(\)"),
        ({"target": lambda logits, label: logits.detach()[:, 0]}, "has no gradient with respect to features"),
        ({"target": []}, "list of targets is empty"),
        ({"target": True}, "A target is a name"),
        ({"output": "logits"}, "output has no 'logits'"),
    ],
)
def test_every_mistake_says_what_was_given_and_what_would_be_right(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        explain(gap_linear(), images(), **options)


@pytest.mark.usefixtures("unchecked")
def test_more_mistakes_say_what_would_be_right():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.spare, self.side = gap_linear(), nn.Conv2d(3, 4, 1).double(), nn.Conv2d(3, 4, 1).double()

        def forward(self, x):
            self.side(x)
            return self.net(x)

    with pytest.raises(ValueError, match=r"'spare' did not run in this forward. Layers with a map: .*net.features"):
        explain(Unused(), images(), layer="spare")
    with pytest.raises(ValueError, match=r"'side' does not feed the explained score.*Layers with a map: "):
        explain(Unused(), images(), layer="side")
    with pytest.raises(ValueError, match="is not part of the"):
        explain(gap_linear(), images(), layer=nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"explain takes images \[b c h w\]"):
        explain(gap_linear(), torch.zeros(3))
    with pytest.raises(ValueError, match=r"returned a tuple of 2, not a tensor. Name the logits"):
        explain(nn.Sequential(gap_linear(), Twice()), images())
    with pytest.raises(ValueError, match="No module of this model returns a spatial map"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(240, 2).double()), images())


class Twice(nn.Module):
    def forward(self, y):
        return y, y


def test_errors_leave_no_hook_and_no_mode_behind():
    net = gap_linear().train()

    def broken(seen):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        explain(net, images(), method=broken)
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())
    assert not torch.nn.modules.module._global_forward_hooks


def test_saved_files_carry_the_names_given(tmp_path):
    net, x = conv_head().float(), images().float().sigmoid()
    paths = explain(net, x, method="cam").save(tmp_path, names=["cat", "dog", "cow"])
    assert [path.name for path in paths] == ["cat_cam.jpg", "dog_cam.jpg", "cow_cam.jpg"]
    several = explain(net, x[0], method="cam", target=[0, 3]).save(tmp_path, ["cat"], Style(encoding="png"))
    assert [path.name for path in several] == ["cat_cam_0.png", "cat_cam_3.png"]
    assert all(path.stat().st_size > 100 for path in [*paths, *several])
    with pytest.raises(ValueError, match="2 names were given for 3 images"):
        explain(net, x, method="cam").save(tmp_path, names=["a", "b"])


def test_a_family_names_its_members_and_takes_new_ones():
    family = Registry("method")

    @family.register
    def mine(seen, *, power: float = 1.0):
        return power

    assert family.names() == ["mine"]
    assert family.find("mine").function is mine
    assert family.find({"mine": {"power": 2.5}}).label == "mine_2.5"
    assert family.find({"mine": {"power": 2.5}}).function(None) == 2.5
    assert family.find("json.dumps").function is json.dumps
    assert {"activation_mean", "cam", "grad_cam"} <= set(methods.names())
    with pytest.raises(ValueError, match="one entry"):
        family.find({"mine": {}, "other": {}})


def test_a_quiet_look_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(gap_linear(), images(), method="cam").overlay()


@pytest.mark.parametrize(("name", "head"), [("a.jpg", b"\xff\xd8"), ("below/a.png", b"\x89PNG")])
def test_a_sheet_is_saved_as_its_name_says(tmp_path, name, head):
    path = explain(gap_linear().float(), images().float()).save_sheet(tmp_path / name)
    assert path == tmp_path / name
    assert path.read_bytes().startswith(head)
