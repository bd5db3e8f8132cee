"""Nothing is drawn from rounding: where terms cancel, or a probability is 1, there is no evidence; the small and real stays."""

import pytest
import torch
from compare import close
from maps import AT_IMAGE, CLASSES, EVERY, heat
from nets import STRICT
from plain import batch, plain_net, watcher
from torch import Tensor, nn
from vits import ViT, photos
from zoo import Net, flatten_linear, gap_linear, gap_mlp, images

from lightning_cam import Style, explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.figures.captions import captions
from lightning_cam.figures.cards import Cards
from lightning_cam.heat import above_rounding, has_evidence
from lightning_cam.methods.gradient import summed, weighted
from lightning_cam.metrics.measure import measure
from lightning_cam.record import Earlier
from lightning_cam.registry import METRICS
from lightning_cam.targets import find

pytestmark = STRICT

# methods of the activation alone, whose maps are what they are whatever the score
BY_ACTIVATION = ["eigen_cam", "kpca_cam", "fem"]
BY_GRADIENT = [name for name in EVERY if name not in BY_ACTIVATION]
BY_ATTENTION = ["attention_relevance", "le_grad", "grad_eclip"]


class Sure(nn.Module):
    """A net that is certain of the second class for the first sample, and of none for the others."""

    def __init__(self, end, net=None) -> None:
        super().__init__()
        self.net, self.end = net or gap_mlp(), end
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        sure = torch.zeros(len(x), 1, dtype=x.dtype)
        sure[0] = 60
        z = self.net(x)
        return self.end(torch.cat([z[:, :1], z[:, 1:2] + sure, z[:, 2:]], 1))


# a probability of 1


def softmaxed(z):
    return z.softmax(1)


@pytest.mark.parametrize("method", BY_GRADIENT)
def test_a_hidden_softmax_at_one_leaves_no_evidence_and_others_as_they_are(method):
    x = images()
    net, layer = Sure(softmaxed), None if method in AT_IMAGE else "net.features"
    p = net(x)[:, 1].detach()
    assert 1 - p[0] < 1e-15 and (p[1:] < 0.9).all()
    found = explain(net, x, layer=layer, method=method, target=1).heat
    assert not found[0].any()
    assert found[1:].flatten(1).any(1).all()
    alone = explain(Sure(lambda z: z.log_softmax(1)), x, layer=layer, method=method, target=1).heat
    close(found[1:], alone[1:], 1e-10)


@pytest.mark.parametrize("method", BY_GRADIENT)
@pytest.mark.parametrize("target", [{name: {"classes": 1}} for name in ("log_probability", "softmax_probability")], ids=str)
def test_so_do_targets_that_are_probabilities(method, target):
    layer = None if method in AT_IMAGE else "net.features"
    for end in (nn.Identity(), nn.Softmax(1), nn.LogSoftmax(1), softmaxed):
        found = explain(Sure(end), images(), layer=layer, method=method, target=target).heat
        assert not found[0].any() and found[1:].flatten(1).any(1).all()


@pytest.mark.parametrize("method", BY_ATTENTION)
def test_so_do_methods_of_attention(method):
    found = explain(Sure(softmaxed, ViT()), photos(), layer="net.blocks.0", method=method, target=1).heat
    assert not found[0].any() and found[1:].any()


def test_a_score_of_ones_own_of_such_a_probability_has_none_either():
    def probability(p, label):
        return p[:, 1]

    for end in (softmaxed, nn.Softmax(1)):
        found = explain(Sure(end), images(), layer="net.features", target=probability)
        assert found.score[0] == 1
        assert not found.heat[0].any() and found.heat[1:].flatten(1).any(1).all()


@pytest.mark.parametrize("method", BY_GRADIENT)
def test_the_logits_in_front_of_a_module_have_all_of_it(method):
    layer = None if method in AT_IMAGE else "net.features"
    found = explain(Sure(nn.Softmax(1)), images(), layer=layer, method=method, target=1).heat
    close(found, explain(Sure(nn.Identity()), images(), layer=layer, method=method, target=1).heat, 1e-10)
    assert found.flatten(1).any(1).all()


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam", "recipro_cam"])
def test_methods_without_gradient_see_what_a_change_does_to_such_a_score(method):
    found = explain(Sure(softmaxed, flatten_linear()), images(), layer="net.features", method=method, target=2).heat
    assert found.flatten(1).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "full_grad"])
def test_likeness_to_itself_has_no_evidence_and_to_its_neighbour_has(method, dtype):
    net, x = gap_mlp(k=16).to(dtype), images().to(dtype)
    layer = None if method in AT_IMAGE else "features"
    assert not explain(net, x, layer=layer, method=method, target="similarity").heat.any()
    near = {"similarity": {"reference": net(x).detach() * (1 + torch.linspace(0, 1, 16))}}
    assert explain(net, x, layer=layer, method=method, target=near).heat.flatten(1).any(1).all()


