"""What a map is like by itself: closed-form values, references, what changes nothing, and what is undefined."""

import math

import pytest
import reference_shape
import torch
from nets import STRICT
from plain import plain_net, watcher
from torch import nan

from lightning_cam import metrics
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.model.trace import Calls

pytestmark = STRICT

NAMES = ["entropy", "gini", "effective_area", "positive_share", "strength", "norm"]
SIZES = [(9,), (7, 7), (3, 5), (1, 6), (4, 3, 2), (1, 1)]


def value(name, heat):
    blank = torch.zeros(len(heat), 1)
    return metrics.find(name).function(heat, Seen(Forward(None, blank, blank, None, {}, Calls()), "layer"))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def delta(*shape):
    heat = torch.zeros(1, *shape, dtype=torch.float64)
    heat.view(-1)[heat.numel() // 2] = 3.0
    return heat


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_the_slow_reference_over_any_number_of_sides(name, shape):
    heat = torch.cat([drawn(3, *shape), drawn(2, *shape).round(), drawn(1, *shape).relu() + 0.1, -drawn(1, *shape).abs()])
    expected = [getattr(reference_shape, name)(sample) for sample in heat]
    assert value(name, heat).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("shape", [(49,), (7, 7), (3, 5), (4, 3, 2)])
def test_of_an_even_map_and_of_a_single_cell(shape):
    n = math.prod(shape)
    even, cell = torch.full((1, *shape), 0.3, dtype=torch.float64), delta(*shape)
    for name, of_even, of_cell in [
        ("entropy", 1.0, 0.0),
        ("gini", 0.0, 1 - 1 / n),
        ("effective_area", 1.0, 1 / n),
        ("positive_share", 1.0, 1.0),
        ("strength", 0.3, 3.0),
        ("norm", 0.3 * math.sqrt(n), 3.0),
    ]:
        assert value(name, even).item() == pytest.approx(of_even, abs=1e-12), name
        assert value(name, cell).item() == pytest.approx(of_cell, abs=1e-12), name
        floor = metrics.find(name).facts.get("floor")
        assert floor is None or floor == pytest.approx(of_even)  # a map without preference


def test_of_49_cells_the_gini_index_of_one_is_point_9796():
    assert round(value("gini", delta(7, 7)).item(), 4) == 0.9796


@pytest.mark.parametrize("k", [1, 5, 20])
def test_an_effective_area_is_that_of_so_many_equal_cells(k):
    heat = torch.zeros(1, 4, 5)
    heat.view(-1)[:k] = 7.0
    assert value("effective_area", heat).item() == pytest.approx(k / 20)
    assert value("entropy", heat).item() == pytest.approx(math.log(k) / math.log(20), abs=1e-7)
    assert value("gini", heat).item() == pytest.approx(1 - k / 20, abs=1e-7)


def test_evidence_against_enters_the_positive_share_and_the_norm_alone():
    heat = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])
    signed = torch.tensor([[[3.0, 1.0], [-4.0, -8.0]]])
    for name in ("entropy", "gini", "effective_area", "strength"):
        assert torch.equal(value(name, heat), value(name, signed))
    assert value("positive_share", signed).item() == pytest.approx(4 / 16)
    assert value("norm", signed).item() == pytest.approx(math.sqrt(90))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", [1e-30, 1e-3, 7.0, 1e30])
def test_scale_changes_strength_and_norm_and_nothing_else(unit, dtype):
    heat = drawn(4, 7, 7).to(dtype)
    for name in NAMES:
        plain, scaled = value(name, heat), value(name, heat * unit)
        assert scaled.dtype == dtype
        if name in ("strength", "norm"):
            plain = plain * unit
        assert torch.allclose(scaled / plain, torch.ones_like(plain), rtol=1e-5)


def test_heat_drawn_together_lowers_entropy_and_area_and_raises_the_gini_index():
    heat = drawn(1, 7, 7).abs()
    last = [value(name, heat).item() for name in ("entropy", "effective_area", "gini")]
    for power in (2, 4, 8):
        sharper = [value(name, heat**power).item() for name in ("entropy", "effective_area", "gini")]
        assert sharper[0] < last[0] and sharper[1] < last[1] and sharper[2] > last[2]
        last = sharper


def test_undefined_is_nan():
    zero, against, absent = torch.zeros(1, 3, 3), torch.full((1, 3, 3), -2.0), torch.full((1, 3, 3), nan)
    part = torch.ones(1, 3, 3)
    part[0, 1, 1] = nan
    for name in NAMES:
        assert value(name, absent).isnan().all() and value(name, part).isnan().all(), name
    for name in ("entropy", "gini", "effective_area"):
        assert value(name, zero).isnan().all() and value(name, against).isnan().all(), name
    assert value("positive_share", zero).isnan().all()
    assert (value("positive_share", against).item(), value("strength", against).item()) == (0.0, -2.0)
    assert (value("norm", zero).item(), value("strength", zero).item()) == (0.0, 0.0)
    assert value("entropy", torch.ones(1, 1, 1)).isnan().all()  # one cell can neither spread nor gather
    assert value("gini", torch.ones(1, 1, 1)).item() == 0


def test_the_curve_of_strength_is_that_of_the_record(tmp_path):
    (record,) = watcher(plain_net(), tmp_path, metrics=NAMES).look(0)
    assert torch.equal(record.values["strength"], record.strength)
    for name in NAMES:
        expected = [getattr(reference_shape, name)(heat.double()) for heat in record.heat[:, 0]]
        assert record.values[name][:, 0].tolist() == pytest.approx(expected, rel=1e-4, nan_ok=True)
