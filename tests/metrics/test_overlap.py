"""IoU at a share of the maximum, and average precision over all pixels of a batch."""

import pytest
import reference_localization
import torch
from regions import SIZES, drawn, looked, rectangle, within_five_sigma
from torch import nan

from lightning_cam import metrics
from lightning_cam.heat import min_max, resize, share_of_maximum
from lightning_cam.metrics.overlap import average_precision, noise_iou, pooled_area


def floor(name, seen, **options):
    return metrics.find(name).facts["floor"](seen, **options)


# IoU


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("sides", SIZES)
def test_iou_equals_the_slow_reference_over_any_number_of_sides(sides, threshold):
    cells, size = SIZES[sides]
    heat, masks = drawn(4, *cells, seed=1), drawn(4, *size, seed=2) > 0.3
    large = resize(heat.relu(), size)
    expected = [reference_localization.iou(large[i], masks[i], threshold) for i in range(4)]
    assert metrics.iou(heat, looked(a=masks), threshold=threshold).tolist() == pytest.approx(expected, rel=1e-10)


def test_the_threshold_of_iou_is_strict_and_by_default_half_the_maximum():
    heat = torch.tensor([[[4.0, 2.0, 2.1, 0.0]]])
    one_of_two = looked(a=rectangle(0, 0, 1, 1, 1, 4))
    assert metrics.iou(heat, one_of_two).item() == 0.5  # 4.0 and 2.1 are hot, 2.0 is not
    assert metrics.iou(heat, looked(a=rectangle(0, 0, 4, 1, 1, 4)), threshold=0.0).item() == 0.75


def test_at_half_the_maximum_a_single_cell_is_as_wide_as_a_cell():
    heat = torch.zeros(1, 7)
    heat[0, 3] = 1
    mask = torch.zeros(1, 70, dtype=torch.bool)
    mask[0, 30:40] = True
    assert metrics.iou(heat, looked(a=mask)).item() == 1
    assert metrics.iou(heat, looked(a=mask), threshold=0.2).item() == pytest.approx(10 / 16)


def test_a_perfect_box_has_an_iou_of_one():
    """By ends counted as inclusive it would be 25/36."""
    mask = rectangle(3, 4, 8, 9, 12, 14)
    assert metrics.iou(mask.float(), looked(a=mask)).item() == 1
    assert metrics.max_box_acc(mask.float(), looked(a=mask), delta=1.0).item() == 1


def test_iou_of_a_map_and_region_that_are_not_square():
    """Their sides are not swapped on the way: a wide box is not a tall one."""
    heat = torch.zeros(1, 3, 7)
    heat[0, 1, 4:6] = 1
    assert metrics.iou(heat, looked(a=rectangle(16, 4, 24, 8, 12, 28))).item() > 0.7
    assert metrics.iou(heat, looked(a=rectangle(4, 16, 8, 24, 28, 12))).item() < 0.2


@pytest.mark.parametrize("name", ["iou", "px_ap", "relevance_rank", "enrichment", "max_box_acc", "max_box_acc_v2"])
def test_what_is_undefined_is_nan_and_what_is_defined_beside_it_is_not(name):
    metric = metrics.find(name).function
    good = drawn(1, 4, 4)
    flat = torch.zeros(1, 4, 4, dtype=torch.float64)
    box, empty = rectangle(0, 0, 4, 4), rectangle(0, 0, 0, 0)
    heat = torch.cat([good, flat, flat + nan, good, good])
    masks = torch.cat([box, box, box, empty, ~empty])
    value = metric(heat, looked(a=masks))
    assert value.isnan().tolist() == [False, True, True, True, False]
    assert value.dtype == torch.float64
    assert metric(good, looked()).isnan().all()
    assert metric(good.float(), looked(a=box)).dtype == torch.float32


@pytest.mark.parametrize("name", ["iou", "px_ap", "max_box_acc", "max_box_acc_v2", "relevance_rank"])
def test_a_constant_map_and_one_of_a_single_cell_are_undefined(name):
    metric = metrics.find(name).function
    for heat in (torch.ones(1, 4, 4), torch.ones(1, 1, 1)):
        assert metric(heat, looked(a=rectangle(0, 0, 4, 4))).isnan().all()


