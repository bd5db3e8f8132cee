"""Signed, dead and vanishing channels, components, precision and dimensions: every method of one forward and gradients."""

import pytest
import torch
from compare import close
from maps import AT_IMAGE, AT_LAYER, CLASSES, EVERY, heat
from reference import REFERENCES, Case
from reference_gradient import centred, first_component
from torch import nn
from zoo import Net, conv_head, flatten_linear, gap_linear, gap_mlp, images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods import METHODS
from lightning_cam.targets import find

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


@pytest.mark.parametrize("beside", [0.0, 1e-4, -1e-4])
def test_grad_cam_pp_stays_finite_on_its_pole_and_beside_it(beside):
    """g sum A = -2: one channel of sum -2 and a gradient of 1."""
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(8, 2, bias=False)).double()
    nn.init.constant_(net[2].weight, 1.0)
    x = torch.tensor([[[-1.0 + beside, -1.0], [0.5, -0.5]], [[1.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)[None]
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


@pytest.mark.parametrize("method", ["eigen_cam", "eigen_grad_cam", "seg_eigen_cam", "kpca_cam"])
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
        for method in ("eigen_cam", {"kpca_cam": {"kernel": "linear"}}, "kpca_cam"):
            assert ((heat(net, x, method) * mean).sum((1, 2)) >= 0).all()
        assert ((heat(net, x, "eigen_grad_cam") * heat(net, x, "hires_cam")).sum((1, 2)) >= 0).all()


def test_centred_eigen_cam_is_kernel_pca_with_the_linear_kernel():
    net, x = flatten_linear(), images()
    centred_eigen = [first_component(centred(a), a.mean(0)) for a in net.features(x).detach()]
    close(heat(net, x, {"kpca_cam": {"kernel": "linear"}}), torch.stack(centred_eigen), 1e-10)


@pytest.mark.parametrize("channels", [3, 20, 40])
def test_either_gram_matrix_gives_the_same_component(channels):
    net = Net(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)), channels=channels)
    close(heat(net, images(), "eigen_cam"), REFERENCES["eigen_cam"](net.case(), images(), CLASSES))


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match=r"No kernel 'cubic'; known: sigmoid, rbf, linear"):
        heat(gap_mlp(), images(), {"kpca_cam": {"kernel": "cubic"}})


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
    with open_session(net, ["1"]) as session:
        found = METHODS.find(method).function(Seen(session.forward(x, find(1)), "1"))
    assert found.shape == (2, *SIDES[sides]) and found.isfinite().all() and found.any()
    if method not in AT_IMAGE:
        same = "hires_cam" if method == "grad_cam" else method  # behind pooling; the other reference is for pictures
        close(found, REFERENCES[same](Case(net[:2], net[2:]), x, [1, 1]))


def test_fem_says_where_no_place_can_stand_out():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match=r"of the 4 places of the map at '1' none can be"):
        explain(net, images()[..., :2, :2], layer="1", method="fem")
    explain(net, images()[..., :2, :2], layer="1", method={"fem": {"sigmas": 1.0}})
