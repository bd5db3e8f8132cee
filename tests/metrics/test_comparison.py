"""This look's maps beside an earlier one's: closed-form values, references, what must hold of each, and what is undefined."""

import itertools
import math

import pytest
import reference_comparison
import torch
from nets import STRICT
from torch import nan

from lightning_cam import metrics
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.model.trace import Calls
from lightning_cam.record import Earlier
from lightning_cam.targets import find
from lightning_cam.targets.target import TargetScores

pytestmark = STRICT

DISTANCES = ["drift", "jensen_shannon", "wasserstein", "centre_shift"]
LIKENESSES = ["cosine", "spearman", "top_iou"]
NAMES = DISTANCES + LIKENESSES
SIZES = [(9,), (4, 4), (3, 5), (1, 6), (3, 2, 2)]


def seen_with(earlier, n=2):
    blank = torch.zeros(n, 1)
    scored = find(0)
    scores = TargetScores(blank, scored.choose(blank, None, None), scored)
    return Seen(Forward(None, blank, blank, scores, {}, Calls()), "layer", 0, earlier)


def between(name, now, then, **options):
    return metrics.find({name: options}).function(now, seen_with(Earlier(now, then)))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def delta(*place, shape=(7, 7)):
    heat = torch.zeros(1, *shape, dtype=torch.float64)
    heat[(0, *place)] = 2.0
    return heat


def gaussian(y, x, sigma=1.2):
    cells = torch.arange(7, dtype=torch.float64)
    return (-((cells[:, None] - y) ** 2 + (cells - x) ** 2) / (2 * sigma**2)).exp()[None]


# values known beforehand


def test_of_two_single_cells_at_distance_five():
    now, then = delta(2, 1), delta(5, 5)
    expected = dict(wasserstein=5, centre_shift=5, jensen_shannon=1, cosine=0, drift=1, spearman=-1 / 48, top_iou=0)
    for name, value in expected.items():
        assert between(name, now, then).item() == pytest.approx(value, abs=1e-12), name


def test_of_a_gaussian_shifted_by_one_cell():
    for name in ("wasserstein", "centre_shift"):
        assert round(between(name, gaussian(3, 2), gaussian(3, 3)).item(), 4) == 0.9502
        assert round(between(name, gaussian(4, 3), gaussian(3, 3)).item(), 4) == 0.9502


@pytest.mark.parametrize("shape", SIZES)
def test_the_same_map_at_any_strength_has_not_moved(shape):
    heat = drawn(3, *shape)
    for unit in (1.0, 0.25, 1e-12):
        for name in NAMES:
            expected = 0.0 if name in DISTANCES else 1.0
            assert between(name, heat, heat * unit).tolist() == pytest.approx([expected] * 3, abs=1e-9), name
    for name in DISTANCES:
        single = heat.float()
        assert between(name, single, single.clone()).tolist() == [0.0] * 3, name  # no rounding


def test_the_same_map_with_its_sign_turned_is_as_far_as_a_map_can_be():
    heat = drawn(3, 4, 4)
    for dtype in (torch.float32, torch.float64):
        turned = (heat.to(dtype), -heat.to(dtype))
        assert between("drift", *turned).tolist() == pytest.approx([2] * 3) and between("drift", *turned).max() <= 2
        assert between("cosine", *turned).tolist() == pytest.approx([-1] * 3)
        assert between("spearman", *turned).tolist() == pytest.approx([-1] * 3)


# beside what is slow and plain


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_the_slow_reference_over_any_number_of_sides(name, shape):
    if name == "wasserstein":
        pytest.importorskip("scipy")
    now = torch.cat([drawn(2, *shape), drawn(2, *shape, seed=1).round()])
    then = torch.cat([drawn(2, *shape, seed=2), drawn(2, *shape, seed=3).round()])
    now.flatten(1)[:, 0] = then.flatten(1)[:, 1] = 1.5  # some positive evidence in all
    expected = [getattr(reference_comparison, name)(a, b) for a, b in zip(now, then, strict=True)]
    assert between(name, now, then).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_equals_scipys(ties):
    stats = pytest.importorskip("scipy.stats")
    now, then = drawn(8, 6, 5), drawn(8, 6, 5, seed=1)
    if ties:
        now, then = now.round(), (then * 2).round().relu()
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(now, then, strict=True)]
    assert between("spearman", now, then).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 1.0])
