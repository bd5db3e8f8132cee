"""What becomes of the class's probability when images are changed by a map: exact values, and what is undefined."""

from contextlib import contextmanager

import numpy as np
import pytest
import reference_faithfulness as reference
import torch
from nets import STRICT, cam, fit, loader, trainer
from plain import Pictures, plain_net, watcher
from torch import nan, nn
from traces import digest, model_state, random_states
from zoo import flatten_linear, gap_linear, images

from lightning_cam import explain, metrics
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods.gradient import grad_cam
from lightning_cam.no_trace import no_trace
from lightning_cam.registry import METRICS
from lightning_cam.targets import find

pytestmark = STRICT

THROUGH = ["average_drop", "increase", "average_gain"]
CURVES = ["deletion", "insertion", "road"]
BY_PROBABILITY = [*THROUGH, "adcc", *CURVES]
EVERY = [*BY_PROBABILITY, "coherency", "complexity"]
SIZES = {1: ((5,), (13,)), 2: ((3, 4), (7, 9)), 3: ((2, 3, 4), (5, 4, 7))}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Pooled(nn.Module):
    """A convolution over so many sides, and a linear head on each channel's mean and square."""

    def __init__(self, sides, classes=3):
        super().__init__()
        torch.manual_seed(sides)
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[sides - 1](1, 4, 3, 2, 1)
        self.head = nn.Linear(4, classes)
        self.double().eval()

    def forward(self, x):
        return self.head(3 * self.conv(x).relu().flatten(2).mean(2))


class Share(nn.Module):
    """Its first class's probability is a weighted mean of the pixels, which are in [0, 1]; by default of all alike."""

    def __init__(self, weight):
        super().__init__()
        self.layer = nn.Identity()
        self.register_buffer("weight", weight / weight.sum())
        self.runs = []

    def forward(self, x):
        self.runs.append(x.detach().clone())
        p = (self.layer(x)[:, 0] * self.weight).flatten(1).sum(1).clamp(0, 1)
        return torch.stack([p, 1 - p], 1).log()


@contextmanager
def looked(net, x, target=0, layer="layer", method=grad_cam, labels=None):
    """What one forward showed, while the model can be run."""
    with open_session(net, [layer]) as session:
        forward = session.forward(x, find(target), labels)
        yield Seen(forward, layer, method=method)


def value(name, heat, net, x, target=0, **options):
    """A metric of maps given by hand."""
    known = {key: options.pop(key) for key in ("layer", "method", "labels") if key in options}
    with looked(net, x, target, **known) as seen:
        return METRICS.find({name: options}).function(heat, seen)


def probability_of(net, c):
    def probability(image):
        with torch.no_grad():
            return float(net(torch.from_numpy(image)[None]).softmax(1)[0, c])

    return probability


def map_of(net, layer, c):
    def grad_cam_of(image):
        with looked(net, torch.from_numpy(image)[None], int(c), layer) as seen:
            return grad_cam(seen)[0].numpy()

    return grad_cam_of


def expected(name, net, layer, x, heat, classes, **options):
    values = []
    for image, map_, c in zip(x.numpy(), heat.numpy(), classes, strict=True):
        arguments = {
            "complexity": (map_,),
            "coherency": (map_of(net, layer, c), image, map_),
            "adcc": (probability_of(net, c), map_of(net, layer, c), image, map_),
        }.get(name, (probability_of(net, c), image, map_))
        values.append(getattr(reference, name)(*arguments, **options))
    return pytest.approx(values, rel=1e-10, abs=1e-12)


# against slow references


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("make", [gap_linear, flatten_linear], ids=lambda make: make.__name__)
def test_every_metric_equals_its_slow_reference(name, make):
    net, x, classes = make(), images(), [2, 0, 3]
    for heat in (drawn(3, 4, 5, seed=1), explain(net, x, layer="features", target=torch.tensor(classes)).heat.double()):
        found = value(name, heat, net, x, torch.tensor(classes), layer="features")
        if name != "increase":
            assert len(set(found.tolist())) > 1  # else this would show little
        assert found.tolist() == expected(name, net, "features", x, heat, classes)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("sides", SIZES)
