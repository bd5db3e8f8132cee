"""Patches stand at their places, to one scale and without seams; many of them give the same as one by one."""

import math

import pytest
import reference_patches as reference
import torch

from lightning_cam.patches import PatchTable
from lightning_cam.patches.placement import place_patches
from lightning_cam.patches.spacing import patch_sizes


def table_of(x, y, values=None, patients=None):
    columns = {"patient_id": patients or [1] * len(x), "x": x, "y": y, "target": [0] * len(x)}
    return PatchTable.of(columns | ({} if values is None else {"probability": values}))


def grid(columns, rows, spacing=50, at=(1, 1)):
    places = [(at[0] + spacing * i, at[1] + spacing * j) for j in range(rows) for i in range(columns)]
    return [x for x, _ in places], [y for _, y in places]


def slow(placement, values):
    """The mean over each pixel of each patient, patch by patch."""
    edges = [part.tolist() for part in (placement.left, placement.right, placement.top, placement.bottom)]
    maps = []
    for p in range(placement.patients):
        rows = [i for i, own in enumerate(placement.patient.tolist()) if own == p]
        squares = [tuple(edge[i] for edge in edges) for i in rows]
        maps.append(reference.pixels(squares, [values[i] for i in rows], placement.size))
    return maps


def agree(fast, covered, expected):
    for p, rows in enumerate(expected):
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                assert bool(covered[p, i, j]) == (value is not None)
                if value is not None:
                    assert float(fast[p, i, j]) == pytest.approx(value, abs=1e-6, nan_ok=True)


def test_a_grid_is_squares_of_equal_whole_pixels_side_by_side():
    x, y = grid(10, 5)
    placement = place_patches(table_of(x, y), 240)
    assert placement.size == (120, 240) and bool(placement.covered.all())
    assert (placement.right - placement.left).unique().tolist() == (placement.bottom - placement.top).unique().tolist() == [24]
    assert placement.left[:10].tolist() == list(range(0, 240, 24)) and placement.top[::10].tolist() == list(range(0, 120, 24))


def test_squares_are_equal_where_the_panel_is_no_multiple_of_them():
    x, y = grid(7, 7)
    placement = place_patches(table_of(x, y), 100)
    assert (placement.right - placement.left).unique().tolist() == [14]
    assert (int(placement.left.min()), int(placement.right.max())) == (1, 99)


def test_patches_are_square_whatever_the_shape_of_their_patient():
    parts = [grid(12, 6), grid(6, 12), grid(9, 9)]
    x, y = ([place for part in parts for place in part[side]] for side in (0, 1))
    table = table_of(x, y, patients=[p for p, part in enumerate(parts) for _ in part[0]])
    placement = place_patches(table, 120)
    assert placement.size == (120, 120)
    assert torch.equal(placement.right - placement.left, placement.bottom - placement.top)


def test_y_grows_downwards_and_x_to_the_right():
    placement = place_patches(table_of([0, 50, 0], [0, 0, 50]), 100)
    drawn = placement.mean(torch.tensor([0.25, 0.5, 0.75]))[0]
    assert drawn[[0, 0, -1], [0, -1, 0]].tolist() == [0.25, 0.5, 0.75]
    assert not placement.covered[0, -1, -1]


def test_a_smaller_patient_fills_its_panel_to_one_scale_and_stands_in_the_middle():
    wide, tall = grid(8, 4), grid(2, 4, spacing=20)
    table = table_of(wide[0] + tall[0], wide[1] + tall[1], patients=[1] * 32 + [2] * 8)
    placement = place_patches(table, 160)
    h, w = placement.size
    own = placement.patient == 1
    assert int(placement.bottom[own].max() - placement.top[own].min()) == h
    assert int(placement.right[own].max() - placement.left[own].min()) == h // 2
    assert int(placement.left[own].min()) == w // 2 - h // 4


@pytest.mark.parametrize("longest", [37, 64, 160])
def test_what_is_drawn_equals_patch_by_patch(longest):
    own = torch.Generator().manual_seed(1)
    n = 150
    places = torch.randperm(40 * 30, generator=own)[:n]
    x, y = (places % 40 * 7).tolist(), (places // 40 * 7).tolist()
    values = torch.rand(n, generator=own)
    values[::9] = math.nan
    table = table_of(x, y, values.tolist(), torch.randint(3, (n,), generator=own).tolist())
    placement = place_patches(table, longest)
    agree(placement.mean(table.probability), placement.covered, slow(placement, table.probability.tolist()))


def test_patches_smaller_than_a_pixel_are_binned_to_their_mean():
    x, y = grid(120, 120, spacing=1)
    values = torch.rand(len(x), generator=torch.Generator().manual_seed(2))
    table = table_of(x, y, values.tolist())
    placement = place_patches(table, 40)
    assert placement.size == (40, 40) and bool(placement.covered.all())
    binned = table.probability.double().reshape(40, 3, 40, 3).mean((1, 3))
    assert torch.allclose(placement.mean(table.probability)[0].double(), binned, atol=1e-6)
    agree(placement.mean(table.probability), placement.covered, slow(placement, table.probability.tolist()))
    middles = place_patches(table_of([v + 0.5 for v in x], [v + 0.5 for v in y], values.tolist()), 40)
    assert torch.equal(middles.left, placement.left)  # of corners or of middles, all the same


def test_means_are_the_same_in_any_order():
    x, y = grid(90, 90, spacing=1)
    values = torch.rand(len(x), generator=torch.Generator().manual_seed(4))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    table = table_of(x, y, values.tolist())
    first, second = place_patches(table, 32), place_patches(table.rows(order), 32)
    assert torch.equal(first.mean(values), second.mean(values[order]))


def test_the_size_of_a_patch_is_found():
    assert patch_sizes(table_of(*grid(4, 4))).tolist() == [50]
    assert patch_sizes(table_of([0, 150, 200], [0, 0, 0])).tolist() == [50]
    x, y = grid(10, 10)
    table = table_of([*x, 0, 256, 512], [*y, 0, 0, 0], patients=["a"] * 100 + ["b"] * 3)
    assert patch_sizes(table).tolist() == [50, 256]
    assert patch_sizes(table_of([0, 50, 9], [0, 0, 9], patients=["a", "a", "b"])).tolist() == [50, 50]
    assert patch_sizes(table_of([3], [7])).tolist() == [1]
    assert patch_sizes(table_of([0, 50, 0, 90], [0, 0, 0, 70], patients=["a", "a", "b", "b"])).tolist() == [50, 50]
    assert patch_sizes(table_of(x, y), 32.0).tolist() == [32]


def test_one_slip_among_many_patches_does_not_make_them_dots():
    x, y = grid(20, 20)
    assert patch_sizes(table_of([*x, 3], [*y, 1])).tolist() == [50]


def test_scattered_patches_fill_about_their_area():
    places = torch.rand(2, 400, generator=torch.Generator().manual_seed(6)) * 1000
    (size,) = patch_sizes(table_of(*places.tolist())).tolist()
    assert size == pytest.approx(50, rel=0.05)
    x, y = places.tolist()
    (size,) = patch_sizes(table_of([*x, 10.5, 990.5], [*y, 500, 500])).tolist()
    assert size == pytest.approx(50, rel=0.05)  # two in a row by chance, far apart


@pytest.mark.parametrize("size", [0, -1.0, math.inf, math.nan])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="expected the side of a patch in the units of x and y, above 0"):
        patch_sizes(table_of([0], [0]), size)
