"""Optimal transport: exact beside a linear programme, matching and sums, metric, certified by its potentials, bounded."""

import math

import pytest
import torch
from nets import STRICT

from lightning_cam.metrics.comparison import transport
from lightning_cam.metrics.comparison.transport import least_work, positions

pytestmark = STRICT


def masses(n, *sides, seed=0, zeros=0.0):
    drawn = torch.rand((n, math.prod(sides)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn = (drawn - zeros).relu()
    return drawn / drawn.sum(1, keepdim=True)


def centre_shift(moved, sides):
    return (moved @ positions(sides)).norm(dim=1)


@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_it_equals_scipys_linear_programme_on_seven_by_seven_cells(zeros):
    pytest.importorskip("scipy")
    import reference_comparison

    p, q = masses(4, 7, 7, zeros=zeros), masses(4, 7, 7, seed=1, zeros=zeros)
    expected = [reference_comparison.wasserstein(a.reshape(7, 7), b.reshape(7, 7)) for a, b in zip(p, q, strict=True)]
    assert least_work(p - q, (7, 7)).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("sides", "points"), [((14, 14), 60), ((16, 16), 128), ((6, 6, 6), 80), ((5, 30), 75)])
def test_it_equals_scipys_matching_of_as_many_points(sides, points):
    optimize = pytest.importorskip("scipy.optimize")
    generator = torch.Generator().manual_seed(0)
    places, n = positions(sides), math.prod(sides)
    moved, expected = torch.zeros(2, n, dtype=torch.float64), []
    for sample in moved:
        first, second = torch.randperm(n, generator=generator)[: 2 * points].chunk(2)
        sample[first] += 1 / points
        sample[second] -= 1 / points
        work = torch.cdist(places[first], places[second])
        expected.append(float(work[optimize.linear_sum_assignment(work)].mean()))
    # equal masses, so that many flows are equal, and some zero
    assert least_work(moved, sides).tolist() == pytest.approx(expected, rel=1e-10)


def test_along_a_line_it_is_the_area_between_the_cumulative_sums():
    moved = masses(5, 40) - masses(5, 40, seed=1)
    assert torch.allclose(least_work(moved, (40,)), moved.cumsum(1).abs().sum(1), rtol=1e-12)
    assert torch.allclose(least_work(moved, (40, 1)), moved.cumsum(1).abs().sum(1), rtol=1e-12)


@pytest.mark.parametrize("sides", [(7, 7), (4, 9), (3, 4, 3)])
def test_it_is_a_metric_and_never_below_the_shift_of_the_centre(sides):
    p, q, r = (masses(24, *sides, seed=seed, zeros=0.4) for seed in range(3))
    there = least_work(p - q, sides)
    assert torch.allclose(there, least_work(q - p, sides), rtol=1e-10)
    assert (there <= least_work(p - r, sides) + least_work(r - q, sides) + 1e-12).all()
    assert (there >= centre_shift(p - q, sides) - 1e-12).all() and (there > 0).all()
    assert least_work(p - p, sides).tolist() == [0.0] * 24


@pytest.mark.parametrize(("way", "sides"), [((3, 4), (12, 14)), ((0, 9), (12, 20)), ((2, 1, 2), (7, 7, 7))])
def test_a_map_moved_as_a_whole_has_gone_that_way(way, sides):
    core = [side - step for side, step in zip(sides, way, strict=True)]
    block = masses(3, *core, zeros=0.3).reshape(3, *core)
    first, second = torch.zeros(3, *sides).double(), torch.zeros(3, *sides).double()
    first[(slice(None), *[slice(0, c) for c in core])] = block
    second[(slice(None), *[slice(s, None) for s in way])] = block
    assert least_work((second - first).flatten(1), sides).tolist() == pytest.approx([math.hypot(*way)] * 3, rel=1e-10)


def test_samples_do_not_depend_on_those_beside_them():
    moved = masses(20, 5, 4, zeros=0.5) - masses(20, 5, 4, seed=1, zeros=0.7)
    together = least_work(moved, (5, 4))
    alone = torch.cat([least_work(sample[None], (5, 4)) for sample in moved])
    assert torch.allclose(together, alone, rtol=1e-11)  # more samples than are taken at once


def test_an_absent_sample_is_nan_and_spares_the_others():
    moved = masses(3, 4, 4) - masses(3, 4, 4, seed=1)
    absent = moved.clone()
    absent[1] = torch.nan
    value = least_work(absent, (4, 4))
    assert value.isnan().tolist() == [False, True, False]
    assert torch.allclose(value[[0, 2]], least_work(moved[[0, 2]], (4, 4)), rtol=1e-12)
    assert least_work(absent[1:2], (4, 4)).isnan().all()


def test_single_precision_comes_back_as_single_and_nothing_given_is_changed():
    moved = (masses(3, 7, 7) - masses(3, 7, 7, seed=1)).float()
    before = moved.clone()
    value = least_work(moved, (7, 7))
    assert value.dtype == torch.float32 and torch.equal(moved, before)
    assert torch.allclose(value.double(), least_work(moved.double(), (7, 7)), rtol=1e-6)


def test_what_does_not_settle_in_time_is_undefined_and_not_wrong(monkeypatch):
    monkeypatch.setattr(transport, "_ROUNDS", 0)
    moved = masses(2, 7, 7) - masses(2, 7, 7, seed=1)
    assert least_work(moved, (7, 7)).isnan().all()
    assert torch.allclose(least_work(moved, (49,)), moved.cumsum(1).abs().sum(1))  # the first tree is the answer


@pytest.mark.slow
def test_of_1024_cells_it_is_exact_too():
    optimize = pytest.importorskip("scipy.optimize")
    first, second = torch.randperm(1024, generator=torch.Generator().manual_seed(0))[:400].chunk(2)
    places, moved = positions((32, 32)), torch.zeros(1, 1024, dtype=torch.float64)
    moved[0, first] += 1 / 200
    moved[0, second] -= 1 / 200
    work = torch.cdist(places[first], places[second])
    expected = float(work[optimize.linear_sum_assignment(work)].mean())
    assert least_work(moved, (32, 32)).item() == pytest.approx(expected, rel=1e-10)
