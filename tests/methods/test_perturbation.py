"""Methods that change images or activations: slow references, identities, and what they leave alone."""

import math
from functools import partial

import pytest
import torch
import torchvision
from compare import close
from maps import CLASSES, heat
from reference import REFERENCES
from reference_perturbation import enlarged, unit
from torch import nn
from zoo import ZOO, conv_head, gap_linear, images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods.perturbation import masking
from lightning_cam.model.names import modules_by_name
from lightning_cam.no_trace import no_trace
from lightning_cam.targets import find

METHODS = ["ablation_cam", "recipro_cam", "token_ablation", "score_cam", "ss_cam", "is_cam", "random_cam"]


@pytest.mark.parametrize("head", ZOO)
@pytest.mark.parametrize("method", METHODS)
def test_method_equals_its_reference_on_every_head(head, method):
    net, x = ZOO[head](), images(seed=1)
    close(heat(net, x, method), REFERENCES[method](net.case(), x, CLASSES))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("recipro_cam", {"kernel": (0.25, 0.5, 0.25)}),
        ("recipro_cam", {"kernel": (0.1, 0.7, 0.3)}),
        ("recipro_cam", {"fill": "mean"}),
        ("recipro_cam", {"fill": "mean", "kernel": (0.1, 0.7, 0.3)}),
        ("token_ablation", {"fill": "zero"}),
        ("score_cam", {"channels": 3}),
        ("ss_cam", {"n": 2, "channels": 2}),
        ("is_cam", {"n": 3, "channels": 4}),
        ("ss_cam", {"n": 3, "sigma": 0.5, "seed": 4}),
        ("is_cam", {"n": 4}),
        ("random_cam", {"seed": 5}),
    ],
)
def test_method_with_options_equals_its_reference(method, options):
    net, x = ZOO["flatten_linear"](2), images(seed=2)
    close(heat(net, x, {method: options}), REFERENCES[method](net.case(), x, CLASSES, **options))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_lower_precision_stays_near(method, dtype, tolerance):
    net, x = ZOO["gap_mlp"](), images().bfloat16().double()
    for parameter in net.parameters():
        parameter.data = parameter.data.bfloat16().double()
    exact = heat(net, x, method)
    score = net(x)[range(3), CLASSES].detach().abs().max()
    low = heat(net.to(dtype), x.to(dtype), method)
    assert low.dtype == torch.float32
    size = (
        max(score, exact.abs().max()) if method in ("recipro_cam", "token_ablation") else exact.abs().max()
    )  # the difference of two scores
    assert (low - exact).abs().max() <= tolerance * size


@pytest.mark.parametrize("seed", range(3))
def test_ablation_weights_after_pooling_and_a_linear_head_are_in_closed_form(seed):
    net, x = gap_linear(seed), images(seed=seed)
    a, w = net.features(x).detach(), net.head[-1].weight.detach()[CLASSES]
    s = net(x).detach()[range(3), CLASSES]
    expected = torch.einsum("bc,bcuv->buv", w * a.mean((2, 3)) / s.abs()[:, None], a)
    close(heat(net, x, "ablation_cam"), expected, 1e-12)


def test_the_score_lost_per_activation_is_the_gradient_after_pooling_and_a_linear_head():
    """Slope form: (S - S_{A_k = 0}) / sum A_k = w_k / Z."""
    net, x = gap_linear(), images()
    with open_session(net, ["features"]) as session, no_trace(net):
        seen = Seen(session.forward(x, find(torch.tensor(CLASSES))), "features")
        a = seen.activation
        for i in range(3):
            for k in range(a.shape[1]):
                without = a[i : i + 1].clone()
                without[:, k] = 0
                slope = (seen.score[i] - seen.rescore(i, activation=without)[0]) / a[i, k].sum()
                assert math.isclose(slope, seen.gradient[i, k, 0, 0], rel_tol=1e-10)