@pytest.mark.parametrize("name", ["iou", "px_ap", "max_box_acc", "max_box_acc_v2"])
def test_what_reads_positive_evidence_is_undefined_without_any_and_blind_to_scale(name):
    metric = metrics.find(name).function
    masks = drawn(6, 9, 11, seed=3) > 0.3
    heat = drawn(6, 4, 5)
    assert metric(-heat.abs() - 0.1, looked(a=masks)).isnan().all()
    assert torch.allclose(metric(heat * 7, looked(a=masks)), metric(heat, looked(a=masks)))


def test_a_valley_changes_a_map_scaled_from_its_minimum_and_not_one_scaled_from_zero():
    """Scaled from the minimum, a deep valley lifts everything else; scaled from zero, no evidence stays none."""
    generator = torch.Generator().manual_seed(0)
    heat = torch.rand(6, 9, 11, generator=generator)  # of the image's size, so that nothing is mixed
    masks = torch.rand(6, 9, 11, generator=generator) > 0.6
    heat[:, 0, 0] = 0
    deep = heat.clone()
    deep[:3, 0, 0] = -50
    for name in ("px_ap", "max_box_acc", "max_box_acc_v2", "iou"):
        metric = metrics.find(name).function
        assert torch.equal(metric(heat, looked(a=masks)), metric(deep, looked(a=masks)))
    lifted = metrics.px_ap(deep, looked(a=masks), scaled="minmax")
    assert (lifted - metrics.px_ap(heat, looked(a=masks), scaled="minmax")).abs().min() > 1e-3


