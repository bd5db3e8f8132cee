"""The methods of one forward and its gradients: slow references, identities that tie them, and what breaks others."""

import pytest
import reference_gradient  # noqa: F401  its references are bound by import
import torch
from reference import REFERENCES, Case
from test_methods import CLASSES, close, heat
from torch import nn
from traces import model_state, modes
from zoo import ZOO, InPlace, Net, conv_head, flatten_linear, gap_linear, gap_mlp, images, max_pool

from lightning_cam import explain
from lightning_cam.capture import watch
from lightning_cam.methods import METHODS
from lightning_cam.methods.full import full_gradients
from lightning_cam.target import find

LINEAR = ["grad_cam", "hires_cam", "x_grad_cam", "shapley_cam", "integrated_grad_cam", "integrated_gradients"]
AT_LAYER = [
    *("grad_cam", "hires_cam", "x_grad_cam", "layer_cam", "grad_cam_elementwise", "grad_cam_pp", "grad_cam_pp_normalized"),
    *("eigen_cam", "eigen_grad_cam", "kpca_cam", "fem", "shapley_cam", "integrated_grad_cam", "integrated_gradients"),
]
AT_IMAGE = ["full_grad", "guided_grad_cam"]
EVERY = AT_LAYER + AT_IMAGE


@pytest.mark.parametrize("head", ZOO)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", EVERY)
def test_method_equals_its_reference_on_every_head(head, seed, method):
    net, x = ZOO[head](seed), images(seed=seed)
    close(heat(net, x, method), REFERENCES[method](net.case(), x, CLASSES))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("eigen_cam", {"centered": True}),
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


def combined(logits, label):
    return 2 * logits[:, 1] - 3 * logits[:, 2]


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
    with watch(net, ["features"]) as look_at:
        seen = look_at(x, find(2)).seen("features")
        found, a = METHODS.find(method).function(seen), seen.activation.clone()
        assert torch.equal(seen.activation, a)
    if method not in AT_IMAGE:
        tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
        case = Case(lambda x: net.features(x).relu(), tail)
        close(found, REFERENCES[method](case, x, [2] * 3))


# ---- signed, dead and vanishing ----------------------------------------------------------------------------------------


def signed(seed=0):
    """SiLU before the layer, one channel dead, one that cancels exactly."""
    net = gap_mlp(seed)
    net.features[3] = Cancelling()
    return net


class Cancelling(nn.Module):
    def forward(self, z):
        a = nn.functional.silu(z)
        wave = torch.ones_like(a[:, :1])
        wave[..., ::2, :] = -1
        return torch.cat([torch.zeros_like(a[:, :1]), 0.1 * wave * a[:, 1:2].mean((2, 3), True), a[:, 2:]], 1)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_and_cancelling_channels_give_finite_maps(method, dtype):
    net, x = signed().to(dtype), images().to(dtype)
    assert heat(net, x, method).isfinite().all()


@pytest.mark.parametrize("method", [m for m in AT_LAYER if m not in ("x_grad_cam", "integrated_gradients")])
def test_signed_activations_follow_the_reference(method):
    net, x = signed(), images()
    close(heat(net, x, method), REFERENCES[method](net.case(), x, CLASSES))


def test_a_cancelling_channel_keeps_x_grad_cam_equal_to_grad_cam_behind_pooling():
    net, x = signed(), images()
    close(heat(net, x, "x_grad_cam"), heat(net, x, "grad_cam"), 1e-10)
    low = heat(net.float(), x.float(), "x_grad_cam")
    assert (low - heat(net, x.float(), "grad_cam")).abs().max() <= 1e-5 * low.abs().max()


