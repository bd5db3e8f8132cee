"""The pointing game: where a cell points, what is a hit, what is undefined, and what chance gives."""

import pytest
import reference_localization
import torch
from regions import SIZES, drawn, looked, rectangle, within_five_sigma
from torch import nan

from lightning_cam import metrics
from lightning_cam.metrics.pointing import hits, hitting_cells


def at(row, column, value=1.0, cells=(7, 7)):
    heat = torch.zeros(1, *cells)
    heat[0, row, column] = value
    return heat


@pytest.mark.parametrize("tolerance", [0.0, 0.03, 0.11, 0.3])
@pytest.mark.parametrize("sides", SIZES)
def test_pointing_game_equals_the_slow_reference_over_any_number_of_sides(sides, tolerance):
    cells, size = SIZES[sides]
    masks = drawn(12, *size, seed=1) > 0.9
    for shape in (cells, size):  # a coarse map, and one of the image's size
        heat = drawn(12, *shape, seed=2).round(decimals=0)  # with ties
        expected = [reference_localization.pointing_game(heat[i], masks[i], tolerance) for i in range(12)]
        value = metrics.pointing_game(heat, looked(a=masks), tolerance=tolerance)
        assert value.tolist() == pytest.approx(expected, abs=1e-10, nan_ok=True)
        assert value.dtype == torch.float64
        assert 0 < value.nanmean() < 1 or tolerance > 0.2


def test_a_cell_points_at_its_centre_also_where_an_enlarged_map_is_flat_to_the_border():
    """The corner cell of 7x7 on 56 pixels is 8 wide: it points at pixel 4, not at the corner that argmax would name."""
    for row, column, x, y in ((0, 0, 4, 4), (6, 6, 52, 52), (2, 5, 44, 20)):
        seen = looked(a=rectangle(x, y, x + 1, y + 1, 56, 56))
        assert metrics.pointing_game(at(row, column), seen, tolerance=0.0).item() == 1
    assert metrics.pointing_game(at(0, 0), looked(a=rectangle(0, 0, 3, 3, 56, 56)), tolerance=0.0).item() == 0


def test_the_tolerance_is_strict_and_grows_with_the_image():
    """Fifteen pixels at five hundred, as in TorchRay: a pixel 15 away is a miss, one nearer a hit."""
    heat = torch.zeros(1, 1, 500)
    heat[0, 0, 100] = 1
    for away, hit in ((14, 1), (15, 0)):
        assert metrics.pointing_game(heat, looked(a=rectangle(100 + away, 0, 200, 1, 1, 500))).item() == hit
    small = torch.zeros(1, 1, 224)
    small[0, 0, 100] = 1
    for away, hit in ((6, 1), (7, 0)):  # 6.72
        assert metrics.pointing_game(small, looked(a=rectangle(100 + away, 0, 200, 1, 1, 224))).item() == hit


def test_the_distance_is_as_the_crow_flies():
    heat = at(20, 20, cells=(100, 100))
    for x, y, hit in ((22, 21, 1), (22, 22, 1), (23, 20, 0), (22, 23, 0)):  # below 3 pixels
        assert metrics.pointing_game(heat, looked(a=rectangle(x, y, x + 1, y + 1, 100, 100))).item() == hit


def test_cells_tied_at_the_maximum_count_by_their_share():
    heat = at(1, 1) + at(5, 5) + at(5, 1)
    seen = looked(a=rectangle(0, 0, 28, 28, 56, 56))
    assert metrics.pointing_game(heat, seen).item() == pytest.approx(1 / 3)
    assert metrics.pointing_game(heat + at(1, 1, 0.1), seen).item() == 1


