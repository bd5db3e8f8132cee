"""Methods against slow references, and the identities that tie them, in float64."""

import importlib
from pathlib import Path

import pytest
import reference
import torch
from compare import close
from maps import CLASSES, combined, heat
from reference import REFERENCES, Case
from torch import nn
from zoo import ZOO, InPlace, conv_head, flatten_linear, gap_linear, images, max_pool

from lightning_cam import explain, methods
from lightning_cam.capture.seen import Seen


def test_every_method_has_a_reference():
    for file in Path(reference.__file__).parent.glob("reference_*.py"):
        importlib.import_module(file.stem)
    assert set(methods.names()) <= set(REFERENCES)


@pytest.mark.parametrize("head", ZOO)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", ["activation_mean", "grad_cam"])
def test_method_equals_its_reference_on_every_head(head, seed, method):
    net, x = ZOO[head](seed), images(seed=seed)
    close(heat(net, x, method), REFERENCES[method](net.case(), x, CLASSES))


@pytest.mark.parametrize("head", ["gap_linear", "conv_head"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cam_equals_its_reference(head, seed):
    net, x = ZOO[head](seed), images(seed=seed)
    close(heat(net, x, "cam"), REFERENCES["cam"](net.case(), x, CLASSES))


def test_activation_mean_of_a_slice_equals_its_reference():
    net, x = gap_linear(), images()
    expected = REFERENCES["activation_mean"](net.case(), x, CLASSES, range(2, 5))
    for channels in ([2, 5], slice(2, 5)):
        close(heat(net, x, {"activation_mean": {"channels": channels}}), expected)
    one = REFERENCES["activation_mean"](net.case(), x, CLASSES, range(3, 4))
    close(heat(net, x, {"activation_mean": {"channels": 3}}), one)


def test_activation_mean_of_a_signed_layer_counts_its_positive_part():
    net, x = gap_linear(), images()
    assert net.features[:3](x).min() < 0
    case = Case(net.features[:3], nn.Sequential(net.features[3], net.head))
    found = heat(net, x, "activation_mean", layer="features.2")
    close(found, REFERENCES["activation_mean"](case, x, CLASSES))


def test_a_slice_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"none of the 6 channels of features: 0 to 5"):
        heat(gap_linear(), images(), {"activation_mean": {"channels": [6, 9]}})


@pytest.mark.parametrize("seed", range(3))
def test_cam_over_its_cells_is_grad_cam_after_pooling_and_a_linear_head(seed):
    net, x = gap_linear(seed), images(seed=seed)
    close(heat(net, x, "cam") / 20, heat(net, x, "grad_cam"), 1e-12)


def test_cam_averages_to_the_logit_less_its_bias():
    net, x = gap_linear(), images()
    seen = explain(net, x, layer="features", method="cam", target=torch.tensor(CLASSES))
    bias = net.head[-1].bias.detach()[CLASSES]
    close(seen.heat.mean((1, 2)), seen.score - bias, 1e-12)
    close(heat(net, x, "grad_cam").sum((1, 2)), seen.score - bias, 1e-12)


def test_a_convolutional_head_weights_grad_cam_by_its_open_places():
    """S_c = mean ReLU(z_c): the gradient is w_c phi / Z, with phi the share of places where z_c > 0."""
    net, x = conv_head(), images()
    z = net.head[1](net.features(x)).detach()[range(3), CLASSES]
    phi = (z > 0).double().mean((1, 2))
    close(heat(net, x, "grad_cam"), heat(net, x, "cam") * phi[:, None, None] / 20, 1e-12)
    close(heat(net, x, "cam") + net.head[1].bias.detach()[CLASSES][:, None, None], z, 1e-12)


def test_activation_mean_of_a_convolutional_head_is_the_class_map():
    net, x = conv_head(), images()
    z = net.head[1](net.features(x)).detach()[:, 2]
    close(heat(net, x, {"activation_mean": {"channels": 2}}, layer="head.1"), z.relu(), 1e-12)


def test_maps_are_linear_in_the_target():
    net, x = flatten_linear(), images()
    mixed = explain(net, x, layer="features", target=combined).heat
    close(mixed, 2 * heat(net, x, "grad_cam", [1] * 3) - 3 * heat(net, x, "grad_cam", [2] * 3), 1e-12)


@pytest.mark.parametrize("method", ["activation_mean", "cam", "grad_cam"])
def test_an_image_alone_gives_the_map_it_gives_in_a_batch(method):
    net, x = gap_linear(), images()
    alone = torch.cat([heat(net, x[i : i + 1], method, CLASSES[i : i + 1]) for i in range(3)])
    close(heat(net, x, method), alone, 1e-14)


def test_batch_norm_in_train_mode_would_break_batch_independence():
    net = gap_linear()
    net.features[1] = nn.Sequential(nn.BatchNorm2d(5).double(), nn.ReLU())
    net.train()
    x = images()
    alone = torch.cat([heat(net, x[i : i + 1], "grad_cam", CLASSES[i : i + 1]) for i in range(3)])
    close(heat(net, x, "grad_cam"), alone, 1e-14)
    assert net.features[1][0].training  # explained in eval mode, left in train mode
    own = net.features(x)
    assert (own[:1] - net.features(x[:1])).abs().max() > 1e-3  # the control: train mode does depend on the batch


def test_rolling_the_image_rolls_the_map():
    net = gap_linear()
    for conv in (net.features[0], net.features[2]):
        conv.padding_mode, conv._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
    x = images()
    close(heat(net, x.roll((2, 4), (2, 3)), "grad_cam"), heat(net, x, "grad_cam").roll((1, 2), (1, 2)), 1e-12)


def test_scaling_the_head_scales_the_map():
    net, x = gap_linear(), images()
    before = heat(net, x, "grad_cam")
    with torch.no_grad():
        net.head[-1].weight *= 3
    close(heat(net, x, "grad_cam"), 3 * before, 1e-12)


def test_gradient_agrees_with_finite_differences():
    from lightning_cam.capture.session import open_session
    from lightning_cam.targets import find

    net, x = flatten_linear(), images(1)
    with open_session(net, ["features"]) as session:
        seen = Seen(session.forward(x, find(2)), "features")
        g, a = seen.gradient, seen.activation
    place, step = (0, 4, 2, 3), 1e-4
    moved = a.clone()
    moved[place] += step
    up = net.head(moved)[0, 2]
    moved[place] -= 2 * step
    assert abs((up - net.head(moved)[0, 2]).item() / (2 * step) - g[place].item()) < 1e-9


def test_the_tensor_explained_is_the_one_an_in_place_relu_left():
    net, plain, x = InPlace(), InPlace(inplace=False), images()
    a = plain.features(x).detach().relu()
    w = plain.classifier.weight.detach()[CLASSES]
    expected = torch.einsum("bc,bcuv->buv", w, a)
    close(heat(net, x, "cam"), expected, 1e-12)
    close(heat(net, x, "grad_cam"), expected / 20, 1e-12)
    before = heat(plain, x, "grad_cam")  # without in-place operation the layer's own output is explained: another map
    assert (before - expected / 20).abs().max() > 0.05 * expected.abs().max() / 20


def test_in_place_rewriting_is_told():
    from lightning_cam.capture.session import open_session
    from lightning_cam.targets import find

    for net, told in ((InPlace(), True), (InPlace(inplace=False), False)):
        with open_session(net, ["features"]) as session:
            assert session.forward(images(), find(1)).outputs["features"].changed_in_place is told


class Rows(nn.Module):
    """A softmax that is written in a forward."""

    def forward(self, x):
        return x.exp() / x.exp().sum(1, keepdim=True)


def test_cam_reads_the_head_in_front_of_a_softmax():
    softmaxed = nn.Sequential(gap_linear(), nn.Softmax(1)).eval()
    close(heat(softmaxed, images(), "cam", layer="0.features"), heat(gap_linear(), images(), "cam"), 1e-14)


def test_cam_refuses_heads_its_formula_does_not_fit():
    x = images()
    with pytest.raises(ValueError, match="spatial mean"):
        heat(max_pool(), x, "cam")
    with pytest.raises(ValueError, match="one linear layer or 1x1 convolution"):
        heat(ZOO["gap_mlp"](), x, "cam")
    with pytest.raises(ValueError, match=r"takes 120 channels|one linear layer"):
        heat(flatten_linear(), x, "cam")
    with pytest.raises(ValueError, match="class as its target"):
        explain(gap_linear(), x, layer="features", method="cam", target=lambda logits, label: logits.sum(1))
    hidden = nn.Sequential(gap_linear(), Rows())
    with pytest.raises(ValueError, match="softmax in forward"):
        explain(hidden, x, layer="0.features", method="cam")


def test_cam_takes_a_named_head():
    net, x = gap_linear(), images()
    close(heat(net, x, {"cam": {"head": "head.3"}}), heat(net, x, "cam"), 1e-14)
    with pytest.raises(ValueError, match=r"'head.9' did not run.*head.3"):
        heat(net, x, {"cam": {"head": "head.9"}})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_lower_precision_stays_near(dtype, tolerance):
    net, x = gap_linear(), images()
    exact = heat(net, x, "grad_cam")
    low = heat(net.to(dtype), x.to(dtype), "grad_cam")
    assert low.dtype == torch.float32
    assert (low - exact).abs().max() <= tolerance * exact.abs().max()


def test_half_precision_gradients_do_not_vanish():
    """1e-7 w / Z underflows in fp16; the backward is scaled and undone."""
    net, x = gap_linear().half(), images().half()
    with torch.no_grad():
        net.head[-1].weight *= 2**-18
    tiny = heat(net, x, "grad_cam")
    with torch.no_grad():
        net.head[-1].weight *= 2**9
    large = heat(net, x, "grad_cam")
    assert (tiny * 2**9 - large).abs().max() <= 0.05 * large.abs().max()
