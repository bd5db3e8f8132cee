"""The centre-Gaussian: its shape, and what metrics give for it."""

import math

import pytest
import torch
from regions import SIZES, drawn, looked, rectangle
from torch import nan

from lightning_cam import metrics


@pytest.mark.parametrize("sides", SIZES)
def test_the_bump_is_the_formula_in_lengths_of_each_side(sides):
    size = SIZES[sides][1]
    bump = metrics.centre_gaussian(torch.zeros(2, 3, *size, dtype=torch.uint8), sigma=0.3)
    assert bump.shape == (2, *size)
    for place in torch.ones(size).nonzero().tolist():
        away = [(p + 0.5) / side - 0.5 for p, side in zip(place, size, strict=True)]
        expected = math.exp(-sum(x * x for x in away) / (2 * 0.3**2))
        assert bump[(1, *place)].item() == pytest.approx(expected, rel=1e-5)


def test_the_bump_is_the_same_from_every_side():
    bump = metrics.centre_gaussian(torch.zeros(1, 3, 9, 14))
    assert torch.equal(bump, bump.flip(1)) and torch.equal(bump, bump.flip(2))
    assert metrics.centre_gaussian(torch.zeros(1, 1, 7))[0, 3] == 1


def test_half_the_maximum_is_exceeded_on_a_quarter_of_the_image():
    assert (metrics.centre_gaussian(torch.zeros(1, 3, 200, 300)) > 0.5).float().mean().item() == pytest.approx(0.272, abs=0.002)


@pytest.mark.parametrize("sigma", [0.0, -1.0, nan])
def test_a_sigma_that_is_none_is_refused_with_a_line_that_works(sigma):
    with pytest.raises(ValueError, match=r"above 0; got .*centre_gaussian\(images, sigma=0\.25\)"):
        metrics.centre_gaussian(torch.zeros(1, 3, 4, 4), sigma=sigma)
    images = torch.zeros(1, 3, 4, 4)
    assert torch.equal(metrics.centre_gaussian(images, sigma=0.25), metrics.centre_gaussian(images))


@pytest.mark.parametrize(
    "name", ["energy_inside", "enrichment", "pointing_game", "relevance_rank", "iou", "px_ap", "max_box_acc"]
)
def test_a_metric_at_the_centre_is_its_value_for_the_bump(name):
    masks = drawn(3, 9, 14, seed=2) > 0.3
    masks[2] = False
    for options in ({}, {"region": "a"}):
        entry = metrics.find({name: options})
        seen = looked(baseline=drawn(3, 4, 4), now=drawn(3, 4, 4), a=masks, b=masks & False)
        value = metrics.at_centre(entry.function, seen)
        bump = metrics.centre_gaussian(torch.zeros(3, 1, 9, 14)).double()
        expected = entry.function(bump, looked(a=masks, b=masks & False))
        assert torch.equal(value.nan_to_num(-1), expected.nan_to_num(-1))
        assert value.isnan().tolist() == [False, False, True]


def test_the_centre_favours_what_is_in_the_middle():
    masks = torch.cat([rectangle(6, 6, 10, 10, 16, 16), rectangle(0, 0, 4, 4, 16, 16)])
    middle, corner = metrics.at_centre(metrics.enrichment, looked(a=masks)).tolist()
    assert middle > 2 > 0.5 > corner
    assert metrics.at_centre(metrics.pointing_game, looked(a=masks)).tolist() == [1, 0]


def test_a_batch_without_regions_has_no_value_at_the_centre():
    assert metrics.at_centre(metrics.energy_inside, looked()).isnan().all()


def test_what_reads_the_order_alone_is_the_same_for_every_sigma():
    # of sides in which no two places are equally far from the middle but by symmetry
    seen = looked(a=drawn(3, 11, 13, seed=2) > 0.3)
    images = torch.zeros(3, 1, 11, 13)
    narrow, wide = (metrics.centre_gaussian(images, sigma=sigma).double() for sigma in (0.2, 0.5))
    for metric in (metrics.px_ap, metrics.relevance_rank, metrics.pointing_game):
        assert torch.equal(metric(narrow, seen), metric(wide, seen))