def test_top_cells_by_any_share_equal_the_slow_reference(share):
    now, then = drawn(4, 5, 5).round(decimals=1), drawn(4, 5, 5, seed=1).round(decimals=1).relu()
    expected = [reference_comparison.top_iou(a, b, share) for a, b in zip(now, then, strict=True)]
    assert between("top_iou", now, then, share=share).tolist() == pytest.approx(expected, rel=1e-10)


# what must hold


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_both_ways_round_and_in_its_range(name):
    low, high = metrics.find(name).facts["range"]
    for seed in range(4):
        now, then = drawn(8, 5, 4, seed=seed), drawn(8, 5, 4, seed=seed + 9)
        there, back = between(name, now, then), between(name, then, now)
        assert torch.allclose(there, back, rtol=0, atol=1e-10)
        assert (there >= low).all() and (high is None or (there <= high).all())


@pytest.mark.parametrize("name", NAMES)
def test_positive_scaling_of_either_map_changes_nothing(name):
    now, then = drawn(4, 5, 4).float(), drawn(4, 5, 4, seed=1).float()
    expected = between(name, now, then)
    for unit in (1e-30, 3.0, 1e30):
        assert torch.allclose(between(name, now * unit, then), expected, atol=1e-5), unit
        assert torch.allclose(between(name, now, then * unit), expected, atol=1e-5), unit


def test_ranks_are_left_as_they_are_by_any_rising_change():
    now, then = drawn(4, 5, 4), drawn(4, 5, 4, seed=1)
    for name in ("spearman", "top_iou"):
        expected = between(name, now, then)
        assert torch.allclose(between(name, now**3, then.sinh()), expected, atol=1e-12)
    assert torch.allclose(between("spearman", now.exp(), 3 * then - 7), between("spearman", now, then), atol=1e-12)
    assert not torch.allclose(between("drift", now**3, then), between("drift", now, then), atol=1e-2)


def test_nothing_prefers_a_side_of_the_picture():
    now, then = drawn(4, 5, 4).round(), drawn(4, 5, 4, seed=1).round()
    for name in NAMES:
        expected = between(name, now, then)
        for turn in (lambda heat: heat.flip(1), lambda heat: heat.flip(2), lambda heat: heat.transpose(1, 2)):
            assert torch.allclose(between(name, turn(now), turn(then)), expected, atol=1e-10), name


@pytest.mark.parametrize("name", ["drift", "jensen_shannon", "wasserstein"])
def test_more_of_another_map_is_farther(name):
    first, other = drawn(3, 5, 4).relu(), drawn(3, 5, 4, seed=1).relu()
    far = [between(name, first + part * other, first) for part in (0.01, 0.1, 0.5, 2.0, 8.0)]
    assert all((b > a).all() for a, b in itertools.pairwise(far))
    likeness = [between("cosine", first + part * other, first) for part in (0.01, 0.1, 0.5, 2.0, 8.0)]
    assert all((b < a).all() for a, b in itertools.pairwise(likeness))


def test_a_cell_that_moves_on_is_farther_by_its_way_and_by_nothing_else():
    for way in range(1, 7):
        now, then = delta(0, 0), delta(0, way)
        assert between("wasserstein", now, then).item() == pytest.approx(way)
        assert between("centre_shift", now, then).item() == pytest.approx(way)
        assert between("drift", now, then).item() == pytest.approx(1)
        assert between("jensen_shannon", now, then).item() == pytest.approx(1)


def test_small_drifts_keep_their_digits_in_single_precision():
    heat = drawn(1, 7, 7)
    turned = heat + 1e-4 * drawn(1, 7, 7, seed=1)
    exact = between("drift", turned, heat)
    assert exact.item() < 1e-7  # of 1 - cosine rounding would be left
    assert between("drift", turned.float(), heat.float()).item() == pytest.approx(exact.item(), rel=0.02)


def test_heat_that_spreads_about_its_centre_is_seen_by_wasserstein_alone_of_the_two():
    narrow, wide = gaussian(3, 3, 0.7), gaussian(3, 3, 1.5)
    assert between("centre_shift", narrow, wide).item() < 1e-12
    assert between("wasserstein", narrow, wide).item() > 0.5


# floors


def within_five_sigma(values, expected):
    return abs(values.mean() - expected) < 5 * values.std() / math.sqrt(len(values))


