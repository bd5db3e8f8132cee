"""Perturbation methods beside other libraries: equal where they do the same, and where they do not, differing as known.

A known divergence is asserted, so that a change there is noticed.
"""

import pytest
import torch
import torch.nn.functional as F
from compare import close
from maps import CLASSES, heat
from torch import nn
from zoo import flatten_linear, gap_linear, gap_mlp, images

from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods.perturbation import masking
from lightning_cam.no_trace import no_trace
from lightning_cam.targets import find

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

FINE, COARSE = "features.1", "features"  # a map of the image's own size, and one of half of it


def far(a, b, least=0.01):
    assert (a - b).abs().max() > least * b.abs().max()


def torchcam(name, net, layer, x, **options):
    """The peer's raw maps after its ReLU."""
    found = pytest.importorskip("torchcam.methods")
    with getattr(found, name)(net, layer, input_shape=tuple(x.shape[1:]), **options) as extractor:
        scores = net(x)
        return extractor(CLASSES, scores, normalized=False)[0].detach()


def grad_cam_package(name, net, layer, x):
    """The peer's maps, each scaled to [0, 1]."""
    found = pytest.importorskip("pytorch_grad_cam")
    target = pytest.importorskip("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    with getattr(found, name)(model=net, target_layers=[net.get_submodule(layer)]) as extractor:
        return torch.from_numpy(extractor(input_tensor=x, targets=[target(c) for c in CLASSES]))


def scaled(maps):
    """ReLU, then each map to [0, 1]."""
    maps = maps.relu() - maps.relu().amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


def resized(maps, size):
    """As pytorch-grad-cam shows them: scaled, resized, and scaled again."""
    return scaled(F.interpolate(scaled(maps)[:, None], size, mode="bilinear", align_corners=False)[:, 0])


def with_masks(net, x, layer, masks_of, monkeypatch):
    """Our map with masks made otherwise."""
    monkeypatch.setattr(masking, "channel_masks", masks_of)
    return heat(net, x, "score_cam", layer=layer)


def low_first(a, size):
    """torchcam: scaled at the map's own size, then resized, so that masks do not reach 0 and 1."""
    flat = a.flatten(1)
    low, high = (side[:, None, None] for side in (flat.amin(1), flat.amax(1)))
    return F.interpolate(((a - low) / (high - low))[None], size, mode="bilinear", align_corners=False)[0]


def corners(a, size):
    """pytorch-grad-cam: resized so that the corner cells lie on the corner pixels."""
    large = F.interpolate(a[None], size, mode="bilinear", align_corners=True)[0]
    flat = large.flatten(1)
    low, high = (side[:, None, None] for side in (flat.amin(1), flat.amax(1)))
    return (large - low) / (high - low)


@pytest.fixture
def case():
    return gap_mlp().float(), images().float()


def test_torchcams_score_cam_is_equal_where_nothing_is_resized(case):
    net, x = case
    close(heat(net, x, "score_cam", layer=FINE).relu(), torchcam("ScoreCAM", net, FINE, x), 1e-5)


def test_torchcams_score_cam_scales_masks_before_it_resizes_them(case, monkeypatch):
    net, x = case
    with torch.no_grad():
        net.head[-1].weight *= 100  # lest the softmax over channels is uniform whatever the masks are
    theirs = torchcam("ScoreCAM", net, COARSE, x)
    far(heat(net, x, "score_cam", layer=COARSE).relu(), theirs)
    close(with_masks(net, x, COARSE, low_first, monkeypatch).relu(), theirs, 1e-4)


def test_grad_cam_packages_score_cam_is_equal_where_nothing_is_resized(case):
    net, x = case
    close(scaled(heat(net, x, "score_cam", layer=FINE)), grad_cam_package("ScoreCAM", net, FINE, x), 1e-5)


def test_grad_cam_packages_score_cam_aligns_corners(case, monkeypatch):
    net, x = case
    with torch.no_grad():
        net.head[-1].weight *= 100

    theirs = grad_cam_package("ScoreCAM", net, COARSE, x)
    far(resized(heat(net, x, "score_cam", layer=COARSE), x.shape[2:]), theirs)
    close(resized(with_masks(net, x, COARSE, corners, monkeypatch), x.shape[2:]), theirs, 1e-4)


def raised(net, x, above):
    """Biases such that the explained scores all lie above or below zero."""
    s = net(x).detach()[range(3), CLASSES]
    with torch.no_grad():
        net.head[-1].bias += (1 if above else -1) * 2 * s.abs().max()
    return net


def test_grad_cam_packages_ablation_cam_is_equal_for_positive_scores_of_rectified_maps(case):
    net, x = case
    raised(net, x, above=True)
    close(scaled(heat(net, x, "ablation_cam", layer=FINE)), grad_cam_package("AblationCAM", net, FINE, x), 1e-4)


def test_grad_cam_packages_ablation_cam_turns_over_where_the_score_is_negative(case):
    net, x = case
    raised(net, x, above=False)
    ours, theirs = heat(net, x, "ablation_cam", layer=FINE), grad_cam_package("AblationCAM", net, FINE, x)
    close(scaled(-ours), theirs, 1e-4)
    far(scaled(ours), theirs, 0.1)


def test_grad_cam_packages_ablation_cam_sinks_ten_million_deeper_with_every_channel_of_a_signed_map():
    """It puts the minimum less 10^7 for zero, the minimum being that of the samples it has already changed.

    After pooling and a linear head its weight of channel k is then (k + 1) w_k 10^7 / S, whatever A_k is.
    """
    net, x = gap_linear().float(), images().float()
    net.features[3] = nn.Identity()
    raised(net, x, above=True)

    theirs = grad_cam_package("AblationCAM", net, COARSE, x)
    far(resized(heat(net, x, "ablation_cam", layer=COARSE), x.shape[2:]), theirs, 0.1)
    w = net.head[-1].weight.detach()[CLASSES] * torch.arange(1, 7)
    close(resized(torch.einsum("bc,bcuv->buv", w, net.features(x).detach()), x.shape[2:]), theirs, 1e-3)


@pytest.mark.parametrize("fill", [0.0, -1.5])
def test_captums_occlusion_is_equal_where_windows_part_the_image(case, fill):
    """It gives each pixel the mean over the windows that cover it, which is one here."""
    net, x = case
    peer = pytest.importorskip("captum.attr").Occlusion(net)
    theirs = peer.attribute(x, (3, 4, 5), strides=(3, 4, 5), target=torch.tensor(CLASSES), baselines=fill)[:, 0]
    ours = heat(net, x, {"occlusion": {"window": 0.5, "stride": 0.5, "fill": fill}})
    close(ours.repeat_interleave(4, 1).repeat_interleave(5, 2), theirs, 1e-4)


def test_torchcams_is_cam_shows_masks_of_up_to_five_and_a_half(case):
    net, x = case
    with torch.no_grad():
        net.head[-1].weight *= 100
    theirs = torchcam("ISCAM", net, FINE, x)
    far(heat(net, x, "is_cam", layer=FINE).relu(), theirs)
    with no_trace(net), open_session(net, [FINE]) as session:
        seen = Seen(session.forward(x, find(torch.tensor(CLASSES))), FINE)
        summed = [sum(j / 10 for j in range(1, i + 1)) for i in range(1, 11)]
        assert summed[-1] == pytest.approx(5.5)
        close(masking.masked_scores_map(seen, [masking.faded(factor) for factor in summed], 64).relu(), theirs, 1e-4)


def test_torchcams_smooth_grad_cam_pp_is_equal_without_noise_where_the_gradient_is_constant():
    net, x = gap_linear().float(), images().float()
    ours = heat(net, x, {"smooth_grad_cam_pp": {"sigma": 0.0}}, layer=COARSE)
    close(torchcam("SmoothGradCAMpp", net, COARSE, x, std=1e-12), ours.relu(), 1e-3)  # its eps is absolute


def test_torchcams_smooth_grad_cam_pp_takes_the_last_noisy_activation():
    """After pooling and a linear head noise changes no gradient, so the paper's map is the same at any noise; theirs is not."""
    net, x = gap_linear().float(), images().float()
    close(heat(net, x, {"smooth_grad_cam_pp": {"sigma": 0.3}}, layer=COARSE), heat(net, x, "grad_cam_pp", layer=COARSE), 1e-5)
    torch.manual_seed(0)
    far(torchcam("SmoothGradCAMpp", net, COARSE, x, std=0.3), heat(net, x, "grad_cam_pp", layer=COARSE).relu(), 0.05)


def test_torchcams_smooth_grad_cam_pp_multiplies_before_it_sums():
    """sum(A g^3) for (sum A) g^3, which differs where the gradient varies over the map, noise or not."""
    net, x = flatten_linear().float(), images().float()
    with torch.no_grad():
        net.head[-1].weight *= 100
    ours = heat(net, x, {"smooth_grad_cam_pp": {"sigma": 0.0}}, layer=COARSE)
    far(torchcam("SmoothGradCAMpp", net, COARSE, x, std=1e-12), ours.relu(), 0.02)