def test_what_is_undefined_is_nan_and_never_a_hit():
    """Quantus counts an empty mask and a map of zeros as hits; argmax of zeros is the upper left corner."""
    everywhere, corner, empty = rectangle(0, 0, 8, 8), rectangle(0, 0, 4, 4), rectangle(0, 0, 0, 0)
    flat = torch.zeros(1, 4, 4)
    for mask in (everywhere, corner):
        for heat in (flat, flat + 1, flat - 1, -at(1, 1, cells=(4, 4)), flat + nan, torch.ones(1, 1, 1)):
            assert metrics.pointing_game(heat, looked(a=mask)).isnan().all()
    assert metrics.pointing_game(at(0, 0), looked(a=empty)).isnan().all()
    assert metrics.pointing_game(at(0, 0), looked()).isnan().all()
    broken = at(0, 0)
    broken[0, 6, 6] = nan
    assert metrics.pointing_game(broken, looked(a=corner)).isnan().all()
    assert metrics.pointing_game(at(0, 0), looked(a=everywhere)).item() == 1


def test_scale_changes_nothing_and_regions_are_chosen_or_united():
    heat = drawn(5, 4, 4)
    a, b = drawn(5, 9, 6, seed=1) > 1, drawn(5, 9, 6, seed=2) > 1
    seen = looked(a=a, b=b)
    value = metrics.pointing_game(heat, seen, tolerance=0.0)
    assert torch.equal(metrics.pointing_game(heat * 7, seen, tolerance=0.0), value)
    single = [metrics.pointing_game(heat, seen, region=name, tolerance=0.0) for name in "ab"]
    assert torch.equal(value, torch.maximum(*single))
    with pytest.raises(ValueError, match=r"no region 'c'"):
        metrics.pointing_game(heat, seen, region="c")


@pytest.mark.parametrize("tolerance", [-0.1, torch.inf, nan])
def test_a_tolerance_that_is_no_distance_is_refused_with_a_line_that_works(tolerance):
    with pytest.raises(ValueError, match=r'0 or more; got .*write \{"pointing_game": \{"tolerance": 0\.03\}\}'):
        metrics.pointing_game(torch.rand(1, 4, 4), looked(a=rectangle(0, 0, 2, 2)), tolerance=tolerance)
    entry = metrics.find({"pointing_game": {"tolerance": 0.03}})
    assert entry.function(torch.rand(1, 4, 4), looked(a=rectangle(0, 0, 8, 8))).item() == 1


# the floor


@pytest.mark.parametrize("sides", SIZES)
def test_the_floor_is_the_mean_over_every_cell_that_could_be_the_hottest(sides):
    cells, size = SIZES[sides]
    masks = drawn(3, *size, seed=5) > 1
    n = torch.Size(cells).numel()
    single = torch.eye(n, dtype=torch.float64).reshape(n, 1, *cells)
    for tolerance in (0.0, 0.2):
        each = torch.stack(
            [metrics.pointing_game(heat.expand(3, *cells), looked(a=masks), tolerance=tolerance) for heat in single]
        )
        now = torch.zeros(3, *cells, dtype=torch.float64)
        floor = hitting_cells(looked(now=now, a=masks), tolerance=tolerance)
        assert torch.allclose(each.mean(0), floor, rtol=1e-10)
        assert torch.equal(floor, hits(masks, cells, tolerance).flatten(1).double().mean(1))


def test_random_maps_score_the_floor_and_not_the_area():
    """A map of 7x7 cells has 49 points only; a box between them is missed whatever its area."""
    mask = rectangle(21, 21, 35, 35, 56, 56)  # a sixteenth of the image, and one cell's point
    heat = torch.rand(4000, 7, 7, generator=torch.Generator().manual_seed(0))
    seen = looked(now=heat, dtype=torch.float32, a=mask.expand(4000, -1, -1))
    values = metrics.pointing_game(heat, seen, tolerance=0.0)
    floor = metrics.find("pointing_game").facts["floor"](seen, tolerance=0.0)
    assert floor[0].item() == pytest.approx(1 / 49)
    assert within_five_sigma(values, 1 / 49) and not within_five_sigma(values, float(mask.float().mean()))


def test_the_floor_is_undefined_where_the_metric_is():
    now = torch.rand(2, 4, 4)
    masks = torch.cat([rectangle(0, 0, 2, 2), rectangle(0, 0, 0, 0)])
    assert hitting_cells(looked(now=now, a=masks)).isnan().tolist() == [False, True]
    assert hitting_cells(looked()).isnan().all()
