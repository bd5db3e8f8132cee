"""Methods made from methods: found by name, averaged as said, and the method itself where nothing is changed."""

import pytest
import torch
from compare import close
from maps import CLASSES, heat
from reference import REFERENCES
from reference_perturbation import smooth_grad_cam_pp
from torch import nn
from zoo import ZOO, flatten_linear, gap_linear, images

from lightning_cam import explain, methods
from lightning_cam.methods import flip_average, smooth
from lightning_cam.registry import METHODS, Registry


def noisy(x, n, sigma, seed):
    """Image after image, noise after noise."""
    found = []
    for image in x:
        generator = torch.Generator().manual_seed(seed)
        deviation = sigma * float(image.max() - image.min())
        found.append(
            torch.stack(
                [image + deviation * torch.randn(image.shape, generator=generator, dtype=torch.float64) for _ in range(n)]
            )
        )
    return torch.stack(found)


@pytest.mark.parametrize("head", ZOO)
@pytest.mark.parametrize("method", ["grad_cam", "activation_mean"])
def test_smooth_is_the_mean_of_the_maps_of_noisy_images(head, method):
    net, x = ZOO[head](), images(seed=3)
    expected = []
    for image_set, c in zip(noisy(x, 8, 0.05, 0), CLASSES, strict=True):
        expected.append(REFERENCES[method](net.case(), image_set, [c] * 8).mean(0))
    close(heat(net, x, {"smooth": {"method": method}}), torch.stack(expected))


def test_smooth_takes_its_options():
    net, x = flatten_linear(), images()
    expected = [
        REFERENCES["grad_cam"](net.case(), image_set, [c] * 3).mean(0)
        for image_set, c in zip(noisy(x, 3, 0.4, 9), CLASSES, strict=True)
    ]
    close(heat(net, x, smooth("grad_cam", n=3, sigma=0.4, seed=9)), torch.stack(expected))


@pytest.mark.parametrize("method", ["grad_cam", "activation_mean", {"activation_mean": {"channels": 3}}, "recipro_cam"])
def test_smooth_without_noise_is_the_method(method):
    net, x = flatten_linear(), images()
    close(heat(net, x, {"smooth": {"method": method, "sigma": 0.0}}), heat(net, x, method), 1e-15)


@pytest.mark.parametrize("head", ZOO)
def test_smooth_grad_cam_pp_equals_its_reference(head):
    net, x = ZOO[head](1), images(seed=1)
    close(heat(net, x, "smooth_grad_cam_pp"), smooth_grad_cam_pp(net.case(), x, CLASSES))
    options = {"n": 3, "sigma": 0.5, "seed": 2}
    close(heat(net, x, {"smooth_grad_cam_pp": options}), smooth_grad_cam_pp(net.case(), x, CLASSES, **options))


def test_smooth_grad_cam_pp_after_pooling_and_a_linear_head_is_in_closed_form():
    """The gradient is w_k / Z at every image, so noise changes nothing: w_k = ReLU(w_k) / (2 + w_k mean(A_k))."""
    net, x = gap_linear(), images()
    a, w = net.features(x).detach(), net.head[-1].weight.detach()[CLASSES]
    expected = torch.einsum("bc,bcuv->buv", w.relu() / (2 + w * a.mean((2, 3))), a)
    close(heat(net, x, "smooth_grad_cam_pp"), expected, 1e-12)


@pytest.mark.parametrize(("near", "expected"), [(0.3, 1 / 0.3), (0.01, 1 / 0.01), (1e-4, 0.0)])
def test_smooth_grad_cam_pp_leaves_the_pole_of_signed_channels_out(near, expected):
    """With a single weight w = (2 - near) / -mean(A_k) at a channel of negative mean, alpha is 1 / near."""
    net, x = gap_linear(), images(1)
    net.features[3] = nn.Identity()
    a = net.features(x).detach()
    k = int(a.mean((2, 3)).argmin())
    w = (2 - near) / -float(a[0, k].mean())
    with torch.no_grad():
        net.head[-1].weight.zero_()
        net.head[-1].weight[2, k] = w
    close(heat(net, x, "smooth_grad_cam_pp", [2]), w * expected * a[:, k], 1e-8)


def test_smooth_grad_cam_pp_is_not_the_mean_of_maps_unless_nothing_is_changed():
    net, x = flatten_linear(), images()

    def both(sigma):
        methods = {"smooth": {"method": "grad_cam_pp", "sigma": sigma}}, {"smooth_grad_cam_pp": {"sigma": sigma}}
        return [heat(net, x, method) for method in methods]

    close(*both(0.0))
    mean, paper = both(0.3)
    assert (mean - paper).abs().max() > 1e-3 * paper.abs().max()


def symmetric(net):
    for conv in (net.features[0], net.features[2]):
        with torch.no_grad():
            conv.weight.copy_((conv.weight + conv.weight.flip(-1)) / 2)
    net.features[2].stride = (2, 1)  # a stride that starts at one edge is not symmetric
    return net


def test_the_flipped_map_of_a_symmetric_net_is_the_map_of_the_flipped_image():
    net, x = symmetric(gap_linear()), images()
    close(heat(net, x, flip_average("grad_cam")), heat(net, x, "grad_cam"), 1e-12)
    plain = gap_linear()  # the control
    assert (heat(plain, x, flip_average("grad_cam")) - heat(plain, x, "grad_cam")).abs().max() > 1e-4


@pytest.mark.parametrize("method", ["grad_cam", "activation_mean", "ablation_cam"])
def test_flip_average_is_the_mean_of_both_maps_at_matching_places(method):
    net, x = flatten_linear(), images()
    straight = REFERENCES[method](net.case(), x, CLASSES)
    mirrored = REFERENCES[method](net.case(), x.flip(-1), CLASSES)
    expected = torch.zeros_like(straight)
    for v in range(5):
        expected[:, :, v] = (straight[:, :, v] + mirrored[:, :, 4 - v]) / 2
    close(heat(net, x, flip_average(method)), expected)


