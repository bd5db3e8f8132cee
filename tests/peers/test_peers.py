"""Other libraries' numbers, where they are right; and where they are not, that they still are not.

A test of a divergence fails when the peer mends it: then the comment beside it is out of date.
"""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lightning_cam import explain
from lightning_cam.methods import wrappers

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

LAYERS = {"resnet18": "layer4", "vgg11": "features", "mobilenet_v2": "features", "squeezenet1_1": "features"}
LAYERS |= {"regnet_y_400mf": "trunk_output", "googlenet": "inception5b"}
LAYERS["densenet121"] = "features"  # an in-place ReLU overwrites what this layer returns
POOLED = {
    "resnet18": "fc",
    "mobilenet_v2": "classifier.1",
    "regnet_y_400mf": "fc",
    "googlenet": "fc",
    "densenet121": "classifier",
}
CLASSES = [3, 1]


@cache
def network(name: str) -> nn.Module:
    """Random weights and batch norms; in float64, since min-max of a map that is nearly flat shows float32's rounding."""
    torch.manual_seed(0)
    quiet = {"init_weights": True} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, num_classes=10, **quiet).eval()
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return net.double()


def pictures() -> Tensor:
    return torch.randn(2, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def ours(name: str, method: object) -> Tensor:
    return explain(network(name), pictures(), layer=LAYERS[name], method=method, target=torch.tensor(CLASSES)).heat


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


nets = pytest.mark.parametrize("name", LAYERS)
without_in_place = pytest.mark.parametrize("name", [name for name in LAYERS if name != "densenet121"])


# ---- captum ------------------------------------------------------------------------------------------------------------


def captum(kind: str, name: str, **options: object) -> Tensor:
    attr = pytest.importorskip("captum.attr")
    net = network(name)
    explainer = getattr(attr, kind)(net, net.get_submodule(LAYERS[name]))
    return explainer.attribute(pictures(), target=torch.tensor(CLASSES), **options).detach()


@without_in_place
def test_captum_grad_cam(name):
    assert apart(ours(name, "grad_cam"), captum("LayerGradCam", name)[:, 0]) <= 1e-10


@without_in_place
def test_captum_gradient_times_activation_is_hires_cam(name):
    assert apart(ours(name, "hires_cam"), captum("LayerGradientXActivation", name).sum(1)) <= 1e-10


@without_in_place
def test_captum_integrated_gradients(name):
    theirs = captum("LayerIntegratedGradients", name, n_steps=4, method="riemann_middle").sum(1)
    assert apart(ours(name, {"integrated_gradients": {"steps": 4}}), theirs) <= 1e-10


@without_in_place
def test_captum_guided_grad_cam(name):
    """It guides ReLU modules only, and googlenet calls the function; ours guides both."""
    theirs = captum("GuidedGradCam", name, interpolate_mode="bilinear").sum(1)
    different = apart(ours(name, "guided_grad_cam"), theirs)
    assert different > 0.1 if name == "googlenet" else different <= 1e-10


def test_captum_takes_what_an_in_place_relu_overwrites():
    """Activation behind the ReLU, gradient before it."""
    assert apart(ours("densenet121", "grad_cam"), captum("LayerGradCam", "densenet121")[:, 0]) > 0.01


# ---- torchcam ----------------------------------------------------------------------------------------------------------


def torchcam(kind: str, name: str) -> Tensor:
    methods = pytest.importorskip("torchcam.methods")
    net = network(name)
    with getattr(methods, kind)(net, LAYERS[name], input_shape=(3, 96, 96)) as extractor:
        scores = net(pictures().requires_grad_())
        (found,) = extractor(CLASSES, scores, normalized=False)
    return found.detach()


@nets
@pytest.mark.parametrize(("kind", "method"), [("GradCAM", "grad_cam"), ("XGradCAM", "x_grad_cam"), ("LayerCAM", "layer_cam")])
def test_torchcam(kind, method, name):
    tolerance = 1e-6 if kind == "XGradCAM" else 1e-10  # it adds 1e-8 to the channel's sum
    assert apart(ours(name, method).relu(), torchcam(kind, name)) <= tolerance


def torchcam_cam(name: str) -> Tensor:
    methods = pytest.importorskip("torchcam.methods")
    with methods.CAM(network(name), LAYERS[name], POOLED[name], input_shape=(3, 96, 96)) as extractor:
        network(name)(pictures())
        return extractor(CLASSES, normalized=False)[0].detach()


@pytest.mark.parametrize("name", POOLED)
def test_torchcam_cam(name):
    assert apart(ours(name, "cam"), torchcam_cam(name)) <= 1e-10


def test_torchcam_cam_is_documented_with_a_relu_and_has_none():
    assert any(torchcam_cam(name).min() < 0 for name in POOLED)


@nets
def test_torchcam_grad_cam_pp_loses_its_division(name):
    """alpha stays g^2: the division writes to a masked copy."""
    theirs, mine = torchcam("GradCAMpp", name), ours(name, "grad_cam_pp").relu()
    assert apart(mine / mine.amax((1, 2), True), theirs / theirs.amax((1, 2), True)) > 0.01


# ---- pytorch-grad-cam --------------------------------------------------------------------------------------------------


def grad_cam_package(kind: str, name: str, **options: object) -> Tensor:
    package = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net = network(name)
    with getattr(package, kind)(net, [net.get_submodule(LAYERS[name])], **options) as cam:
        return torch.from_numpy(cam(pictures(), [ClassifierOutputTarget(c) for c in CLASSES]))


def shown(heat: Tensor, side: int = 96) -> Tensor:
    """What pytorch-grad-cam makes of a raw map: rectified, min-max, resized, min-max."""

    def unit(heat):
        heat = heat - heat.amin((1, 2), True)
        return heat / (1e-7 + heat.amax((1, 2), True))

    return unit(F.interpolate(unit(heat.relu())[:, None], (side, side), mode="bilinear")[:, 0])


SAME = {
    "GradCAM": "grad_cam",
    "HiResCAM": "hires_cam",
    "LayerCAM": "layer_cam",
    "GradCAMElementWise": "grad_cam_elementwise",
    "ShapleyCAM": "shapley_cam",
    "SegEigenCAM": "seg_eigen_cam",
    "XGradCAM": "x_grad_cam",  # but for 1e-7 added to the channel's sum
}


@without_in_place
@pytest.mark.parametrize("kind", SAME)
def test_grad_cam_package(kind, name):
    assert (shown(ours(name, SAME[kind])) - grad_cam_package(kind, name)).abs().max() <= 2e-6


@without_in_place
@pytest.mark.parametrize("kind", ["EigenCAM", "EigenGradCAM", "KPCA_CAM"])
def test_grad_cam_package_components_but_for_their_sign(kind, name):
    method = {"EigenCAM": {"kpca_cam": {"kernel": "linear"}}, "EigenGradCAM": "eigen_grad_cam", "KPCA_CAM": "kpca_cam"}[kind]
    mine, theirs = ours(name, method), grad_cam_package(kind, name)
    for one, other in zip(mine, theirs, strict=True):
        either = [float((shown(sign * one[None])[0] - other).abs().max()) for sign in (1, -1)]
        assert min(either) <= 2e-6


@without_in_place
def test_grad_cam_package_ablation_cam_but_for_its_sign(name):
    """It divides by the score itself, so its map turns over where the score is negative."""
    package = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, x = network(name), pictures()[:1, :, :64, :64]
    found = explain(net, x, layer=LAYERS[name], method="ablation_cam", target=CLASSES[0])
    with package.AblationCAM(net, [net.get_submodule(LAYERS[name])], batch_size=64) as cam:
        theirs = torch.from_numpy(cam(x, [ClassifierOutputTarget(CLASSES[0])]))
    assert (shown(found.heat * found.score.sign()[:, None, None], 64) - theirs).abs().max() <= 1e-4


@without_in_place
def test_grad_cam_package_sess(name, monkeypatch):
    """Without its blur, but for the scale of a window's map: min-max, so that the weakest place of any window shows nothing."""
    package = pytest.importorskip("pytorch_grad_cam.sess")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net = network(name)
    with package.SESS(net, [net.get_submodule(LAYERS[name])], num_scales=3, smooth=False) as cam:
        theirs = torch.from_numpy(cam(pictures(), [ClassifierOutputTarget(c) for c in CLASSES]))
    monkeypatch.setattr(wrappers, "share_of_maximum", shown)
    assert (shown(ours(name, {"sess": {"method": "grad_cam", "scales": 3, "step": 27 / 96}})) - theirs).abs().max() <= 1e-4


def test_grad_cam_package_leaves_the_sign_of_components_to_chance():
    flipped = []
    for name in LAYERS:
        mine, theirs = shown(ours(name, {"kpca_cam": {"kernel": "linear"}})), grad_cam_package("EigenCAM", name)
        flipped += [(a - b).abs().max() > 0.5 for a, b in zip(mine, theirs, strict=True)]
    assert any(flipped)


def test_grad_cam_package_grad_cam_pp_has_an_epsilon_larger_than_its_gradients():
    """1e-6 against g^2 of about 1e-7: on these nets the map it shows is another."""
    off = max((shown(ours(name, "grad_cam_pp")) - grad_cam_package("GradCAMPlusPlus", name)).abs().max() for name in LAYERS)
    assert off > 1e-3


def test_grad_cam_package_takes_what_an_in_place_relu_overwrites():
    """Its copy is behind the ReLU on a CPU, before it on a GPU; its gradient is always that before."""
    assert (shown(ours("densenet121", "grad_cam")) - grad_cam_package("GradCAM", "densenet121")).abs().max() > 1e-3


def test_grad_cam_package_fem_weights_activations_where_the_paper_weights_masks():
    assert (shown(ours("resnet18", "fem")) - grad_cam_package("FEM", "resnet18")).abs().max() > 0.01


def test_grad_cam_package_full_grad_stretches_every_channel():
    """Min-max of each channel, where paper and authors' code rescale a layer; so channels that hardly matter count fully."""
    mine = ours("resnet18", "full_grad")
    low, high = mine.amin((1, 2), True), mine.amax((1, 2), True)
    assert ((mine - low) / (high - low) - grad_cam_package("FullGrad", "resnet18")).abs().max() > 0.01