@pytest.mark.parametrize("threshold", [-0.1, 1.0, nan])
def test_a_threshold_of_iou_that_is_no_share_is_refused_with_a_line_that_works(threshold):
    with pytest.raises(ValueError, match=r'below 1; got .*write \{"iou": \{"threshold": 0\.5\}\}'):
        metrics.iou(torch.rand(1, 4, 4), looked(a=rectangle(0, 0, 2, 2)), threshold=threshold)
    value = metrics.find({"iou": {"threshold": 0.5}}).function(drawn(1, 4, 4), looked(a=rectangle(0, 0, 2, 2)))
    assert value.isfinite().all()


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_uniform_noise_scores_the_floor_of_iou(threshold):
    """With a region of .214 of the image and a fifth of the maximum that is .203."""
    heat = torch.rand(300, 56, 56, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    heat[:, 0, 0] = 1.0  # the supremum of what is drawn
    mask = rectangle(10, 10, 34, 38, 56, 56)
    seen = looked(a=mask.expand(300, -1, -1))
    expected = float(floor("iou", seen, threshold=threshold)[0])
    assert within_five_sigma(metrics.iou(heat, seen, threshold=threshold), expected)
    if threshold == 0.2:
        assert expected == pytest.approx(0.203, abs=5e-4)


def test_the_floor_of_iou_at_its_ends():
    full, none = rectangle(0, 0, 8, 8), rectangle(0, 0, 0, 0)
    assert noise_iou(looked(a=full), threshold=0.25).item() == pytest.approx(0.75)
    assert noise_iou(looked(a=rectangle(0, 0, 4, 4)), threshold=0.0).item() == pytest.approx(0.25)
    assert noise_iou(looked(a=none)).isnan().all() and noise_iou(looked()).isnan().all()


# average precision over pixels


@pytest.mark.parametrize("scaled", ["positive", "minmax"])
@pytest.mark.parametrize("sides", SIZES)
def test_px_ap_equals_the_slow_reference_and_scikit_learn_over_any_number_of_sides(sides, scaled):
    oracle = pytest.importorskip("sklearn.metrics")
    cells, size = SIZES[sides]
    for shape, decimals in ((cells, 8), (size, 1)):  # enlarged, and of the image's size with many ties
        heat, masks = drawn(3, *shape, seed=1).round(decimals=decimals), drawn(3, *size, seed=2) > 0.3
        scale = {"positive": share_of_maximum, "minmax": min_max}[scaled]
        values, positive = scale(resize(heat, size)).flatten(), masks.flatten()
        expected = reference_localization.average_precision(values.tolist(), positive.tolist())
        assert expected == pytest.approx(oracle.average_precision_score(positive, values), rel=1e-10)
        assert metrics.px_ap(heat, looked(a=masks), scaled=scaled).tolist() == pytest.approx([expected] * 3, rel=1e-10)


def test_px_ap_is_of_all_pixels_together():
    """Each map ranks its own pixels perfectly, and no single threshold does for both."""
    heat = torch.tensor([[[1.0, 0.1, 0.0, 0.0]], [[1.0, 0.9, 0.0, 0.8]]])
    masks = torch.tensor([[[True, True, False, False]], [[True, True, False, False]]])
    alone = [metrics.px_ap(heat[i : i + 1], looked(a=masks[i : i + 1])).item() for i in (0, 1)]
    assert alone == [1, 1]
    assert metrics.px_ap(heat, looked(a=masks)).tolist() == pytest.approx([(3 + 4 / 5) / 4] * 2)


def test_a_sample_without_a_region_or_a_map_is_left_out_of_the_pool():
    heat, masks = drawn(5, 6, 6), drawn(5, 6, 6, seed=1) > 0.3
    alone = metrics.px_ap(heat[:2], looked(a=masks[:2]))
    heat[2], heat[3] = 0, nan
    masks[4] = False
    together = metrics.px_ap(heat, looked(a=masks))
    assert torch.equal(together[:2], alone) and together[2:].isnan().all()
    assert pooled_area(looked(a=masks))[0].item() == pytest.approx(masks[:4].double().mean().item())


def test_a_perfect_map_has_a_px_ap_of_one_and_the_opposite_little():
    masks = drawn(3, 6, 6) > 0.3
    assert metrics.px_ap(masks.double(), looked(a=masks)).tolist() == [1, 1, 1]
    assert metrics.px_ap((~masks).double(), looked(a=masks))[0] == pytest.approx(masks.double().mean().item())


def test_precision_without_a_positive_is_undefined():
    assert average_precision(torch.rand(4), torch.zeros(4, dtype=torch.bool)).isnan()
    assert metrics.px_ap(torch.zeros(2, 4, 4), looked(a=rectangle(0, 0, 2, 2).expand(2, -1, -1))).isnan().all()


def test_random_maps_score_the_pooled_area():
    generator = torch.Generator().manual_seed(0)
    mask = rectangle(10, 10, 38, 41, 64, 64)
    seen = looked(dtype=torch.float32, a=mask.expand(4, -1, -1))
    values = torch.stack([metrics.px_ap(torch.rand(4, 64, 64, generator=generator), seen)[0] for _ in range(40)])
    assert within_five_sigma(values, float(floor("px_ap", seen, scaled="minmax")[0]))
    assert floor("px_ap", looked()).isnan().all()


def test_a_scale_nobody_knows_is_refused_with_the_nearest():
    for name in ("px_ap", "max_box_acc", "max_box_acc_v2"):
        with pytest.raises(ValueError, match=r"scaled='positive' or scaled='minmax'; got 'min_max'\. Did you mean 'minmax'"):
            metrics.find(name).function(torch.rand(1, 4, 4), looked(a=rectangle(0, 0, 2, 2)), scaled="min_max")
        value = metrics.find({name: {"scaled": "minmax"}}).function(torch.rand(1, 4, 4), looked(a=rectangle(0, 0, 2, 2)))
        assert value.isfinite().all()


@pytest.mark.parametrize(
    "name", ["iou", "px_ap", "relevance_rank", "enrichment", "pointing_game", "max_box_acc", "max_box_acc_v2", "energy_inside"]
)
def test_every_metric_takes_a_region_by_name_and_refuses_maps_of_other_sides(name):
    metric = metrics.find(name).function
    heat = drawn(4, 4, 4)
    a, b = (torch.cat([rectangle(x, x, x + 3, x + 3)] * 4) for x in (0, 4))
    seen = looked(a=a, b=b)
    assert torch.equal(metric(heat, seen, region="a"), metric(heat, looked(a=a)))
    assert torch.equal(metric(heat, seen), metric(heat, looked(c=a | b)))
    with pytest.raises(ValueError, match=r"no region 'aa'. Did you mean 'a'"):
        metric(heat, seen, region="aa")
    with pytest.raises(ValueError, match=rf"{name} needs a map of as many sides as the image; at 'layer' the map is \(4, 16\)"):
        metric(heat.flatten(1), seen)