def test_ablation_keeps_the_sign_of_evidence_whatever_the_sign_of_the_score():
    net, x = gap_linear(), images()
    before = heat(net, x, "ablation_cam")
    s = net(x).detach()[range(3), CLASSES]
    with torch.no_grad():
        net.head[-1].bias -= 2 * s.abs().max()
    after = heat(net, x, "ablation_cam")
    shifted = net(x).detach()[range(3), CLASSES]
    assert (shifted < 0).all()
    close(after * shifted.abs()[:, None, None], before * s.abs()[:, None, None])


def test_ablation_of_a_score_of_zero_is_not_divided():
    net, x = gap_linear(), images()

    def nothing(logits, label):
        return logits[:, 0] - logits[:, 0].detach() if logits.requires_grad else logits[:, 0]

    found = explain(net, x, layer="features", method="ablation_cam", target=nothing)
    assert (found.score == 0).all()
    assert found.heat.isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_recipro_after_pooling_and_a_linear_head_is_grad_cam(seed):
    net, x = gap_linear(seed), images(seed=seed)
    close(heat(net, x, "recipro_cam"), heat(net, x, "grad_cam"))


def test_recipro_with_its_kernel_is_linear_in_places_too():
    """After pooling the place's value counts by the share of the kernel inside the map: 1, 3/4 at edges, 9/16 in corners."""
    net, x = gap_linear(), images()
    share = torch.full((4, 5), 1.0, dtype=torch.float64)
    share[[0, -1]] *= 0.75
    share[:, [0, -1]] *= 0.75
    close(heat(net, x, {"recipro_cam": {"kernel": (0.25, 0.5, 0.25)}}), heat(net, x, "grad_cam") * share)


@pytest.mark.parametrize("seed", range(3))
def test_of_a_linear_tail_a_place_kept_and_a_place_taken_away_say_the_same(seed):
    """Both are cam / Z; with the mean token in empty places, that less its mean over the map."""
    net, x = gap_linear(seed), images(seed=seed)
    evidence = heat(net, x, "grad_cam")
    expected = {"zero": evidence, "mean": evidence - evidence.mean((1, 2), keepdim=True)}
    for fill, maps in expected.items():
        close(heat(net, x, {"recipro_cam": {"fill": fill}}), maps)
        close(heat(net, x, {"token_ablation": {"fill": fill}}), maps)


@pytest.mark.parametrize("method", ["recipro_cam", "token_ablation"])
def test_what_all_places_share_is_no_evidence_beside_the_mean_token(method):
    """Where the tail adds one vector to all places, zero is no neutral token any more and the mean is."""

    class Shifted(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, a):
            return a + self.by * torch.arange(1.0, 7.0, dtype=a.dtype)[:, None, None]

    net, x = ZOO["gap_mlp"](), images()
    maps = {}
    for by in (0.0, 3.0):
        whole = nn.Sequential(net.features, Shifted(by), Shifted(-by), net.head).eval()
        for fill in ("zero", "mean"):
            maps[fill, by] = heat(whole, x, {method: {"fill": fill}}, layer="1")
    close(maps["mean", 3.0], maps["mean", 0.0])
    assert (maps["zero", 3.0] - maps["zero", 0.0]).abs().max() > 0.1 * maps["zero", 0.0].abs().max()


def test_a_channels_mean_over_the_map_ablates_nothing_after_pooling():
    """Why ablation_cam knows zero alone."""
    net, x = gap_linear(), images()
    with open_session(net, ["features"]) as session, no_trace(net):
        seen = Seen(session.forward(x, find(torch.tensor(CLASSES))), "features")
        means = seen.activation.mean((2, 3), keepdim=True)
        for k in range(6):
            level = seen.activation[:1].clone()
            level[:, k] = means[:1, k]
            assert abs(seen.rescore(0, activation=level) - seen.score[0]) < 1e-14


