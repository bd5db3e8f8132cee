"""Raw maps are resized as OpenCV does it, and rescaled by whatever extremes are asked for."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_cam import Style
from lightning_cam.heat import condense, maximum, rescale, resize, value_range


@pytest.mark.parametrize("size", [(224, 224), (37, 90), (3, 5), (8, 10)])
def test_resize_equals_opencv(size):
    heat = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(1))
    theirs = np.stack([cv2.resize(one.numpy(), size[::-1], interpolation=cv2.INTER_LINEAR) for one in heat])
    assert np.abs(resize(heat, size).numpy() - theirs).max() < 2e-6


def test_scales_say_whose_extremes_fill_the_colours():
    heat = torch.tensor([[[-1.0, 2.0]], [[0.5, 4.0]]])
    assert rescale(heat, *value_range(heat, "positive")).tolist() == [[[0, 1]], [[0.125, 1]]]
    assert rescale(heat, *value_range(heat, "minmax")).tolist() == [[[0, 1]], [[0, 1]]]
    assert rescale(heat, *value_range(heat, "positive", "batch")).tolist() == [[[0, 0.5]], [[0.125, 1]]]
    assert rescale(heat, *value_range(heat, "positive", "run", (-3.0, 8.0))).tolist() == [[[0, 0.25]], [[0.0625, 0.5]]]
    assert rescale(heat, *value_range(heat, "positive", 2.0)).tolist() == [[[0, 1]], [[0.25, 1]]]
    assert maximum(heat).tolist() == [2, 4]


def test_single_pixels_of_a_fine_map_do_not_leave_the_rest_dark():
    heat = torch.arange(10000.0).reshape(1, 100, 100) - 5000
    heat[0, -1, -1] = 1e6
    low, high = value_range(heat, "minmax")
    assert (low.item(), high.item()) == (-4900, 4899)
    assert [end.item() for end in value_range(heat, "positive")] == [0, 4899]
    assert [end.item() for end in value_range(heat, "symmetric")] == [-4900, 4900]
    assert [end.item() for end in value_range(heat, "positive", "batch")] == [0, 1e6]
    alone = torch.zeros(1, 100, 100)
    alone[0, 3, 4] = 2  # few pixels are all there is
    assert [end.item() for end in value_range(alone, "positive")] == [0, 2]
    coarse = heat[:, :63, :65] + 5000  # 4095 cells: the extremes themselves
    assert [end.item() for end in value_range(coarse, "positive")] == [0, coarse.max().item()]


def test_a_flat_or_broken_map_is_shown_as_nothing():
    for heat in (torch.zeros(1, 2, 2), torch.full((1, 2, 2), -1.0), torch.full((1, 2, 2), torch.nan)):
        assert rescale(heat, *value_range(heat, "positive")).abs().sum() == 0
    flat = torch.full((1, 2, 2), 3.0)
    assert rescale(flat, *value_range(flat, "minmax")).abs().sum() == 0


def test_signed_maps_are_centred_at_zero_by_whatever_scale():
    heat = torch.tensor([[[-1.0, 2.0, 0.0]], [[-4.0, 1.0, 0.0]]])
    assert rescale(heat, *value_range(heat, "symmetric"), 0.5).tolist() == [[[0.25, 1, 0.5]], [[0, 0.625, 0.5]]]
    assert rescale(heat, *value_range(heat, "symmetric", "batch"), 0.5).tolist() == [[[0.375, 0.75, 0.5]], [[0, 0.625, 0.5]]]
    assert rescale(heat, *value_range(heat, "symmetric", "run", (-8.0, 3.0)), 0.5).tolist()[0] == [[0.4375, 0.625, 0.5]]
    assert rescale(heat, *value_range(heat, "symmetric", 2.0), 0.5).tolist() == [[[0.25, 1, 0.5]], [[0, 0.75, 0.5]]]
    for blank in (torch.zeros(1, 2, 2), torch.full((1, 2, 2), torch.nan)):
        for scale in ("image", "batch", "run"):
            assert rescale(
                blank, *value_range(blank, "symmetric", scale), Style(norm="symmetric").neutral
            ).unique().tolist() == [0.5]
    half = torch.cat([heat[:1], torch.full((1, 1, 3), torch.nan)])
    assert rescale(half, *value_range(half, "symmetric", "batch"), 0.5).tolist() == [[[0.25, 1, 0.5]], [[0.5] * 3]]


@pytest.mark.parametrize("shape", [(1024,), (32, 32), (7, 7), (1, 1024), (4, 16, 16), (1,), (1000,)])
def test_maps_of_up_to_1024_cells_are_not_condensed(shape):
    heat = torch.randn(3, *shape)
    assert condense(heat) is heat


@pytest.mark.parametrize(
    ("shape", "condensed"),
    [
        ((50000,), (1024,)),
        ((1025,), (1024,)),
        ((224, 224), (32, 32)),
        ((33, 32), (32, 31)),
        ((100, 400), (16, 64)),
        ((400, 100), (64, 16)),
        ((1, 5000), (1, 1024)),
        ((50000, 3), (1024, 1)),
        ((4, 224, 224), (1, 32, 32)),
        ((1, 2, 50000), (1, 1, 1024)),
        ((16, 16, 16), (10, 10, 10)),
        ((32, 112, 112), (4, 15, 15)),
        ((112, 32, 112), (15, 4, 15)),
    ],
)
def test_larger_maps_are_averaged_down_with_sides_in_proportion(shape, condensed):
    heat = torch.randn(2, *shape)
    pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(shape)]
    small = condense(heat)
    assert torch.equal(small, pool(heat[:, None], condensed)[:, 0])
    assert small.shape == (2, *condensed)


def test_condensing_averages_equal_blocks():
    heat = torch.arange(64.0 * 128).reshape(1, 64, 128)
    small = condense(heat, cells=8)
    assert small.shape == (1, 2, 4)
    assert torch.equal(small, heat.reshape(1, 2, 32, 4, 32).mean((2, 4)))
    line = torch.arange(8.0).reshape(1, 8)
    assert condense(line, cells=4).tolist() == [[0.5, 2.5, 4.5, 6.5]]
    cube = torch.arange(64.0).reshape(1, 4, 4, 4)
    assert torch.equal(condense(cube, cells=8), cube.reshape(1, 2, 2, 2, 2, 2, 2).mean((2, 4, 6)))


def test_condensing_keeps_absent_maps_absent():
    heat = torch.randn(2, 64, 64)
    heat[1] = torch.nan
    assert condense(heat).isnan().flatten(1).all(1).tolist() == [False, True]
