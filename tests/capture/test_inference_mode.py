"""A model that runs part of itself under ``torch.inference_mode()`` is looked at as if that were ``torch.no_grad()``."""

import pytest
import torch
from compare import close
from torch import Tensor, nn
from traces import model_state, modes
from vits import ViT, photos
from zoo import images

from lightning_cam import explain
from lightning_cam.capture.gradient import inference_mode_as_no_grad, without_inference

METHODS = ["grad_cam", "shapley_cam", "score_cam", "ablation_cam", "recipro_cam", "integrated_gradients", "activation_mean"]


class Net(nn.Module):
    """Its trunk runs in a mode of its own; what follows stands inside of that too, or behind it."""

    def __init__(self, mode=torch.inference_mode, inside: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(inplace=True))
        self.trunk = nn.Sequential(nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.mode, self.inside = mode, inside
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        with self.mode():
            x = self.trunk(self.stem(x - 0.1))
            if self.inside:
                return self.head(x)
        return self.head(x)


class Decorated(nn.Module):
    """A trunk whose forward is decorated, made of functions alone, so that its output was made in the mode."""

    def __init__(self, mode) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.head = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Linear(6, 4)
        self.features = nn.Module()
        self.features.forward = mode()(lambda x: nn.functional.conv2d(x, self.weight).relu())
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)).tanh())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["stem", "stem.0", "trunk", "head.0"])
@pytest.mark.parametrize("inside", [False, True])
def test_maps_are_those_of_a_trunk_under_no_grad(method, layer, inside):
    if layer == "head.0":
        method = "activation_mean"  # a single cell is refused as a map, which both refuse
        with pytest.raises(ValueError, match="more than one cell"):
            explain(Net(inside=inside), images(), layer=layer, method=method)
        return
    net, x = Net(inside=inside), images()
    before = model_state(net), modes()
    found = explain(net, x, layer=layer, method=method, target=2)
    expected = explain(Net(torch.no_grad, inside), x, layer=layer, method=method, target=2)
    close(found.heat, expected.heat, 1e-10)
    close(found.score, expected.score, 1e-12)
    assert found.heat.any() and not found.heat.is_inference()
    assert (model_state(net), modes()) == before


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_decorated_with_it_is_watched(method):
    x = images()
    heats = [
        explain(Decorated(mode), x, layer="features", method=method, target=2).heat
        for mode in (torch.inference_mode, torch.no_grad)
    ]
    close(heats[0], heats[1], 1e-10)


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_it_works_wherever_the_caller_is_and_leaves_the_modes(around):
    net, x = Net(), images()
    expected = explain(Net(torch.no_grad), x, layer="stem", target=2).heat
    with around():
        before = modes()
        close(explain(net, x, layer="stem", target=2).heat, expected, 1e-10)
        assert modes() == before


def test_the_default_layer_is_the_same():
    assert explain(Net(), images()).layer == explain(Net(torch.no_grad), images()).layer == "trunk"


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "grad_eclip"])
def test_attention_inside_is_read(method):
    class Frozen(nn.Module):
        def __init__(self, mode):
            super().__init__()
            self.vit, self.mode = ViT(), mode

        def forward(self, x):
            with self.mode():
                return self.vit(x)

    x = photos()
    heats = [
        explain(Frozen(mode).eval(), x, layer="vit.blocks.0", method=method, target=1).heat
        for mode in (torch.inference_mode, torch.no_grad)
    ]
    assert heats[1].any()
    close(heats[0], heats[1], 1e-10)


class Gated(Net):
    """What was made in the mode before any module ran is multiplied with what is recorded."""

    def forward(self, x: Tensor) -> Tensor:
        with self.mode():
            gate = x.mean((1, 2, 3)).sigmoid()
            x = self.trunk(self.stem(x))
        return self.head(x) * gate[:, None]


def test_what_cannot_be_recorded_is_refused_with_lines_that_work():
    net, x = Gated(), images()
    before = model_state(net), modes()
    lines = r"Write torch.no_grad\(\) instead of torch.inference_mode\(\) in the model, or watch a layer behind it"
    with pytest.raises(ValueError, match=f"makes a tensor under torch.inference_mode.*that what follows needs.*{lines}"):
        explain(net, x, layer="stem", target=2)
    assert (model_state(net), modes()) == before
    assert explain(Gated(torch.no_grad), x, layer="stem", target=2).heat.any()


def test_another_error_of_the_model_is_let_out_as_it_is():
    with pytest.raises(RuntimeError, match="of another kind"), inference_mode_as_no_grad():
        raise RuntimeError("of another kind")


def test_gradients_stay_as_the_model_left_them():
    for enabled in (True, False):
        for left in (True, False):
            with torch.set_grad_enabled(enabled):
                with inference_mode_as_no_grad():
                    assert torch.is_grad_enabled() is enabled
                    torch.set_grad_enabled(left)
                assert torch.is_grad_enabled() is left
                assert not torch.is_inference_mode_enabled()


def test_a_tensor_of_the_mode_is_copied_and_no_other():
    with torch.inference_mode():
        made = torch.ones(2)
    other = torch.ones(2)
    assert not without_inference(made).is_inference() and torch.equal(without_inference(made), made)
    assert without_inference(other) is other and without_inference("x") == "x"