@pytest.mark.parametrize("method", ["score_cam", "ss_cam", "is_cam"])
def test_channels_that_vary_most_are_tried_alone_and_the_others_weigh_nothing(method):
    net, x = gap_linear(), images()
    forwards = []
    net.features[0].register_forward_hook(lambda module, args, output: forwards.append(len(output)))
    a = net.features(x).detach()
    forwards.clear()
    found = heat(net, x, {method: {"channels": 2}})
    per_channel = 1 if method == "score_cam" else 10
    assert sum(forwards) == 3 + 3 * 2 * per_channel
    for i in range(3):
        strongest = a[i].flatten(1).var(1).topk(2).indices
        w = torch.linalg.lstsq(a[i, strongest].flatten(1).T, found[i].flatten()[:, None]).solution
        close((a[i, strongest].flatten(1).T @ w)[:, 0], found[i].flatten())
        assert math.isclose(w.sum(), 1, rel_tol=1e-10)
    every = heat(net, x, method)
    for channels in (6, 100, None):
        assert torch.equal(heat(net, x, {method: {"channels": channels}}), every)


def test_score_cam_weights_sum_to_one():
    net, x = ZOO["gap_mlp"](), images()
    with open_session(net, ["features"]) as session, no_trace(net):
        seen = Seen(session.forward(x, find(torch.tensor(CLASSES))), "features")
        maps, a = masking.score_cam(seen), seen.activation
        w = torch.linalg.lstsq(a.flatten(2).mT, maps.flatten(1)[:, :, None]).solution[:, :, 0]
    close(w.sum(1), torch.ones(3, dtype=torch.float64))
    assert (w > 0).all()


@pytest.mark.parametrize("method", ["score_cam", "ss_cam", "is_cam"])
def test_a_constant_model_weighs_all_channels_alike(method):
    net, x = gap_linear(), images()
    with torch.no_grad():
        net.head[-1].weight.zero_()
    close(heat(net, x, method), heat(net, x, "activation_mean"), 1e-12)