# terms that cancel


class Normed(nn.Module):
    """A layer norm over channels directly behind the layer: what it gives does not grow with what it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.Tanh())
        self.norm, self.head = nn.LayerNorm(16, elementwise_affine=False, eps=0.0), nn.Linear(16, 4)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.features(x).flatten(2).mT
        return self.head(self.norm(tokens).tanh().mean(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_terms_that_cancel_at_every_place_are_no_evidence(dtype):
    """HiResCAM in front of a layer norm is zero by its formula: the gradient stands at right angles to each token."""
    net, x = Normed().to(dtype), images(6).to(dtype)
    a = net.features(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(net.head(net.norm(a.flatten(2).mT).tanh().mean(1))[:, 1].sum(), a)
    assert (g.to(torch.float64) * a.to(torch.float64)).sum(1).flatten(1).abs().amax(1).all()  # and yet no zeros are computed
    found = heat(net, x, "hires_cam", [1] * 6)
    assert not found.any()
    for method in ("grad_cam", "grad_cam_elementwise", "layer_cam"):  # of which nothing cancels so
        assert heat(net, x, method, [1] * 6).flatten(1).any(1).all()


def test_channels_that_are_the_same_at_all_places_have_no_contrast():
    """Their means taken off, rounding is left, which has a principal component too."""

    class Level(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_linear()
            self.features = nn.Identity()

        def forward(self, x):
            a = self.net.features(x)
            level = a.mean((2, 3), keepdim=True).expand_as(a) / 3
            return self.net.head(self.features(level.contiguous()))

    net, x = Level().eval(), images()
    for method in ("eigen_grad_cam", "seg_eigen_cam"):
        assert not heat(net, x, method).any()
    assert heat(net, x, "eigen_cam").any() and heat(net, x, "grad_cam").any()


@pytest.mark.parametrize("method", ["ablation_cam", "recipro_cam"])
def test_scores_that_differ_by_rounding_alone_are_no_evidence(method):
    """A score so large that what the layer adds to it is lost, but for its last bit."""
    net, x = gap_mlp(), images()
    alive = heat(net, x, method)
    assert alive.flatten(1).any(1).all()
    z = net(x).detach()[range(3), CLASSES]
    # by how much a change moves the score: all that there is of it, or what is at one place
    moved = float(z.abs().amin()) if method == "ablation_cam" else float(alive.abs().amax())
    nn.init.constant_(net.head[4].bias, 0.7 * moved / torch.finfo(torch.float64).eps)
    with open_session(net, ["features"]) as session:
        seen = Seen(session.forward(x, find(2)), "features")
        a = seen.activation[0]
        single = torch.stack([torch.where(torch.arange(20).reshape(4, 5) == i, a, 0) for i in range(20)])
        changed = torch.cat([seen.rescore(0, activation=single), seen.rescore(0, activation=0 * single[:1]), seen.score[:1]])
    assert len(set(changed.tolist())) > 1  # it is felt
    assert not heat(net, x, method).any()


# what stays

SCALED = [
    "grad_cam",
    "hires_cam",
    "layer_cam",
    "x_grad_cam",
    "grad_cam_elementwise",
    "shapley_cam",
    "recipro_cam",
    "eigen_grad_cam",
]


@pytest.mark.parametrize("method", SCALED)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_a_map_that_is_small_but_for_its_scale_stays(method, scale):
    net, small = gap_linear(), gap_linear()
    small.head[3].weight.data.mul_(scale)
    small.head[3].bias.data.mul_(scale)
    close(heat(small, images(), method), scale * heat(net, images(), method), 1e-12)


def test_a_map_stays_beside_a_bias_however_large():
    net, large = gap_linear(), gap_linear()
    large.head[3].bias.data.add_(1e12)
    for method in ("grad_cam", "hires_cam"):
        close(heat(large, images(), method), heat(net, images(), method), 1e-12)


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.2), (torch.float16, 0.03)]
)
def test_what_is_left_of_a_cancelling_sum_above_its_rounding_stays(dtype, share):
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(2, 64, 4, 5, dtype=torch.float64, generator=generator)
    terms = terms - terms.mean(1, keepdim=True)
    rest = share * torch.rand(2, 1, 4, 5, dtype=torch.float64, generator=generator)
    held = (terms + rest).to(torch.promote_types(dtype, torch.float32))
    eps = torch.finfo(dtype).eps
    assert torch.equal(summed(held, eps), held.sum(1))
    if dtype in (torch.float16, torch.bfloat16):
        # of either sign and many of them
        many = torch.randn(4, 32768, 2, 2, generator=generator)
        assert torch.equal(summed(many, eps), many.sum(1))


def test_weights_and_sums_judge_alike():
    generator = torch.Generator().manual_seed(0)
    w, a = torch.randn(3, 6, generator=generator), torch.randn(3, 6, 4, 5, generator=generator)
    w[1] = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    a[1, 1] = a[1, 0] * (1 + 1e-7)
    for eps in (0.0, 0.01):
        judged = weighted(w, a, eps)
        assert has_evidence(judged.flatten(1)).tolist() == [True, False, True]
        assert torch.equal(has_evidence(summed(w[..., None, None] * a, eps).flatten(1)), has_evidence(judged.flatten(1)))


def test_only_finite_rounding_makes_no_evidence():
    maps = torch.tensor([[1.0, torch.nan], [torch.inf, 0.0], [0.5, -0.5], [0.0, 0.0]])
    judged = above_rounding(maps, torch.tensor([9.0, torch.inf, 0.5, 0.0]))
    assert judged[0].isnan().any() and judged[1, 0] == torch.inf
    assert not judged[2:].any()


# what becomes of it


def test_its_numbers_are_nan_whatever_the_metric():
    net, x = Sure(softmaxed), images()
    regions = {"all": torch.ones(3, 8, 10, dtype=torch.bool)}

    def constant(heat, seen):
        return torch.ones(len(heat))

    with open_session(net, ["net.features"]) as session:
        forward = session.forward(x, find(1), regions=regions)
        maps = explain(net, x, layer="net.features", target=[1]).heat
        for metric in ("energy_inside", constant):
            values = measure(METRICS.find(metric), maps, forward, "net.features", lambda position: Earlier())
            assert values[:, 0].isnan().tolist() == [True, False, False]
        absent = maps.clone()
        absent[1] = torch.nan
        values = measure(METRICS.find(constant), absent, forward, "net.features", lambda position: Earlier())
        assert values[:, 0].isnan().tolist() == [True, False, False]  # of an absent map a metric says so itself


@pytest.mark.parametrize("norm", ["positive", "minmax", "symmetric"])
@pytest.mark.parametrize("scale", ["image", "batch", "run", 2.0])
def test_its_picture_is_empty_beside_maps_of_either_sign(norm, scale):
    maps = torch.tensor([[[0.0, 0.0]], [[-1.0, 3.0]], [[-2.0, -1.0]]])
    style = Style(norm=norm, scale=scale)
    shown = Cards.of(torch.rand(3, 3, 8, 8), [0, 1, 2], 3, style, None, (-3.0, 3.0)).normalized(maps)
    assert (shown[0] == style.neutral).all()
    if norm == "minmax" and scale == "batch":
        assert torch.allclose(shown[1], torch.tensor([[0.2, 1.0]]))  # the others as they were


class PlainSure(nn.Module):
    """A net of floats that is certain of every class it is asked for, but of the first sample alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_net()

    def forward(self, x: Tensor) -> Tensor:
        sure = torch.tensor([60.0] + [0.0] * (len(x) - 1))[:, None] * torch.tensor([1.0, 0.0, 0.0])
        return (self.net(x) + sure).softmax(1)