def test_every_metric_equals_its_slow_reference_over_any_number_of_sides(name, sides):
    cells, size = SIZES[sides]
    net, x, classes = Pooled(sides), drawn(2, 1, *size, seed=sides), [2, 1]
    cells = net.conv(x).shape[2:]
    heat = drawn(2, *cells, seed=sides + 3)
    found = value(name, heat, net, x, torch.tensor(classes), layer="conv")
    assert found.tolist() == expected(name, net, "conv", x, heat, classes)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deletion", dict(steps=7, fill=0.3)),
        ("deletion", dict(steps=1)),
        ("insertion", dict(steps=7, sigma=0.2)),
        ("road", dict(shares=(0.5,), noise=0.1, seed=3)),
    ],
)
def test_options_are_those_of_the_slow_reference(name, options):
    net, x, heat = flatten_linear(), images(), drawn(3, 4, 5, seed=2)
    found = value(name, heat, net, x, torch.tensor([2, 0, 3]), layer="features", **options)
    assert found.tolist() == expected(name, net, "features", x, heat, [2, 0, 3], **options)
    assert (found != value(name, heat, net, x, torch.tensor([2, 0, 3]), layer="features")).all()


# faults of other code


def test_a_drop_is_relative_to_the_probability_and_to_nothing_added_to_it():
    """torch-cam adds 1e-7 to what it divides by; pytorch-grad-cam's drop is the difference itself."""
    net, x = Share(torch.ones(1, 2).double()), torch.tensor([[[[0.5, 0.25]]], [[[0.25, 0.75]]]]).double()
    heat = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]).double()
    assert value("average_drop", heat, net, x).tolist() == pytest.approx([1 / 3, 0.75], rel=1e-14)


def test_the_last_step_of_a_curve_counts_as_wide_as_it_is():
    """RISE's code takes steps of so many pixels and weighs the last, shorter one like the others."""
    x = torch.ones(1, 1, 1, 11).double()
    for steps in (1, 2, 4, 7, 10, 11, 30):
        heat = drawn(1, 1, 11, seed=steps)
        net = Share(torch.ones(1, 11).double())
        assert value("deletion", heat, net, x, steps=steps).item() == pytest.approx(0.5, rel=1e-12)
    by_equal_weights = (1 - 4 / 11) / 3 + (4 / 11 + 1 - 8 / 11) / 6 + (1 - 8 / 11) / 6 - 1 / 6
    assert by_equal_weights != pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("zeros", [0.5, 0.9, 0.99])
def test_a_map_of_many_zeros_has_exactly_the_share_of_its_pixels_imputed(zeros):
    """pytorch-grad-cam keeps what lies below a percentile: of a map of zeros mostly, none at all."""
    x = torch.rand(1, 1, 10, 10, dtype=torch.float64)
    heat = torch.zeros(1, 10, 10).double()
    count = round(100 * (1 - zeros))
    heat.view(-1)[:count] = torch.arange(1.0, count + 1).double()
    net = Share(torch.ones(10, 10).double())
    shares = (0.2, 0.4, 0.6, 0.8, 0.9)
    value("road", heat, net, x, shares=shares)
    changed = [int((run != x).sum()) for run in net.runs[1:]]
    assert changed == [round(100 * share) for share in shares for _ in range(2)]
    most = net.runs[1] != x
    assert most[0, 0][heat[0] > 0].all() or count > 20  # what is relevant goes first


@pytest.mark.parametrize("name", CURVES)
def test_of_equal_pixels_the_first_is_drawn_and_not_the_upper_left_one(name):
    net, x = flatten_linear(), images()
    heat = (drawn(3, 8, 10, seed=5) > 0.5).double()
    found = value(name, heat, net, x, torch.tensor([2, 0, 3]), layer="features")
    assert found.tolist() == expected(name, net, "features", x, heat, [2, 0, 3])


