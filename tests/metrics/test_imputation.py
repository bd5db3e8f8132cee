"""Pixels imputed from their neighbours: a sparse linear system, solved for all samples at once."""

import numpy as np
import pytest
import reference_faithfulness as reference
import torch

from lightning_cam.metrics.faithfulness.imputation import linear_imputation, neighbours
from lightning_cam.metrics.faithfulness.road import imputed

SIZES = [(13,), (7, 9), (5, 4, 7), (2, 30), (1, 9)]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_solution_is_that_of_a_sparse_solver(size, share):
    x = 5 + 2 * drawn(3, 2, *size, seed=1)
    order = drawn(3, *size, seed=2).flatten(1).argsort(1).argsort(1).reshape(3, *size)
    missing = order < max(1, round(share * order[0].numel()))
    found = linear_imputation(x, missing)
    for i in range(3):
        wanted = reference.imputed(x[i].numpy(), missing[i].numpy())
        np.testing.assert_allclose(found[i].numpy(), wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(found[~missing[:, None].expand_as(x)], x[~missing[:, None].expand_as(x)])


def test_in_pictures_neighbours_weigh_a_sixth_and_diagonal_ones_half_of_it():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 12
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]])
    torch.testing.assert_close(neighbours(x)[0, 0], expected)
    assert torch.allclose(neighbours(torch.ones(1, 1, 6, 6, 6))[0, 0, 1:-1, 1:-1, 1:-1], torch.ones(()))


def test_a_gap_in_a_line_is_bridged_and_an_open_end_continued():
    line = torch.arange(20.0, dtype=torch.float64)[None, None]
    missing = torch.zeros(1, 20, dtype=torch.bool)
    missing[0, 3:15] = True
    torch.testing.assert_close(linear_imputation(line, missing), line, rtol=1e-11, atol=1e-11)
    missing[0, 15:] = True
    found = linear_imputation(line, missing)
    torch.testing.assert_close(found[0, 0, 3:], torch.full((17,), 2.0).double(), rtol=1e-11, atol=1e-11)


def test_nothing_is_imputed_beyond_what_is_known_and_a_flat_picture_stays_flat():
    x, missing = drawn(2, 3, 16, 17), drawn(2, 16, 17, seed=4) > -0.5
    found = linear_imputation(x, missing)
    for i in range(2):
        known = x[i][:, ~missing[i]]
        assert (found[i].flatten(1).amax(1) <= known.amax(1) + 1e-12).all()
        assert (found[i].flatten(1).amin(1) >= known.amin(1) - 1e-12).all()
    flat = torch.full((1, 3, 16, 17), 1e6).float()
    assert torch.equal(linear_imputation(flat, missing[:1]), flat)
    assert not linear_imputation(torch.zeros(1, 3, 16, 17), missing[:1]).any()


def test_brightness_and_contrast_pass_through():
    x, missing = drawn(2, 3, 16, 17, dtype=torch.float32), drawn(2, 16, 17, seed=4) > -0.5
    found = linear_imputation(x, missing)
    torch.testing.assert_close(linear_imputation(100 + 7 * x, missing), 100 + 7 * found, rtol=0, atol=0.01)


@pytest.mark.parametrize("share", [0.2, 0.95])
def test_in_single_precision_a_picture_is_right_to_half_a_percent_of_its_contrast(share):
    coarse = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    heat = torch.nn.functional.interpolate(coarse, (112, 112), mode="bilinear")[:, 0].flatten(1)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 14, 14), (112, 112), mode="bilinear") + 0.1 * torch.rand(
        2, 3, 112, 112
    )
    missing = (heat.argsort(1, descending=True).argsort(1) < share * 112 * 112).reshape(2, 112, 112)
    exact = linear_imputation(x.double(), missing)
    assert (linear_imputation(x, missing) - exact).abs().max() < 0.005 * (x.max() - x.min())


def test_a_picture_that_is_not_a_number_ends_it():
    x, missing = drawn(2, 1, 6, 6), drawn(2, 6, 6, seed=4) > 0
    x[0, 0, 0, 0] = torch.nan
    found = linear_imputation(x, missing)
    np.testing.assert_allclose(found[1].numpy(), reference.imputed(x[1].numpy(), missing[1].numpy()), rtol=1e-10, atol=1e-10)


def test_noise_is_on_what_is_imputed_alone_and_as_large_as_each_image_is_wide():
    x = torch.cat([drawn(1, 3, 40, 40), 100 * drawn(1, 3, 40, 40)])
    missing = (drawn(1, 40, 40, seed=1) > 0).expand(2, -1, -1)
    noise = imputed(x, missing, 0.1, 0) - imputed(x, missing, 0.0, 0)
    holes = missing[:, None].expand_as(x)
    assert not noise[~holes].any()
    for i in range(2):
        width = x[i].max() - x[i].min()
        assert noise[i][holes[i]].std() / width == pytest.approx(0.1, rel=0.05)
    assert torch.equal(imputed(x, missing, 0.1, 0), imputed(x, missing, 0.1, 0))
    assert not torch.equal(imputed(x, missing, 0.1, 0), imputed(x, missing, 0.1, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_images_keep_their_type(dtype):
    x = (200 * torch.rand(2, 3, 8, 8)).to(dtype)
    found = imputed(x, drawn(2, 8, 8) > 0, 0.01, 0)
    assert found.dtype == dtype and found.shape == x.shape