def test_of_unrelated_maps_the_floors_are_what_is_scored():
    now, then = drawn(200, 32, 32) + 2, drawn(200, 32, 32, seed=1) + 2
    assert metrics.find("spearman").facts["floor"] == 0.0
    assert within_five_sigma(between("spearman", now, then), 0.0)
    floor = metrics.find("top_iou").facts["floor"]
    for share in (0.05, 0.2, 0.5):
        expected = floor(seen_with(Earlier()), share=share, to="previous")
        assert expected.tolist() == pytest.approx([share / (2 - share)] * 2)
        assert within_five_sigma(between("top_iou", now, then, share=share), float(expected[0]))
        # of a map without an order exactly
        even = between("top_iou", torch.ones(4, 10, 10, dtype=torch.float64), drawn(4, 10, 10) + 9, share=share)
        assert even.tolist() == pytest.approx([share / (2 - share)] * 4, rel=1e-12)
    assert round(float(floor(seen_with(Earlier()))[0]), 3) == 0.111


# undefined, refused


@pytest.mark.parametrize("name", NAMES)
def test_without_something_to_compare_with_it_is_nan(name):
    heat = drawn(2, 3, 3)
    absent = heat.clone()
    absent[1] = nan
    metric = metrics.find(name).function
    for earlier in (Earlier(), Earlier(heat), Earlier(heat, previous=heat)):
        assert metric(heat, seen_with(earlier)).isnan().all()
    for pair in ((heat, absent), (absent, heat)):
        assert between(name, *pair).isnan().tolist() == [False, True]


@pytest.mark.parametrize("name", NAMES)
def test_of_zeros_of_evidence_against_alone_and_of_one_cell(name):
    heat, zero, against = drawn(1, 3, 3), torch.zeros(1, 3, 3).double(), -torch.ones(1, 3, 3).double()
    no_order = name == "spearman"
    assert between(name, heat, against).isnan().item() == (name not in ("drift", "cosine"))
    assert between(name, against, heat).isnan().item() == (name not in ("drift", "cosine"))
    assert between(name, heat, zero).isnan().all()
    cell = between(name, torch.ones(1, 1, 1), torch.ones(1, 1, 1)).item()
    assert math.isnan(cell) if no_order else cell == (0 if name in DISTANCES else 1)


@pytest.mark.parametrize("name", NAMES)
def test_each_earlier_look_can_be_compared_with(name):
    maps = [drawn(2, 3, 4, seed=seed) for seed in range(4)]
    seen = seen_with(Earlier(*maps))
    for to, then in zip(("baseline", "previous", "best"), maps[1:], strict=True):
        value = metrics.find({name: {"to": to}}).function(maps[0], seen)
        assert torch.equal(value, between(name, maps[0], then))
    assert metrics.find({name: {"to": "previous"}}).label == f"{name}_previous"
    assert torch.equal(metrics.find(name).function(maps[0], seen), between(name, maps[0], maps[1]))


@pytest.mark.parametrize("name", NAMES)
def test_another_look_is_refused_with_a_line_that_works(name):
    heat = drawn(2, 3, 3)
    message = r"to='baseline', 'previous' or 'best'; got to='previos'. Did you mean 'previous'\? Write it as metrics=(\[.*\])\."
    with pytest.raises(ValueError, match=message) as refusal:
        metrics.find({name: {"to": "previos"}}).function(heat, seen_with(Earlier()))
    (spec,) = eval(str(refusal.value).partition("metrics=")[2].rstrip("."))
    assert metrics.find(spec).function(heat, seen_with(Earlier(heat, heat))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("share", [0.0, -0.2, 1.5, nan])
def test_a_share_that_is_none_is_refused_with_a_line_that_works(share):
    heat = drawn(2, 3, 3)
    with pytest.raises(ValueError, match=r"above 0 and at most 1; got share=.*write metrics=\[.*\]\.") as refusal:
        between("top_iou", heat, heat, share=share)
    (spec,) = eval(str(refusal.value).partition("metrics=")[2].rstrip("."))
    assert metrics.find(spec).function(heat, seen_with(Earlier(heat, heat))).tolist() == [1.0, 1.0]


def test_none_of_them_says_which_look_is_the_best():
    assert all("higher_is_better" not in metrics.find(name).facts for name in NAMES)
    assert all(metrics.find(name).facts["cost"] for name in NAMES)