def test_a_curve_follows_the_class_explained_also_where_another_becomes_the_most_probable():
    """RISE's code follows the class of the largest probability."""
    net, x = Share(torch.ones(2, 2).double()), torch.full((1, 1, 2, 2), 0.75).double()
    heat = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]).double()
    assert value("deletion", heat, net, x, "predicted", steps=4).item() == pytest.approx(0.375, rel=1e-12)
    masked = value("average_drop", torch.eye(2)[None].double(), net, x, "predicted")
    assert masked.item() == pytest.approx(0.5, rel=1e-12)  # of 0.75; the other class has 0.625 then


# identities


def test_a_map_of_ones_loses_nothing_and_is_no_simple_one():
    net, x = flatten_linear(), images()
    ones = torch.full((3, 4, 5), 0.3).double()
    found = {name: value(name, ones, net, x, 1, layer="features").tolist() for name in EVERY}
    assert found["average_drop"] == pytest.approx([0] * 3, abs=1e-14)
    assert found["average_gain"] == pytest.approx([0] * 3, abs=1e-14)
    assert found["complexity"] == [1] * 3
    for name in ("coherency", "adcc", *CURVES):
        assert np.isnan(found[name]).all()  # neither a correlation nor an order


def test_complexity_of_a_single_cell_is_one_over_their_number():
    heat = torch.zeros(2, 4, 5)
    heat[0, 1, 2], heat[1, 3, 3], heat[1, 0, 0] = 3.0, 0.5, -7.0
    with looked(gap_linear(), images(), 1, "features") as seen:
        assert metrics.complexity(heat, seen).tolist() == pytest.approx([1 / 20] * 2)
        assert metrics.complexity(torch.tensor([[2.0, 4.0, 3.0]]), seen).tolist() == pytest.approx([0.5])


def test_a_method_that_gives_the_same_map_again_is_coherent_and_one_that_turns_it_round_is_not():
    net, x, heat = gap_linear(), images(), drawn(3, 4, 5).abs()
    for method, coherent in ((lambda seen: 3 * heat + 1, 1.0), (lambda seen: 9 - heat, 0.0)):
        assert value("coherency", heat, net, x, 1, layer="features", method=method).tolist() == pytest.approx(
            [coherent] * 3, abs=1e-12
        )
    for lost in (torch.zeros_like(heat), torch.full_like(heat, 0.1), -heat):
        assert value("coherency", heat, net, x, 1, layer="features", method=lambda seen, lost=lost: lost).isnan().all()


def test_adcc_is_the_harmonic_mean_of_its_three_parts():
    net, x, heat = flatten_linear(), images(), drawn(3, 4, 5, seed=4)
    parts = [value(name, heat, net, x, 1, layer="features") for name in ("coherency", "complexity", "average_drop")]
    like, simple, kept = parts[0], 1 - parts[1], 1 - parts[2]
    found = value("adcc", heat, net, x, 1, layer="features")
    harmonic = 3 * like * simple * kept / (like * simple + like * kept + simple * kept)
    torch.testing.assert_close(found, harmonic, rtol=1e-12, atol=0)
    worst = value("adcc", heat, net, x, 1, layer="features", method=lambda seen: heat.max() - heat.relu())
    assert (worst.abs() < 1e-6).all()  # incoherent, so 0 whatever else


