"""Methods that run the model anew: paths, full gradients, guided backpropagation, second derivatives."""

import pytest
import torch
from compare import close
from maps import AT_IMAGE, CLASSES, EVERY, heat
from reference import REFERENCES
from torch import nn
from traces import model_state, modes
from zoo import ZOO, InPlace, Net, flatten_linear, gap_linear, gap_mlp, images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods.backprop import full_gradients
from lightning_cam.targets import find

# ---- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_integrated_gradients_sum_to_what_the_score_gains():
    net, x = flatten_linear(), images()
    gain = (net(x) - net(torch.zeros_like(x))).detach()[range(3), CLASSES]
    gaps = []
    for steps in (1, 10, 100, 300):
        total = heat(net, x, {"integrated_gradients": {"steps": steps}}).sum((1, 2))
        gaps.append(float((total - gain).abs().max() / gain.abs().max()))
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] and gaps[3] < 5e-3
    net = gap_linear()
    gain = (net(x) - net(torch.zeros_like(x))).detach()[range(3), CLASSES]
    close(heat(net, x, {"integrated_gradients": {"steps": 1}}).sum((1, 2)), gain, 1e-12)


def test_integrated_grad_cam_behind_a_linear_head_is_the_rise_of_grad_cam():
    net, x = gap_linear(), images()
    expected = heat(net, x, "grad_cam") - heat(net, torch.full_like(x, 0.3), "grad_cam")
    for steps in (1, 5):
        close(heat(net, x, {"integrated_grad_cam": {"baseline": 0.3, "steps": steps}}), expected, 1e-10)


def test_a_path_has_steps():
    for method in ("integrated_grad_cam", "integrated_gradients"):
        with pytest.raises(ValueError, match="at least one step; got steps=0"):
            heat(gap_mlp(), images(), {method: {"steps": 0}})


# ---- full gradients and guided backpropagation -------------------------------------------------------------------------


def batch_normed():
    net = gap_linear()
    net.features[1] = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU(inplace=True))
    net.double().eval()
    norm = net.features[1][0]
    for number in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(number)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return net


@pytest.mark.parametrize("net", [*(ZOO[name] for name in ZOO if name != "gap_mlp"), batch_normed, InPlace])
def test_full_gradients_sum_to_the_score(net):
    net, x = net(), images()
    with open_session(net, ["features"]) as session:
        seen = Seen(session.forward(x, find(torch.tensor(CLASSES))), "features")
        of_image, of_biases = full_gradients(seen)
        total = of_image.flatten(1).sum(1) + sum(term.flatten(1).sum(1) for term in of_biases)
        close(total, seen.score, 1e-12)
        assert (of_image.flatten(1).sum(1) - seen.score).abs().max() > 0.01 * seen.score.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "squeezenet1_1", "densenet121", "mobilenet_v2"])
def test_full_gradients_of_whole_networks_sum_to_the_score(name):
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.get_model(name, num_classes=5).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.normal_(module.bias, std=0.1)
    layer = "layer4" if name == "resnet18" else "features"
    with open_session(net, [layer]) as session:
        seen = Seen(session.forward(torch.randn(2, 3, 64, 64), find(1)), layer)
        of_image, of_biases = full_gradients(seen)
    total = of_image.flatten(1).sum(1) + sum(term.flatten(1).sum(1) for term in of_biases)
    # ReLU6's upper bend is a bias that belongs to no module, so mobilenet_v2 is complete only where it is not reached
    close(total, seen.score, 1e-4)


@pytest.mark.parametrize("method", EVERY)
def test_a_look_leaves_no_trace(method):
    net, x = batch_normed(), images()
    net.train()
    net(x).sum().backward()
    before = model_state(net), modes(), torch.get_rng_state().tolist()
    heat(net, x, method)
    assert (model_state(net), modes(), torch.get_rng_state().tolist()) == before
    assert x.grad is None and not x.requires_grad


def test_guided_backpropagation_finds_relus_that_are_no_modules():
    class Functional(nn.Module):
        def __init__(self, how):
            super().__init__()
            inner = gap_mlp()
            self.first, self.second, self.last, self.head = inner.features[0], inner.features[2], nn.Identity(), inner.head
            self.how = how

        def forward(self, x):
            return self.head(self.last(self.how(self.second(self.how(self.first(x))))))

    expected = heat(gap_mlp(), images(), "guided_grad_cam")
    for how in (torch.relu, torch.relu_, nn.functional.relu, torch.Tensor.relu, lambda z: nn.functional.relu(z, inplace=True)):
        close(heat(Functional(how), images(), "guided_grad_cam", layer="last"), expected, 1e-12)
    unknown = heat(Functional(lambda z: z.clamp(min=0)), images(), "guided_grad_cam", layer="last")
    assert (unknown - expected).abs().max() > 0.01 * expected.abs().max()


def test_what_needs_the_image_says_where_its_gradient_ends():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = gap_linear()

        def forward(self, x):
            with torch.no_grad():
                features = self.inner.features(x)
            return self.inner.head(features)

    for method in AT_IMAGE:
        with pytest.raises(ValueError, match="no gradient with respect to the image"):
            explain(Frozen(), images(), layer="inner.features", method=method)
    assert explain(Frozen(), images(), layer="inner.features", method="hires_cam").heat.any()


# ---- running anew -----------------------------------------------------------------------------------------------------


def test_changed_activations_are_not_written_to():
    """An in-place ReLU behind the layer works on a copy of what is put in its place."""
    net, x = InPlace(), images()
    with open_session(net, ["features"]) as session:
        seen = Seen(session.forward(x, find(2)), "features")
        put = torch.randn_like(seen.activation)
        before = put.clone()
        score = seen.rerun(activation=put)
        close(score, seen.rescore(0, activation=put), 1e-12)
        assert torch.equal(put, before)
        close(seen.rerun(image=x).detach(), seen.score, 1e-12)
        changed = put.clone().requires_grad_()
        (g,) = torch.autograd.grad(seen.rerun(activation=changed).sum(), changed)
        close(g, (put > 0) * net.classifier.weight.detach()[2, :, None, None] / 20, 1e-12)


def test_an_operation_without_a_second_derivative_is_told():
    class Attending(nn.Module):
        def forward(self, z):
            tokens = z.flatten(2).mT[:, None].contiguous()
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mean(1)

    net = Net(nn.Sequential(Attending(), nn.Linear(6, 4)))
    with pytest.raises(ValueError, match=r"behind 'features' can only be differentiated once.*SDPBackend.MATH"):
        heat(net, images(), "shapley_cam")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        close(heat(net, images(), "shapley_cam"), REFERENCES["shapley_cam"](net.case(), images(), CLASSES))
