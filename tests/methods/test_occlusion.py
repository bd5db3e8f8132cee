"""Occlusion and RISE: slow references, closed forms of linear models, and models without any gradient."""

import math

import pytest
import reference_occlusion
import torch
import torch.nn.functional as F
from compare import close
from maps import CLASSES, heat
from reference import REFERENCES
from torch import nn
from zoo import ZOO, gap_linear, images

from lightning_cam import explain
from lightning_cam.methods.perturbation.occlusion import RandomMasks

FEW = {"occlusion": {"window": 0.5, "stride": 0.25}, "rise": {"n": 30}}


@pytest.mark.parametrize("head", ZOO)
@pytest.mark.parametrize("method", FEW)
def test_method_equals_its_reference_on_every_head(head, method):
    net, x = ZOO[head](), images(seed=1)
    close(heat(net, x, {method: FEW[method]}), REFERENCES[method](net.case(), x, CLASSES, **FEW[method]))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("occlusion", {}),
        ("occlusion", {"window": 0.3, "stride": 0.3, "fill": 0.0}),
        ("occlusion", {"window": 1.0, "stride": 0.125, "fill": -1.5}),
        ("occlusion", {"window": 0.4, "stride": 0.22}),
        ("rise", {"n": 12, "cells": 3, "p": 0.2, "seed": 5}),
        ("rise", {"n": 12, "cells": 1}),
        ("rise", {"n": 12, "cells": 20, "p": 0.9}),
    ],
)
def test_method_with_options_equals_its_reference(method, options):
    net, x = ZOO["flatten_linear"](2), images(seed=2)
    close(heat(net, x, {method: options}), REFERENCES[method](net.case(), x, CLASSES, **options))


def linear(sides):
    """Convolutions without a ReLU, mean and linear head for images of so many sides, and the gradient of logit 1."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[sides]
    torch.manual_seed(0)
    size = (8, 6, 10)[:sides]
    net = nn.Sequential(conv(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * math.prod(size), 3)).double().eval()
    x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    (w,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    return net, x.detach(), w


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_occlusion_of_a_linear_model_is_the_sum_of_what_is_covered(sides):
    net, x, w = linear(sides)
    share = (w * (x - x.flatten(2).mean(2).reshape(2, 2, *[1] * sides))).sum(1)
    pieces = share
    for _ in range(sides):  # two windows of half a side each
        pieces = torch.stack([half.sum(1) for half in pieces.tensor_split(2, 1)], -1)
    options = {"window": 0.5, "stride": 0.5}
    close(explain(net, x, layer="0", method={"occlusion": options}, target=1).heat, pieces)


def test_occlusion_after_pooling_and_a_linear_head_is_in_closed_form():
    """Of 1x1 convolutions without a ReLU, S = sum_z v_z mean(x_z): the window's own share of that."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double().eval()
    x = images()[:, :, :, :8]
    v = (net[3].weight @ net[0].weight[:, :, 0, 0])[CLASSES].detach()
    windows = F.avg_pool2d(torch.einsum("bz,bzhw->bhw", v, x), 2, 2) * 4 / 64
    found = explain(
        net, x, layer="0", method={"occlusion": {"window": 0.25, "stride": 0.25, "fill": 0.0}}, target=torch.tensor(CLASSES)
    )
    close(found.heat, windows, 1e-12)


def test_a_model_that_looks_at_nothing_has_no_evidence():
    net, x = gap_linear(), images()
    nn.init.zeros_(net.head[-1].weight)
    assert not heat(net, x, "occlusion").any()
    assert heat(net, x, {"rise": {"n": 40}}).abs().max() < 1e-14


class Normalized(nn.Module):
    """A net for images that were normalised by other numbers."""

    def __init__(self, net, mean, std):
        super().__init__()
        self.net, self.mean, self.std = net, mean, std

    def forward(self, x):
        return self.net(x * self.std + self.mean)


def test_the_mean_covers_alike_however_images_are_normalised_and_a_number_does_not():
    net, x = gap_linear(), images()
    mean, std = torch.randn(3, 1, 1, dtype=torch.float64), torch.rand(3, 1, 1, dtype=torch.float64) + 0.5
    other = Normalized(net, mean, std)
    close(heat(other, (x - mean) / std, "occlusion", layer="net.features"), heat(net, x, "occlusion"))
    grey = {"occlusion": {"fill": 0.0}}
    shifted = heat(other, (x - mean) / std, grey, layer="net.features")
    assert (shifted - heat(net, x, grey)).abs().max() > 0.1 * shifted.abs().max()