def test_of_a_model_that_reads_one_cell_all_is_lost_and_won_at_the_step_that_holds_it():
    weight = torch.zeros(4, 5).double()
    weight[1, 2] = 1
    x = torch.rand(1, 1, 4, 5, dtype=torch.float64)
    x[0, 0, 1, 2] = 0.8
    start = Share(weight)(torch.from_numpy(reference.blurred(x[0].numpy(), 0.05))[None]).exp()[0, 0].item()
    for place in range(4):
        order = drawn(1, 20, seed=place).argsort(dim=1).argsort(dim=1).double()
        rank = 5 * place + 2
        heat = order.clone()
        own = 1 * 5 + 2
        other = int((order[0] == 19 - rank).nonzero())
        heat[0, own], heat[0, other] = order[0, other], order[0, own]
        heat = heat.reshape(1, 4, 5)
        net = Share(weight)
        assert value("deletion", heat, net, x, steps=4).item() == pytest.approx(0.8 * (place + 0.5) / 4, rel=1e-12)
        won = start + (0.8 - start) * (1 - (place + 0.5) / 4)
        assert value("insertion", heat, net, x, steps=4).item() == pytest.approx(won, rel=1e-12)


def test_road_of_the_map_turned_round_is_its_negative():
    net, x, heat = flatten_linear(), images(), drawn(3, 4, 5, seed=6)
    found = value("road", heat, net, x, 1, layer="features")
    torch.testing.assert_close(value("road", -heat, net, x, 1, layer="features"), -found, rtol=1e-9, atol=1e-12)
    assert found.abs().min() > 1e-4


