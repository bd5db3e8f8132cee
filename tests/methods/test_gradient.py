"""The methods of one forward and its gradients: slow references, identities that tie them, and what breaks others."""

import pytest
import reference_full  # noqa: F401  references are bound by import
import reference_gradient  # noqa: F401
import torch
from compare import close
from maps import AT_IMAGE, AT_LAYER, CLASSES, EVERY, combined, heat
from reference import REFERENCES, Case
from torch import nn
from zoo import ZOO, InPlace, Net, conv_head, flatten_linear, gap_linear, gap_mlp, images, max_pool

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods import METHODS
from lightning_cam.targets import find

LINEAR = ["grad_cam", "hires_cam", "x_grad_cam", "shapley_cam", "integrated_grad_cam", "integrated_gradients"]


@pytest.mark.parametrize("head", ZOO)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", EVERY)
def test_method_equals_its_reference_on_every_head(head, seed, method):
    net, x = ZOO[head](seed), images(seed=seed)
    close(heat(net, x, method), REFERENCES[method](net.case(), x, CLASSES))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("kpca_cam", {"kernel": "rbf"}),
        ("kpca_cam", {"kernel": "rbf", "gamma": 2.0}),
        ("kpca_cam", {"kernel": "linear"}),
        ("fem", {"sigmas": 0.5}),
        ("integrated_grad_cam", {"baseline": 0.7, "steps": 3}),
        ("integrated_gradients", {"baseline": -0.4, "steps": 7}),
    ],
)
def test_options_reach_the_formula(method, options):
    net, x = flatten_linear(), images()
    close(heat(net, x, {method: options}), REFERENCES[method](net.case(), x, CLASSES, **options))
    plain = heat(net, x, method)
    assert (heat(net, x, {method: options}) - plain).abs().max() > 1e-3 * plain.abs().max()


# ---- after global average pooling and one linear layer -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_after_pooling_and_a_linear_head_all_linear_methods_are_one(seed):
    net, x = gap_linear(seed), images(seed=seed)
    expected = heat(net, x, "cam") / 20
    for method in ("grad_cam", "hires_cam", "x_grad_cam", "shapley_cam"):
        close(heat(net, x, method), expected, 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_layer_cam_after_pooling_takes_the_positive_weights(seed):
    net, x = gap_linear(seed), images(seed=seed)
    w, a = net.head[-1].weight.detach()[CLASSES], net.features(x).detach()
    expected = torch.einsum("bc,bcuv->buv", w.relu(), a) / 20
    for method in ("layer_cam", "grad_cam_elementwise", "grad_cam_pp_normalized"):
        close(heat(net, x, method), expected, 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_grad_cam_pp_after_pooling_has_its_closed_form(seed):
    """The paper's form: w_k = ReLU(w) / (2 + w mean(A))."""
    net, x = gap_linear(seed), images(seed=seed)
    w, a = net.head[-1].weight.detach()[CLASSES], net.features(x).detach()
    expected = torch.einsum("bc,bcuv->buv", w.relu() / (2 + w * a.mean((2, 3))), a)
    close(heat(net, x, "grad_cam_pp"), expected, 1e-12)


def test_hires_cam_sums_to_the_logit_less_its_bias():
    net, x = gap_linear(), images()
    found = explain(net, x, layer="features", method="hires_cam", target=torch.tensor(CLASSES))
    close(found.heat.sum((1, 2)), found.score - net.head[-1].bias.detach()[CLASSES], 1e-12)


@pytest.mark.parametrize("layer", ["0", "1", "2", "3", "4"])
def test_without_biases_hires_cam_sums_to_the_logit_at_every_layer(layer):
    convs = [nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Conv2d(5, 6, 3, padding=1, bias=False)]
    head = nn.Sequential(nn.Flatten(), nn.Linear(120, 4, bias=False))
    net = nn.Sequential(convs[0], nn.ReLU(), nn.MaxPool2d(2), convs[1], nn.ReLU(), head).double().eval()
    found = explain(net, images(), layer=layer, method="hires_cam", target=torch.tensor(CLASSES))
    close(found.heat.sum((1, 2)), found.score, 1e-12)
    head[1].bias = nn.Parameter(torch.ones(4, dtype=torch.float64))  # the control: a bias is missing from the sum
    found = explain(net, images(), layer=layer, method="hires_cam", target=torch.tensor(CLASSES))
    close(found.heat.sum((1, 2)) + 1, found.score, 1e-12)


# ---- whatever the head -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ZOO)
def test_x_grad_cam_sums_to_what_hires_cam_sums_to(head):
    net, x = ZOO[head](), images()
    close(heat(net, x, "x_grad_cam").sum((1, 2)), heat(net, x, "hires_cam").sum((1, 2)), 1e-10)


def test_after_pooling_and_anything_the_gradient_is_one_number_a_channel():
    for net in (gap_mlp(), Net(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 4)))):
        for method in ("hires_cam", "x_grad_cam"):
            close(heat(net, images(), method), heat(net, images(), "grad_cam"), 1e-10)
    x = images()  # the control: behind flatten the gradient varies over space
    for method in ("hires_cam", "x_grad_cam"):
        other = heat(flatten_linear(), x, method) - heat(flatten_linear(), x, "grad_cam")
        assert other.abs().max() > 0.05 * heat(flatten_linear(), x, "grad_cam").abs().max()