def test_grad_cam_pp_stays_finite_on_its_pole():
    """g sum A = -2 exactly: one channel of sum -2 and a gradient of 1."""
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(8, 2, bias=False)).double()
    nn.init.constant_(net[2].weight, 1.0)
    x = torch.tensor([[[-1.0, -1.0], [0.5, -0.5]], [[1.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)[None]
    for method in ("grad_cam_pp", "grad_cam_pp_normalized"):
        found = explain(net, x, layer="0", method=method, target=0).heat
        weight = 4 / 5 if method == "grad_cam_pp" else 1.0  # the other channel's: four places of 1 / (2 + 3)
        close(found, weight * x[:, 1], 1e-12)


@pytest.mark.parametrize("method", EVERY)
def test_a_score_without_gradient_gives_a_map_of_zeros(method):
    """The positive-ness of a 1x1-convolution head can close every place: phi = 0."""
    net = conv_head()
    nn.init.constant_(net.head[1].bias, -100.0)
    found = heat(net, images(), method)
    assert found.isfinite().all()
    if method not in ("eigen_cam", "kpca_cam", "fem"):
        assert not found.any()


@pytest.mark.parametrize("method", EVERY)
def test_a_layer_of_zeros_gives_finite_maps(method):
    net = gap_mlp()
    nn.init.zeros_(net.features[2].weight)
    nn.init.constant_(net.features[2].bias, -1.0)
    found = heat(net, images(), method)
    assert found.isfinite().all() and (method in AT_IMAGE or not found.any())


@pytest.mark.parametrize("method", ["eigen_cam", "eigen_grad_cam", "kpca_cam"])
def test_one_image_that_is_not_finite_leaves_the_others_their_maps(method):
    net, x = gap_mlp(), images()
    expected = heat(net, x, method)
    x[1, 0, 0, 0] = torch.nan
    found = heat(net, x, method)
    assert found[1].isnan().any()
    close(found[[0, 2]], expected[[0, 2]], 1e-10)


# ---- components --------------------------------------------------------------------------------------------------------


def test_signs_of_components_agree_with_what_they_are_said_to():
    for seed in range(8):
        net, x = flatten_linear(seed), images(seed=seed)
        mean = net.features(x).detach().mean(1)
        for method in ("eigen_cam", {"eigen_cam": {"centered": True}}, "kpca_cam"):
            assert ((heat(net, x, method) * mean).sum((1, 2)) >= 0).all()
        assert ((heat(net, x, "eigen_grad_cam") * heat(net, x, "hires_cam")).sum((1, 2)) >= 0).all()


def test_centred_eigen_cam_is_kernel_pca_with_the_linear_kernel():
    net, x = flatten_linear(), images()
    close(heat(net, x, {"kpca_cam": {"kernel": "linear"}}), heat(net, x, {"eigen_cam": {"centered": True}}), 1e-10)


@pytest.mark.parametrize("channels", [3, 20, 40])
def test_either_gram_matrix_gives_the_same_component(channels):
    net = Net(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)), channels=channels)
    close(heat(net, images(), "eigen_cam"), REFERENCES["eigen_cam"](net.case(), images(), CLASSES))


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match=r"No kernel 'cubic'; known: sigmoid, rbf, linear"):
        heat(gap_mlp(), images(), {"kpca_cam": {"kernel": "cubic"}})


# ---- paths -------------------------------------------------------------------------------------------------------------


def test_integrated_gradients_sum_to_what_the_score_gains():
    net, x = flatten_linear(), images()
    gain = (net(x) - net(torch.zeros_like(x))).detach()[range(3), CLASSES]
    gaps = []
    for steps in (1, 10, 100, 1000):
        total = heat(net, x, {"integrated_gradients": {"steps": steps}}).sum((1, 2))
        gaps.append(float((total - gain).abs().max() / gain.abs().max()))
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] and gaps[3] < 2e-3
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
    with watch(net, ["features"]) as look_at:
        seen = look_at(x, find(torch.tensor(CLASSES))).seen("features")
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
    with watch(net, [layer]) as look_at:
        seen = look_at(torch.randn(2, 3, 64, 64), find(1)).seen(layer)
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


# ---- precision and dimensions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_lower_precision_stays_near(method, dtype, tolerance):
    net, x = gap_linear(), images().bfloat16().double()
    for parameter in net.parameters():
        parameter.data = parameter.data.bfloat16().double()
    exact = heat(net, x, method)
    low = heat(net.to(dtype), x.to(dtype), method)
    assert low.dtype == torch.float32
    assert (low - exact).abs().max() <= tolerance * exact.abs().max()


SIDES = {1: (24,), 2: (8, 10), 3: (6, 8, 4)}


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("sides", SIDES)
def test_signals_pictures_and_volumes_have_maps(method, sides):
    conv, pool = getattr(nn, f"Conv{sides}d"), getattr(nn, f"AdaptiveAvgPool{sides}d")
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 5, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(5, 4)).double()
    x = torch.randn(2, 3, *SIDES[sides], dtype=torch.float64)
    with watch(net, ["1"]) as look_at:
        found = METHODS.find(method).function(look_at(x, find(1)).seen("1"))
    assert found.shape == (2, *SIDES[sides]) and found.isfinite().all() and found.any()
    if method not in AT_IMAGE:
        same = "hires_cam" if method == "grad_cam" else method  # behind pooling; the other reference is for pictures
        close(found, REFERENCES[same](Case(net[:2], net[2:]), x, [1, 1]))