@pytest.mark.parametrize("method", ["score_cam", "ss_cam", "is_cam"])
def test_constant_channels_have_no_mask_and_no_weight(method):
    class Half(nn.Module):
        def __init__(self, keep):
            super().__init__()
            self.keep = keep

        def forward(self, a):
            constant = torch.full_like(a, 0.1) * torch.arange(a.shape[1])[:, None, None]
            return torch.where(torch.arange(a.shape[1])[:, None, None] < self.keep, a, constant)

    net, x = gap_linear(), images()
    layer = nn.Sequential(net.features, Half(4))
    whole = nn.Sequential(layer, net.head).eval()
    found = explain(whole, x, layer="0", method=method, target=torch.tensor(CLASSES)).heat
    assert found.isfinite().all()
    a = layer(x).detach()
    columns = torch.linalg.lstsq(a[:, :4].flatten(2).mT, found.flatten(1)[:, :, None])
    close((a[:, :4].flatten(2).mT @ columns.solution)[:, :, 0], found.flatten(1))
    close(columns.solution.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    layer[1].keep = 0
    assert not explain(whole, x, layer="0", method=method).heat.any()


def test_a_channel_that_varies_by_rounding_only_is_constant():
    class Rounded(nn.Module):
        def forward(self, a):
            noise = 5e-17 * torch.arange(a[0, 0].numel(), dtype=a.dtype).reshape(a.shape[2:]).cos()
            return torch.cat([a[:, :4], 0.1 + noise.expand_as(a[:, 4:])], 1)

    net, x = gap_linear(), images()
    layer = nn.Sequential(net.features, Rounded())
    maps = layer(x)[:, 4:].detach()
    assert (maps.amax((2, 3)) > maps.amin((2, 3))).all()
    found = explain(nn.Sequential(layer, net.head).eval(), x, layer="0", method="score_cam", target=1).heat
    columns = torch.linalg.lstsq(layer(x).detach()[:, :4].flatten(2).mT, found.flatten(1)[:, :, None]).solution
    close(columns.sum((1, 2)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("method", ["score_cam", "ss_cam", "is_cam"])
def test_without_change_of_the_mask_all_are_score_cam(method):
    net, x = gap_linear(), images()
    options = {"ss_cam": {"sigma": 0.0}, "is_cam": {"n": 1}}.get(method, {})
    close(heat(net, x, {method: options}), heat(net, x, "score_cam"), 1e-14)


@pytest.mark.parametrize("method", ["ablation_cam", "recipro_cam", "token_ablation", "score_cam", "ss_cam", "is_cam"])
def test_results_do_not_depend_on_chunks_and_chunks_are_kept(method):
    net, x = gap_linear(), images()
    counts = []
    first = net.features[0] if method in ("score_cam", "ss_cam", "is_cam") else net.head[0]
    first.register_forward_hook(lambda module, args, output: counts.append(len(output)))
    whole = heat(net, x, {method: {"chunk": 10**6}})
    for chunk in (1, 4):
        counts.clear()
        close(heat(net, x, {method: {"chunk": chunk}}), whole, 1e-13)
        assert max(counts[1:]) == chunk
    with pytest.raises(ValueError, match="1 or more"):
        heat(net, x, {method: {"chunk": 0}})


def test_masks_are_the_channels_resized_and_scaled():
    a = torch.randn(5, 3, 4, dtype=torch.float64)
    expected = torch.stack([unit(enlarged(channel, 8, 10)) for channel in a])
    close(masking.channel_masks(a, (8, 10)), expected, 1e-14)


NETS = {
    "resnet18": "layer3",
    "densenet121": "features.denseblock3",
    "mobilenet_v2": "features.12",
    "vgg11": "features.10",
    "convnext_tiny": "features.5",
    "squeezenet1_0": "features.9",
    "swin_t": "features.3",
    "vit_b_16": "encoder.layers.encoder_layer_10",
}


@pytest.fixture(scope="module", params=NETS)
def real(request):
    torch.manual_seed(0)
    options = {"image_size": 64} if request.param == "vit_b_16" else {}
    net = getattr(torchvision.models, request.param)(weights=None, num_classes=7, **options).eval()
    if request.param == "vit_b_16":
        nn.init.normal_(net.heads.head.weight)  # torchvision starts it at zero, which would make every score alike
    if request.param == "squeezenet1_0":
        net.classifier[1].weight.data.abs_()  # lest its last ReLU is shut
    return net, NETS[request.param], torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_rescoring_the_tail_equals_whole_forwards_on_real_nets(real):
    """The reference changes the layer's output by a hook of its own and runs the whole net on the images one by one."""
    net, layer, x = real
    with no_trace(net), open_session(net, [layer]) as session:
        seen = Seen(session.forward(x, find(torch.tensor([3, 5]))), layer)
        for i, c in enumerate((3, 5)):
            k = torch.arange(0, seen.activation.shape[1], max(1, seen.activation.shape[1] // 3))
            changed = seen.activation[i].repeat(len(k), 1, 1, 1)
            changed[range(len(k)), k] = 0
            changed[0] *= 1.5
            found = seen.rescore(i, activation=changed)
            assert (found - seen.score[i]).abs().max() > 1e-4 * seen.score[i].abs()  # the change is felt
            for n, one in enumerate(changed):
                put = partial(seen.forward.outputs[layer].layout.from_map, one[None])
                handle = modules_by_name(net)[layer].register_forward_hook(lambda m, args, output, put=put: put(output))
                expected = float(net(x[i : i + 1])[0, c].detach())
                handle.remove()
                assert abs(found[n] - expected) <= 1e-5 * max(1.0, abs(expected))
            with torch.no_grad():
                close(seen.rescore(i, image=x[i : i + 1] * 0.5), net(x[i : i + 1] * 0.5)[:, c], 1e-5)
        assert (seen.rescore(0, activation=seen.activation[:1]) - seen.score[0]).abs() < 1e-5


def test_methods_run_on_real_nets_and_leave_them_alone(real):
    net, layer, x = real
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sides = None
    for method in ("recipro_cam", {"score_cam": {"chunk": 256}}):
        if method != "recipro_cam" and not isinstance(net, torchvision.models.SqueezeNet):
            continue  # a forward a channel
        found = explain(net, x[:1], layer=layer, method=method, target=3).heat
        sides = sides or found.shape
        assert found.shape == sides
        assert found.isfinite().all()
        assert found.any()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_deterministic_and_touch_no_global_random_state(method):
    from lightning_cam import methods

    net, x = gap_linear(), images()
    with open_session(net, ["features"]) as session:
        seen = Seen(session.forward(x, find(1)), "features")
        state = torch.get_rng_state()
        first = methods.find(method).function(seen)
        torch.rand(5)
        torch.set_rng_state(state)
        assert torch.equal(methods.find(method).function(seen), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert not first.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_an_image_alone_gives_the_map_it_gives_in_a_batch(method):
    net, x = gap_linear(), images()
    close(heat(net, x[:1], method, CLASSES[:1]), heat(net, x, method)[:1], 1e-12)
    if method != "random_cam":
        close(heat(net, x[2:], method, CLASSES[2:]), heat(net, x, method)[2:], 1e-12)


def test_random_maps_depend_on_nothing_but_their_seed():
    net, other, x = gap_linear(), conv_head(3), images()
    assert torch.equal(heat(net, x, "random_cam"), heat(other, 2 * x, "random_cam", [1, 1, 1]))
    assert not torch.equal(heat(net, x, "random_cam"), heat(net, x, {"random_cam": {"seed": 1}}))
    assert torch.equal(heat(net, x, "random_cam").float(), heat(net.float(), x.float(), "random_cam"))
    many = torch.cat([heat(net.double(), x, {"random_cam": {"seed": s}}).flatten() for s in range(50)])
    assert abs(many.mean() - 0.5) < 5 / math.sqrt(12 * len(many))


def test_methods_explain_scores_without_a_gradient():
    net, x = gap_linear(), images()

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).detach()

    for method in METHODS:
        close(heat(Detached(), x, method, layer="net.features"), heat(net, x, method), 1e-14)


@pytest.mark.parametrize("sides", [1, 3])
def test_signals_and_volumes_are_perturbed_alike(sides):
    conv, pool = {1: (nn.Conv1d, nn.AdaptiveAvgPool1d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[sides]
    torch.manual_seed(0)
    net = nn.Sequential(conv(2, 4, 3, 2, 1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(4, 3)).double().eval()
    x = torch.randn(2, 2, *(8, 6, 10)[:sides], dtype=torch.float64)
    with open_session(net, ["1"]) as session:
        seen = Seen(session.forward(x, find(1)), "1")
        expected = torch.einsum("c,bc...->b...", net[4].weight[1].detach(), seen.activation) / seen.activation[0, 0].numel()
        from lightning_cam import methods

        close(methods.recipro_cam(seen), expected)
        close(methods.token_ablation(seen, fill="zero"), expected)
        for name in METHODS:
            found = methods.find(name).function(seen)
            assert found.shape == (2, *seen.activation.shape[2:])
            assert found.isfinite().all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"ss_cam": {"sigma": -1.0}}, "standard deviation, 0 or more"),
        ({"ss_cam": {"n": 0}}, "how often each mask is changed"),
        ({"is_cam": {"n": 0}}, "how often each mask is changed"),
        ({"ablation_cam": {"chunks": 3}}, "no option 'chunks'. Did you mean 'chunk'"),
        ({"recipro_cam": {"kernel": [0.5, 0.5]}}, "expected an odd number of shares, the place's own in the middle"),
        ({"recipro_cam": {"fill": "shuffle"}}, "fill='shuffle': expected 'zero', or 'mean' for the sample's mean over the map"),
        ({"token_ablation": {"fill": 0.0}}, "fill=0.0: expected 'zero', or 'mean'"),
        ({"score_cam": {"channels": 0}}, "channels=0: expected how many channels are tried, 1 or more, or None for all"),
        ({"ss_cam": {"channels": -1}}, "channels=-1: expected how many channels are tried"),
        ({"is_cam": {"channels": 0}}, "channels=0: expected how many channels are tried"),
    ],
)
def test_mistakes_say_what_would_be_right(method, message):
    with pytest.raises(ValueError, match=message):
        heat(gap_linear(), images(), method)