def test_road_finds_the_cells_that_a_model_reads():
    weight = torch.zeros(6, 6).double()
    weight[1:3, 1:3] = 1
    x = torch.zeros(1, 1, 6, 6).double() + 0.1
    x[0, 0, 1:3, 1:3] = 0.9
    right = value("road", weight[None], Share(weight), x, shares=(0.15,), noise=0.0)
    assert right.item() == pytest.approx((0.9 - 0.1) / 2, abs=1e-9)  # 5 pixels: the four, and one beside them
    assert value("road", -weight[None], Share(weight), x, shares=(0.15,), noise=0.0).item() == pytest.approx(-0.4, abs=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_scale_changes_nothing_and_values_stay_in_their_range(name):
    low, high = METRICS.find(name).facts["range"]
    net, x = flatten_linear(), images()
    for seed in range(2):
        heat = drawn(3, 4, 5, seed=seed)
        found = value(name, heat, net, x, 1, layer="features")
        assert ((found >= low) & (found <= high)).all()
        torch.testing.assert_close(value(name, heat * 1e-6, net, x, 1, layer="features"), found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CURVES)
def test_only_the_order_of_the_cells_counts_in_curves(name):
    net, x = flatten_linear(), drawn(3, 3, 8, 10)
    heat = drawn(3, 8, 10, seed=8)  # at the image's size, where no cell is a mean of others
    found = value(name, heat, net, x, 1, layer="features")
    for changed in (5 * heat - 2, heat.exp()):
        torch.testing.assert_close(value(name, changed, net, x, 1, layer="features"), found, rtol=1e-12, atol=0)


# what is undefined, and what is refused


@pytest.mark.parametrize("name", BY_PROBABILITY)
def test_a_sample_whose_class_is_improbable_is_not_counted(name):
    net, x = (
        Share(torch.ones(2, 3).double()),
        torch.tensor([0.049, 0.051, 0.5]).double()[:, None, None, None].expand(3, 1, 2, 3),
    )
    heat = drawn(3, 2, 3)
    options = {"method": lambda seen: drawn(3, 2, 3, seed=2)}
    assert value(name, heat, net, x, **options).isnan().tolist() == [True, False, False]
    assert value(name, heat, net, x, least=0.06, **options).isnan().tolist() == [True, True, False]
    assert value(name, heat, net, x, least=0.0, **options).isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_absent_maps_and_maps_without_positive_values_are_undefined(name):
    net, x = flatten_linear(), images()
    heat = drawn(3, 4, 5)
    before = value(name, heat, net, x, 1, layer="features")
    heat[0] = nan
    heat[1] = -heat[1].abs()
    found = value(name, heat, net, x, 1, layer="features")
    assert found.isnan().tolist() == [True, name not in CURVES, False]
    assert found[2] == pytest.approx(before[2].item(), rel=1e-12)
    heat[2, 0, 0] = torch.inf
    assert value(name, heat, net, x, 1, layer="features")[2].isnan()


def test_a_class_that_a_sample_does_not_have_is_undefined():
    net, x = flatten_linear(), images()
    classes = torch.tensor([[1, 2], [0, -1], [3, 1]])
    with looked(net, x, classes, "features") as seen:
        second = Seen(seen.forward, "features", 1)
        assert metrics.average_drop(drawn(3, 4, 5), second).isnan().tolist() == [False, True, False]


def test_nothing_is_gained_where_the_class_is_certain():
    x = torch.ones(1, 1, 2, 3).double()
    assert value("average_gain", drawn(1, 2, 3), Share(torch.ones(2, 3).double()), x).isnan().all()
    assert value("average_drop", drawn(1, 2, 3), Share(torch.ones(2, 3).double()), x).isfinite().all()


@pytest.mark.parametrize("name", BY_PROBABILITY)
def test_a_target_that_is_no_class_is_refused_with_a_line_that_works(name, tmp_path):
    def watching(target):
        return watcher(plain_net(), tmp_path, metrics=[name], target=target)

    message = r"explains no class of logits \[b k\]; the model gave \(4, 3\)\. Explain a class, target='label'"
    with pytest.raises(ValueError, match=message):
        watching(lambda logits, label: logits.logsumexp(1)).look(0)
    for target in ("label", "predicted", 1):
        (record,) = watching(target).look(0)
        assert record.values[name].shape == (4, 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["average_drop", "deletion"])
def test_a_map_of_fewer_sides_than_the_image_is_refused_with_a_line_that_works(name, tmp_path):
    def watching(method):
        return watcher(plain_net(), tmp_path, metrics=[name], method=method)

    message = r"at 'relu' the map is \(4, 8\) and the images are \(4, 3, 8, 8\).*layer=\.\.\.,.*method='grad_cam'"
    with pytest.raises(ValueError, match=message):
        watching(lambda seen: seen.activation.mean((1, 2))).look(0)
    assert watching("grad_cam").look(0)[0].values[name].shape == (4, 1)


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ({"deletion": {"steps": 0}}, {"deletion": {"steps": 10}}, "steps=0: expected .* such as steps=10"),
        ({"insertion": {"sigma": 0.0}}, {"insertion": {"sigma": 0.05}}, "sigma=0.0: expected .* such as sigma=0.05"),
        (
            {"road": {"shares": (0.2, 1.0)}},
            {"road": {"shares": (0.2, 0.4, 0.6, 0.8)}},
            r"road\(shares=\(0.2, 1.0\)\): expected shares of the 64 pixels .* such as shares=\(0.2, 0.4, 0.6, 0.8\)",
        ),
        ({"road": {"shares": ()}}, {"road": {"shares": (0.5,)}}, r"shares=\(\)\): expected shares"),
    ],
)
def test_options_that_cannot_be_are_refused_with_a_line_that_works(wrong, right, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        watcher(plain_net(), tmp_path, metrics=[wrong]).look(0)
    assert len(watcher(plain_net(), tmp_path, metrics=[right]).look(0)[0].values) == 1


def test_a_map_that_nobody_made_has_no_coherency():
    net, x = flatten_linear(), images()
    with pytest.raises(ValueError, match=r"does not say which made the map; expected Seen\(forward, layer, method=grad_cam\)"):
        value("coherency", drawn(3, 4, 5), net, x, 1, layer="features", method=None)
    assert value("coherency", drawn(3, 4, 5), net, x, 1, layer="features", method=grad_cam).isfinite().all()


# other kinds of probability


def test_a_single_logit_has_the_probability_of_the_side_explained():
    net, x, labels = gap_linear(k=1), images(), torch.tensor([1, 0, 1])
    heat = drawn(3, 4, 5, seed=5)
    for target in ("binary", "label"):
        found = value("deletion", heat, net, x, target, layer="features", labels=labels)

        def side(i):
            def probability(image):
                with torch.no_grad():
                    p = float(net(torch.from_numpy(image)[None]).sigmoid())
                return p if labels[i] else 1 - p

            return probability

        wanted = [reference.deletion(side(i), x[i].numpy(), heat[i].numpy()) for i in range(3)]
        assert found.tolist() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("end", ["Softmax", "Sigmoid"])
def test_a_model_that_gives_probabilities_is_measured_by_these(end):
    net, x, heat = flatten_linear(), images(), drawn(3, 4, 5, seed=5)
    whole = nn.Sequential(net, nn.Softmax(1) if end == "Softmax" else nn.Sigmoid())
    found = value("deletion", heat, whole, x, 1, layer="0.features")
    with torch.no_grad():
        wanted = [
            reference.deletion(lambda i: float(whole(torch.from_numpy(i)[None])[0, 1]), image.numpy(), map_.numpy())
            for image, map_ in zip(x, heat, strict=True)
        ]
    assert found.tolist() == pytest.approx(wanted, rel=1e-10)
    if end == "Softmax":
        torch.testing.assert_close(found, value("deletion", heat, net, x, 1, layer="features"), rtol=1e-12, atol=0)


def test_of_multi_label_samples_each_class_has_a_probability_of_its_own():
    net, x, heat = flatten_linear(), images(), drawn(3, 4, 5, seed=5)
    labels = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 1]]).double()
    found = value("average_drop", heat, net, x, 1, layer="features", labels=labels)

    def probability(image):
        with torch.no_grad():
            return float(net(torch.from_numpy(image)[None])[0, 1].sigmoid())

    wanted = [reference.average_drop(probability, x[i].numpy(), heat[i].numpy()) for i in range(3)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_single_precision_stays_single_precision():
    net, x, heat = flatten_linear().float(), images().float(), drawn(3, 4, 5).float()
    for name in EVERY:
        found = value(name, heat, net, x, 1, layer="features")
        double = value(name, heat.double(), flatten_linear(), images(), 1, layer="features")
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), double, rtol=1e-3, atol=1e-4)