def test_a_run_draws_and_counts_none_where_there_is_none(tmp_path):
    x, _ = batch()
    watching = watcher(
        PlainSure(), tmp_path, (x, torch.zeros(4, dtype=torch.long)), "net.relu", metrics=["energy_inside", strongest]
    )
    results = []
    watching.observers.append(results.append)
    (record,) = watching.look(0)
    assert record.heat[:, 0].flatten(1).any(1).tolist() == [False, True, True, True]
    assert record.strength[0, 0] == 0 and record.against[0, 0] == 0
    assert captions(results[0].batch, record)[0].under.startswith("no evidence")
    assert record.values["strongest"].isnan()[:, 0].tolist() == [True, False, False, False]
    assert not watching.history["net.relu/grad_cam"].heats[-1][0].any()
    assert any(tmp_path.rglob("*.jpg"))


def strongest(heat, seen):
    return heat.flatten(1).amax(1)


def test_it_is_said_once_in_a_run(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    watching = watcher(PlainSure(), tmp_path, layer="net.relu")
    for step in range(3):
        watching.look(step)
    said = [record.message for record in caplog.records if "log-probability" in record.message]
    assert len(said) == 1 and said[0].startswith("Watcher: the model gives probabilities")


def test_nets_of_the_zoo_keep_all_their_maps():
    for net in (gap_linear(), Net(nn.Sequential(nn.Flatten(), nn.Linear(120, 4)))):
        for method in EVERY:
            assert heat(net, images(), method).flatten(1).any(1).all()