def test_a_constant_in_the_score_changes_no_map():
    net, x = gap_linear(), images()
    before = {method: heat(net, x, {method: FEW[method]}) for method in FEW}
    with torch.no_grad():
        net.head[-1].bias += 1000
    for method in FEW:
        close(heat(net, x, {method: FEW[method]}), before[method], 1e-9)


def side_taps(side, cells):
    """How much of each cell of a grid each pixel is given, averaged over what shifts there are: E[T T'], [side side]."""
    pixel = math.ceil(side / cells)
    rows = F.interpolate(torch.eye(cells, dtype=torch.float64)[None], (cells + 1) * pixel, mode="linear")[0]
    return sum(rows[:, r : r + side].T @ rows[:, r : r + side] for r in range(pixel)) / pixel


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_rise_of_a_linear_model_comes_to_its_expectation(p):
    """E[M] = p and Cov(M, M') = p (1 - p) E[T T']: the map is (1 - p) E[T T'] (w x), blurred by the masks' own width.

    The mean of n terms, each of a standard deviation below std(S) max(p, 1 - p) / p.
    """
    net, x, w = linear(2)
    n, cells = 20_000, 4
    share = (w * x).sum(1)
    blurred = side_taps(8, cells) @ share @ side_taps(6, cells)
    deviation = (p * (1 - p) * (share * blurred).sum((1, 2))).sqrt()
    bound = 5 * deviation * max(p, 1 - p) / p / math.sqrt(n)
    found = explain(net, x, layer="0", method={"rise": {"n": n, "cells": cells, "p": p, "chunk": 5000}}, target=1).heat
    error = (found - (1 - p) * blurred).abs().amax((1, 2))
    assert (error < bound).all()
    assert (bound < 0.15 * blurred.abs().amax((1, 2))).all()


@pytest.mark.parametrize(("sides", "mode"), [((13,), "linear"), ((13, 8), "bilinear"), ((5, 8, 6), "trilinear")])
def test_masks_are_enlarged_grids_cut_at_their_shift(sides, mode):
    masks = RandomMasks.drawn(torch.Size(sides), 5, 3, 0.5, 1)
    enlarged = masks.enlarged(torch.arange(5))
    assert enlarged.shape == (5, *sides)
    for i in range(5):
        large = F.interpolate(masks.grids[i][None, None], [4 * math.ceil(side / 3) for side in sides], mode=mode)[0, 0]
        for axis, (side, shift) in enumerate(zip(sides, masks.shifts, strict=True)):
            large = large.narrow(axis, int(shift[i]), side)
        close(enlarged[i], large, 1e-14)
    assert {int(shift) for shift in RandomMasks.drawn(torch.Size([13]), 200, 3, 0.5, 0).shifts[0]} == set(range(5))


@pytest.mark.parametrize("method", FEW)
def test_chunks_are_kept_and_change_nothing(method):
    net, x = gap_linear(), images()
    counts = []
    net.features[0].register_forward_hook(lambda module, args, output: counts.append(len(output)))
    whole = heat(net, x, {method: FEW[method] | {"chunk": 10**6}})
    for chunk in (1, 7):
        counts.clear()
        close(heat(net, x, {method: FEW[method] | {"chunk": chunk}}), whole, 1e-13)
        assert max(counts[1:]) == chunk


@pytest.mark.parametrize("method", FEW)
def test_an_image_alone_gives_the_map_it_gives_in_a_batch(method):
    net, x = gap_linear(), images()
    options = {method: FEW[method]}
    close(heat(net, x[2:], options, CLASSES[2:]), heat(net, x, options)[2:], 1e-12)


def test_masks_depend_on_nothing_but_their_seed():
    net, x = gap_linear(), images()
    state = torch.get_rng_state()
    first = heat(net, x, {"rise": {"n": 20}})
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(heat(net, x, {"rise": {"n": 20}}), first)
    assert (heat(net, x, {"rise": {"n": 20, "seed": 1}}) - first).abs().max() > 0.1 * first.abs().max()
    single = heat(net.float(), x.float(), {"rise": {"n": 20}})
    close(single.double(), first, 1e-5)