# what it costs, and what it leaves


def forwards(names, method=grad_cam):
    """How often the model runs for the metrics of one look."""
    net, x, heat = flatten_linear(), images(), drawn(3, 4, 5)
    runs = []
    net.register_forward_hook(lambda *rest: runs.append(0))
    with looked(net, x, 1, "features", method) as seen:
        before = len(runs)
        for name in names:
            METRICS.find(name).function(heat.clone(), seen)
        return len(runs) - before


def test_metrics_of_the_masked_image_share_its_forward():
    assert forwards(["complexity"]) == 0
    assert forwards(THROUGH) == 1
    assert forwards(["adcc", "coherency", *THROUGH]) == 1
    assert forwards([*THROUGH, "adcc", "coherency"]) == 2
    assert forwards(["average_drop", {"control": {"metric": "average_drop"}}, {"control": {"metric": "increase"}}]) == 2


def test_curves_cost_what_they_say():
    assert forwards(["deletion"]) == forwards(["insertion"]) == 10
    assert forwards([{"deletion": {"steps": 3}}]) == 3
    assert forwards(["road"]) == 8
    assert {name: METRICS.find(name).facts["cost"] for name in ("deletion", "road", "complexity")} == {
        "deletion": "a forward a step",
        "road": "2 forwards and 2 linear systems a share",
        "complexity": "none",
    }


def test_what_is_shared_is_shared_by_the_same_maps_of_the_same_target_alone():
    net, x = flatten_linear(), images()
    a, b = drawn(3, 4, 5), drawn(3, 4, 5, seed=1)
    alone = [value("average_drop", heat, net, x, c, layer="features") for heat in (a, b) for c in (1, 2)]
    with looked(net, x, [1, 2], "features") as seen:
        both = [Seen(seen.forward, "features", position) for position in (0, 1)]
        together = [metrics.average_drop(heat, view) for heat in (a, b) for view in both]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)
    assert len({digest(drop) for drop in alone}) == 4