def test_shapley_cam_is_grad_cam_where_the_rest_is_piecewise_linear():
    for net in (gap_linear(), conv_head(), flatten_linear(), max_pool()):
        close(heat(net, images(), "shapley_cam"), heat(net, images(), "grad_cam"), 1e-12)
    bent = heat(gap_mlp(), images(), "shapley_cam") - heat(gap_mlp(), images(), "grad_cam")
    assert bent.abs().max() > 0.01 * heat(gap_mlp(), images(), "grad_cam").abs().max()

    def softmax(logits, label):
        return logits.softmax(1)[:, 1]

    bent, flat = (
        explain(gap_linear(), images(), layer="features", target=softmax, method=m).heat for m in ("shapley_cam", "grad_cam")
    )
    assert (bent - flat).abs().max() > 0.01 * flat.abs().max()


@pytest.mark.parametrize("method", LINEAR)
def test_linear_methods_are_linear_in_the_target(method):
    net, x = flatten_linear(), images()
    mixed = explain(net, x, layer="features", target=combined, method=method).heat
    close(mixed, 2 * heat(net, x, method, [1] * 3) - 3 * heat(net, x, method, [2] * 3), 1e-10)


@pytest.mark.parametrize("method", ["layer_cam", "grad_cam_elementwise", "grad_cam_pp", "grad_cam_pp_normalized"])
def test_rectified_methods_are_not_linear_in_the_target(method):
    net, x = flatten_linear(), images()
    mixed = explain(net, x, layer="features", target=combined, method=method).heat
    apart = 2 * heat(net, x, method, [1] * 3) - 3 * heat(net, x, method, [2] * 3)
    assert (mixed - apart).abs().max() > 0.05 * mixed.abs().max()


@pytest.mark.parametrize("method", EVERY)
def test_an_image_alone_gives_the_map_it_gives_in_a_batch(method):
    net, x = flatten_linear(), images()
    alone = torch.cat([heat(net, x[i : i + 1], method, CLASSES[i : i + 1]) for i in range(3)])
    close(heat(net, x, method), alone, 1e-12)