@pytest.mark.parametrize("method", FEW)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_lower_precision_stays_near(method, dtype, tolerance):
    net, x = ZOO["gap_mlp"](), images().bfloat16().double()
    for parameter in net.parameters():
        parameter.data = parameter.data.bfloat16().double()
    score = net(x)[range(3), CLASSES].detach().abs().max()
    exact = heat(net, x, {method: FEW[method]})
    low = heat(net.to(dtype), x.to(dtype), {method: FEW[method]})
    assert low.dtype == torch.float32
    assert (low - exact).abs().max() <= tolerance * score


# models without a gradient


class WithoutGradient(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.no_grad():
            return self.net(x)


@pytest.mark.parametrize("method", FEW)
def test_a_model_wholly_under_no_grad_is_explained_alike(method):
    net, x = gap_linear(), images()
    options = {method: FEW[method]}
    close(heat(WithoutGradient(net), x, options, layer="net.features"), heat(net, x, options), 1e-14)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("layer", ["0", "1"])
@pytest.mark.parametrize("method", FEW)
def test_traced_parts_are_explained_alike(method, layer):
    net, x = gap_linear(), images()
    mixed = nn.Sequential(
        net.features[:2],
        torch.jit.trace(net.features[2:], net.features[:2](x).detach()),
        torch.jit.trace(net.head, net.features(x).detach()),
    )
    options = {method: FEW[method]}
    close(heat(mixed.eval(), x, options, layer=layer), heat(net, x, options), 1e-13)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize", "ignore:.*an autograd kernel was not")
@pytest.mark.parametrize("method", FEW)
def test_a_quantised_head_is_explained_as_it_is(method):
    """One image at a time, since dynamic quantisation takes its scale from all that it is given at once."""
    if "none" in torch.backends.quantized.engine:
        pytest.skip("this build of torch has no engine for int8")
    net, x = gap_linear().float(), images().float()
    net.head = torch.ao.quantization.quantize_dynamic(net.head, {nn.Linear}, dtype=torch.qint8)
    options = FEW[method] | {"chunk": 1}
    found = heat(net, x[:1], {method: options}, CLASSES[:1])
    expected = REFERENCES[method](net.case(), x[:1], CLASSES[:1], **FEW[method])
    assert expected.abs().max() > 0.01 * net(x).abs().max()
    close(found, expected.float(), 1e-4)
    with pytest.raises(
        ValueError, match=r"does not feed .* or feeds it through an operation without a derivative .*occlusion needs none"
    ):
        heat(net, x, "grad_cam")


# mistakes


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("method", "message", "right"),
    [
        (
            {"occlusion": {"window": 0.1, "stride": 0.2}},
            "0 < stride <= window <= 1; with a stride above",
            {"window": 0.2, "stride": 0.2},
        ),
        ({"occlusion": {"window": 16, "stride": 8}}, "expected shares of the image's sides", {"window": 0.5, "stride": 0.25}),
        ({"occlusion": {"stride": 0.0}}, "0 < stride", {}),
        ({"occlusion": {"fill": "zero"}}, "fill='zero': expected 'mean' for each image's own mean, or a number", {"fill": 0.0}),
        ({"occlusion": {"chunk": 0}}, "1 or more", {"chunk": 1}),
        ({"rise": {"n": 0}}, "expected n and cells of 1 or more, and 0 < p < 1", {"n": 1}),
        ({"rise": {"cells": 0}}, "expected n and cells of 1 or more", {"n": 2, "cells": 1}),
        ({"rise": {"p": 1.0}}, "0 < p < 1", {"n": 2, "p": 0.99}),
        ({"rise": {"n": 2, "chunk": 0}}, "1 or more", {"n": 2, "chunk": 1}),
    ],
)
def test_mistakes_say_what_would_be_right(method, message, right):
    net, x = gap_linear(), images()
    with pytest.raises(ValueError, match=message):
        heat(net, x, method)
    assert heat(net, x, {next(iter(method)): right}).isfinite().all()


def test_the_reference_covers_every_pixel():
    """A guard of the reference itself: windows as wide as the stride part a side without gaps or overlaps."""
    for side, cells in ((8, 4), (10, 3), (7, 7)):
        pixels = [pixel for place in range(cells) for pixel in reference_occlusion.covered(place, cells, side, 1 / cells)]
        assert pixels == list(range(side))