def test_no_random_state_is_read_or_changed_and_the_model_stays_as_it_is():
    # cells of the same value, of which some come first
    net, x, heat = flatten_linear(), images(), drawn(3, 4, 5).round().clamp(0, 1)
    before, state = random_states(), model_state(net)
    first, second = [], []
    for values in (first, second):
        for name in EVERY:
            spec = {"control": {"metric": name}}  # which is the metric too, of another map
            with no_trace(net), looked(net, x, 1, "features") as seen:
                values.append(METRICS.find(spec).function(heat, seen))
        assert random_states() == before and model_state(net) == state
        torch.manual_seed(99)  # other global states, the same numbers
        before = random_states()
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


def test_a_run_is_the_same_with_and_without_all_of_them(tmp_path):
    specs = [*EVERY, {"control": {"metric": "adcc"}}, {"control": {"metric": "road"}}]
    weights = []
    for callback in (cam(metrics=specs, on_error="raise"), None):
        run = fit(tmp_path, callback, max_epochs=1)
        weights.append(digest(run.model.state_dict()))
    assert weights[0] == weights[1]


def test_a_run_logs_them_with_their_controls(tmp_path):
    specs = [*EVERY, {"control": {"metric": "average_drop"}}, {"control": {"metric": "road", "seed": 3}}]
    callback, records = cam(method="activation_mean", metrics=specs, target=["label", 1], on_error="raise"), []
    callback.watcher.observers.append(lambda result: records.extend(result.records))
    run = fit(tmp_path, callback, max_epochs=1)
    for name in [*EVERY, "control_average_drop", "control_road_3"]:
        assert run.callback_metrics.get(f"cam/{name}_defined", 1) > 0
        low, high = METRICS.find(name.removeprefix("control_").removesuffix("_3")).facts["range"]
        assert low <= run.callback_metrics[f"cam/{name}"] <= high
        assert records[-1].values[name].shape == (4, 2)


def test_the_map_of_masked_images_is_by_the_method_whose_map_is_measured(tmp_path):
    """Of every method, wrapper and fusion its own, for every target its own."""
    methods = ["activation_mean", {"smooth": {"method": "grad_cam", "n": 2}}]
    options = dict(layer=["trunk", "relu"], metrics=["coherency"], target=[0, 2])
    x = Pictures().images[:4]
    for fuse in (None, "mean"):
        net = plain_net()
        records = watcher(net, tmp_path, method=methods, fuse=fuse, **options).look(0)
        specs = methods if fuse else methods * 2
        layers = [["trunk", "relu"]] * 2 if fuse else [*[["trunk"]] * 2, *[["relu"]] * 2]
        for record, spec, layer in zip(records, specs, layers, strict=True):
            found = record.values["coherency"]
            assert torch.equal(found.isfinite(), (record.heat > 0).flatten(2).any(2)) and found.isfinite().any()
            for position, c in enumerate((0, 2)):

                def again(image, layer=layer, spec=spec, c=c, fuse=fuse, net=net):
                    one = torch.from_numpy(image)[None].float()
                    return explain(net, one, layer=layer, method=spec, target=c, fuse=fuse).heat[0].numpy()

                for i in found[:, position].isfinite().nonzero()[:2, 0].tolist():
                    heat = record.heat[i, position].numpy()
                    wanted = reference.coherency(again, x[i].numpy(), heat)
                    assert found[i, position].item() == pytest.approx(wanted, abs=2e-4)


def test_validation_outside_a_fit_measures_them_too(tmp_path):
    callback = cam(metrics=["average_drop", "coherency"], on_error="raise")
    run = trainer(tmp_path, [callback])
    from nets import Net

    run.validate(Net(), loader(), verbose=False)
    assert run.callback_metrics["cam/average_drop"].isfinite()