def test_the_map_of_a_flipped_image_is_the_flipped_map():
    net, x = flatten_linear(), images()
    close(heat(net, x.flip(-1), flip_average("grad_cam")), heat(net, x, flip_average("grad_cam")).flip(-1), 1e-14)


def test_classes_are_those_of_the_image_as_it_is():
    net, x = flatten_linear(), images(12)
    with torch.no_grad():
        net.head[-1].bias -= net(x).mean(0)
    said = net(x).argmax(1)
    assert (net(x.flip(-1)).argmax(1) != said).any()
    found = explain(net, x, layer="features", method=flip_average("grad_cam"), target="predicted")
    close(found.heat, heat(net, x, flip_average("grad_cam"), said.tolist()), 1e-14)


@pytest.mark.parametrize("method", [smooth("grad_cam", n=2), flip_average("grad_cam"), "smooth_grad_cam_pp"])
def test_wrapped_methods_are_deterministic_and_touch_nothing(method):
    net, x = flatten_linear(), images()
    net.train()
    state, before = torch.get_rng_state(), x.clone()
    first = heat(net, x, method)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(heat(net, x, method), first)
    assert torch.equal(x, before)
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())
    close(heat(net, x[1:2], method, CLASSES[1:2]), first[1:2], 1e-12)
    assert not first.requires_grad


def test_several_targets_and_layers_are_wrapped_each():
    net, x = flatten_linear(), images()
    several = explain(net, x, layer="features", method=smooth("grad_cam", n=2), target=[0, 3]).heat
    close(several[:, 1], heat(net, x, smooth("grad_cam", n=2), [3] * 3), 1e-14)


def test_wrappers_are_found_by_name_with_options_and_nested():
    label = methods.find({"smooth": {"method": "grad_cam", "n": 8}}).label
    assert label == "smooth_grad_cam_8"
    assert methods.find(smooth("grad_cam", n=8)).label == label
    assert methods.find(smooth("grad_cam")).label == "smooth_grad_cam"
    assert methods.find(flip_average({"activation_mean": {"channels": 3}})).label == "flip_average_activation_mean_3"
    nested = {"smooth": {"method": {"flip_average": {"method": "grad_cam"}}, "n": 2}}
    assert methods.find(nested).label == "smooth_flip_average_grad_cam_2"
    assert METHODS.wrappers() == ["smooth", "flip_average", "sess", "libra"]
    assert "smooth" not in methods.names()
    net, x = flatten_linear(), images()
    close(heat(net, x, nested), heat(net, x, smooth(flip_average("grad_cam"), n=2)), 1e-15)


def test_a_family_takes_new_wrappers():
    family = Registry("method")

    @family.register
    def one(seen):
        return 1.0

    @family.wrapper
    def times(method, *, factor=2.0):
        """Times a factor."""
        return lambda seen: factor * method(seen)

    assert family.find({"times": {"method": "one", "factor": 3.0}}).function(None) == 3.0
    assert family.find(times("one")).function(None) == 2.0
    assert times.__doc__ == "Times a factor."


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("smooth", r"smooth wraps another method: {'smooth': {'method': ...}}; none was given"),
        (smooth, "smooth wraps another method"),
        ({"smooth": {"n": 3}}, "smooth wraps another method"),
        ({"smooth": {"method": "gradcam"}}, "No method 'gradcam'. Did you mean 'grad_cam'"),
        ({"smooth": {"method": "grad_cam", "sigmas": 1}}, "smooth has no option 'sigmas'. Did you mean 'sigma'"),
        ({"flip_average": {"method": "grad_cam", "n": 1}}, "flip_average has no option 'n'. It takes: none"),
        ({"smooth": {"method": "grad_cam", "n": 0}}, "how many noisy images are averaged, 1 or more"),
        ({"smooth": {"method": "grad_cam", "sigma": -1}}, "standard deviation, 0 or more"),
        ("smoth", "Did you mean 'smooth'"),
    ],
)
def test_mistakes_say_what_would_be_right(method, message):
    with pytest.raises(ValueError, match=message):
        heat(gap_linear(), images(), method)


def test_images_of_whole_numbers_take_no_noise():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_linear()

        def forward(self, x):
            return self.net(x.double() / 255)

    x = (images().sigmoid() * 255).to(torch.uint8)
    assert explain(Scaled(), x, layer="net.features", method=flip_average("grad_cam")).heat.shape == (3, 4, 5)
    with pytest.raises(ValueError, match=r"floating point numbers; these are torch\.uint8"):
        explain(Scaled(), x, layer="net.features", method=smooth("grad_cam"))
    seen = explain(Scaled(), x, layer="net.features", method="score_cam", target=1)
    assert seen.heat.isfinite().all()


WRAPPED = {
    "smooth": {"smooth": {"method": "grad_cam"}},
    "flip_average": {"flip_average": {"method": "hires_cam"}},
    "sess": {"sess": {"method": "grad_cam"}},
    "smooth_grad_cam_pp": "smooth_grad_cam_pp",
}


@pytest.mark.parametrize("method", WRAPPED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_lower_precision_stays_near(method, dtype, tolerance):
    net, x = gap_linear(), images().bfloat16().double()
    for parameter in net.parameters():
        parameter.data = parameter.data.bfloat16().double()
    exact = heat(net, x, WRAPPED[method])
    low = heat(net.to(dtype), x.to(dtype), WRAPPED[method])
    assert low.dtype == torch.float32
    assert (low - exact).abs().max() <= tolerance * exact.abs().max()