@pytest.mark.parametrize("method", EVERY)
def test_rolling_the_image_rolls_the_map(method):
    net = gap_mlp()
    for conv in (net.features[0], net.features[2]):
        conv.padding_mode, conv._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
    x = images()
    before, after = heat(net, x, method), heat(net, x.roll((2, 4), (2, 3)), method)
    if method in AT_IMAGE:  # upsampling does not wrap, so the image's border is left out
        rolled, keep = before.roll((2, 4), (1, 2)), (slice(None), slice(3, -3), slice(5, -1))
        close(after[keep], rolled[keep], 1e-10)
    else:
        close(after, before.roll((1, 2), (1, 2)), 1e-10)


GROWING = [m for m in EVERY if m not in ("eigen_cam", "kpca_cam", "fem", "full_grad", "grad_cam_pp", "guided_grad_cam")]


@pytest.mark.parametrize("method", GROWING)
def test_scaling_the_head_scales_the_map(method):
    net, x = gap_linear(), images()
    before = heat(net, x, method)
    with torch.no_grad():
        net.head[-1].weight *= 3
    close(heat(net, x, method), 3 * before, 1e-10)


def test_the_papers_grad_cam_pp_drifts_when_logits_grow_and_the_normalized_does_not():
    drift = {}
    for method in ("grad_cam_pp", "grad_cam_pp_normalized"):
        net, x = gap_linear(), images()
        before = heat(net, x, method)
        with torch.no_grad():
            net.head[-1].weight *= 30
        after = heat(net, x, method)
        drift[method] = (after / after.amax((1, 2), True) - before / before.amax((1, 2), True)).abs().max()
    assert drift["grad_cam_pp"] > 1e-3
    assert drift["grad_cam_pp_normalized"] < 1e-12


@pytest.mark.parametrize("method", AT_LAYER)
def test_the_order_of_channels_is_of_no_account(method):
    net, x, order = gap_mlp(), images(), torch.tensor([3, 1, 5, 0, 2, 4])
    before = heat(net, x, method)
    with torch.no_grad():
        net.features[2].weight.copy_(net.features[2].weight[order])
        net.features[2].bias.copy_(net.features[2].bias[order])
        net.head[2].weight.copy_(net.head[2].weight[:, order])
    close(heat(net, x, method), before, 1e-10)


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "x_grad_cam", "layer_cam", "grad_cam_pp", "shapley_cam"])
def test_the_scale_of_a_channel_is_of_no_account(method):
    net, x = gap_linear(), images()
    before = heat(net, x, method)
    with torch.no_grad():
        net.features[2].weight[1] *= 4
        net.features[2].bias[1] *= 4
        net.head[-1].weight[:, 1] /= 4
    close(heat(net, x, method), before, 1e-10)


@pytest.mark.parametrize("method", ["hires_cam", "layer_cam", "grad_cam_elementwise"])
def test_methods_that_multiply_place_by_place_see_no_difference_before_and_behind_a_relu(method):
    net, x = flatten_linear(), images()
    behind = heat(net, x, method, layer="features.3")
    if method == "layer_cam":  # z ReLU(g') is 0 where z < 0, since g' is
        assert not behind[behind < 0].numel()
    close(heat(net, x, method, layer="features.2"), behind, 1e-12)


def test_grad_cam_does_see_a_difference_before_and_behind_a_relu():
    net, x = flatten_linear(), images()
    behind = heat(net, x, "grad_cam", layer="features.3")
    assert (heat(net, x, "grad_cam", layer="features.2") - behind).abs().max() > 0.05 * behind.abs().max()


@pytest.mark.parametrize("method", EVERY)
def test_an_in_place_relu_behind_the_layer_changes_nothing(method):
    """The maps are those of the tensor that pooling reads, as if the ReLU were the layer."""
    x, net = images(), InPlace()
    with open_session(net, ["features"]) as session:
        seen = Seen(session.forward(x, find(2)), "features")
        found, a = METHODS.find(method).function(seen), seen.activation.clone()
        assert torch.equal(seen.activation, a)
    if method not in AT_IMAGE:
        tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
        case = Case(lambda x: net.features(x).relu(), tail)
        close(found, REFERENCES[method](case, x, [2] * 3))
