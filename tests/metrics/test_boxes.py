"""MaxBoxAcc: which box, which overlap, and which threshold."""

import pytest
import reference_localization
import torch
from plain import watcher
from regions import SIZES, drawn, looked, rectangle
from torch import nan

from lightning_cam import Batch, metrics
from lightning_cam.heat import min_max, resize, share_of_maximum
from lightning_cam.metrics.boxes.accuracy import centre_box

BOTH = ["max_box_acc", "max_box_acc_v2"]


def boxes_of(*rows, h=16, w=16):
    return torch.cat([rectangle(*row, h, w) for row in rows])


def some_boxes(n, size, seed=0):
    """A box or two of each sample."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, *size, dtype=torch.bool)
    for i in range(n):
        for _ in range(1 + i % 2):
            inside = []
            for side in size:
                low = int(torch.randint(0, side // 2, (), generator=generator))
                inside.append(slice(low, low + int(torch.randint(side // 4 + 1, side // 2 + 1, (), generator=generator))))
            masks[(i, *inside)] = True
    return masks


@pytest.mark.parametrize("sides", SIZES)
def test_max_box_acc_equals_the_slow_reference_over_any_number_of_sides(sides):
    delta = 0.3
    cells, size = SIZES[sides]
    heat, masks = drawn(4, *cells, seed=3) + 0.5, some_boxes(4, size)
    for scaled, scale in (("positive", share_of_maximum), ("minmax", min_max)):
        maps = scale(resize(heat, size))
        expected = reference_localization.max_box_acc(maps, masks, delta, largest=True)
        value = metrics.max_box_acc(heat, looked(a=masks), delta=delta, scaled=scaled)
        assert value.tolist() == expected
        assert value.mean() > 0


@pytest.mark.parametrize("sides", SIZES)
def test_max_box_acc_v2_is_the_mean_over_overlaps_each_at_its_own_threshold(sides):
    cells, size = SIZES[sides]
    heat, masks = drawn(3, *cells, seed=1) + 0.5, some_boxes(3, size)
    maps = share_of_maximum(resize(heat, size))
    each = [reference_localization.max_box_acc(maps, masks, delta, largest=False) for delta in (0.3, 0.5, 0.7)]
    expected = torch.tensor(each, dtype=torch.float64).mean(0)
    assert metrics.max_box_acc_v2(heat, looked(a=masks)).tolist() == pytest.approx(expected.tolist(), abs=1e-10)
    single = metrics.max_box_acc_v2(heat, looked(a=masks), deltas=[0.5])
    assert single.tolist() == each[1]


def test_the_threshold_is_that_of_the_baseline_where_there_is_one():
    masks = some_boxes(6, (8, 10))
    now, before = drawn(6, 4, 5, seed=8), drawn(6, 4, 5, seed=9)
    maps, first = (share_of_maximum(resize(heat, (8, 10))) for heat in (now, before))
    seen = looked(baseline=before, now=now, a=masks)
    fixed = metrics.max_box_acc(now, seen, delta=0.3)
    assert fixed.tolist() == reference_localization.max_box_acc(maps, masks, 0.3, largest=True, chosen_on=first)
    chosen = metrics.max_box_acc(now, seen, delta=0.3, threshold="batch")
    assert chosen.tolist() == reference_localization.max_box_acc(maps, masks, 0.3, largest=True)
    assert torch.equal(chosen, metrics.max_box_acc(now, looked(now=now, a=masks), delta=0.3))
    assert chosen.sum() > fixed.sum()  # the batch's own is never worse, and here it flatters
    same = metrics.max_box_acc(before, looked(baseline=before, now=before, a=masks), delta=0.3)
    assert torch.equal(same, metrics.max_box_acc(before, looked(a=masks), delta=0.3))


def test_a_threshold_given_is_the_one_taken_and_is_strict():
    heat = torch.tensor([[[1.0, 0.6, 0.6, 0.3]]])
    seen = looked(baseline=torch.rand(1, 1, 4), a=rectangle(0, 0, 3, 1, 1, 4))
    for threshold, hit in ((0.2, 0), (0.35, 1), (0.59, 1), (0.61, 0)):
        assert metrics.max_box_acc(heat, seen, delta=1.0, threshold=threshold).item() == hit
    exact = torch.tensor([[[1.0, 0.5, 0.5, 0.25]]])
    assert metrics.max_box_acc(exact, seen, delta=1.0, threshold=0.25).item() == 1
    assert metrics.max_box_acc(exact, seen, delta=1.0, threshold=0.5).item() == 0


def test_the_largest_component_is_that_of_most_pixels_and_not_of_the_largest_contour():
    """A line of 18 pixels is larger than a blob of 9, though OpenCV's contour area of a line is 0."""
    heat = torch.zeros(1, 12, 24)
    heat[0, 1, 2:20] = 1
    heat[0, 6:9, 4:7] = 1
    line, blob = rectangle(2, 1, 20, 2, 12, 24), rectangle(4, 6, 7, 9, 12, 24)
    assert metrics.max_box_acc(heat, looked(a=line), delta=1.0).item() == 1
    assert metrics.max_box_acc(heat, looked(a=blob), delta=0.1).item() == 0
    assert metrics.max_box_acc_v2(heat, looked(a=blob), deltas=[1.0]).item() == 1  # there any component may fit


def test_the_box_of_a_hole_does_not_fit():
    ring = torch.zeros(1, 12, 12)
    ring[0, 1:11, 1:11] = 1
    ring[0, 4:8, 4:8] = 0
    assert metrics.max_box_acc_v2(ring, looked(a=rectangle(4, 4, 8, 8, 12, 12)), deltas=[0.5]).item() == 0
    assert metrics.max_box_acc_v2(ring, looked(a=rectangle(1, 1, 11, 11, 12, 12)), deltas=[1.0]).item() == 1


def test_of_several_true_boxes_the_best_counts():
    heat = torch.zeros(1, 16, 16)
    heat[0, 2:6, 2:6] = 1
    near, far = rectangle(2, 2, 6, 6, 16, 16), rectangle(9, 9, 15, 15, 16, 16)
    for seen in (looked(a=near, b=far), looked(a=near | far)):
        assert metrics.max_box_acc(heat, seen, delta=1.0).item() == 1
    assert metrics.max_box_acc(heat, looked(a=near, b=far), delta=0.1, region="b").item() == 0


def test_an_overlap_equal_to_what_is_asked_fits():
    heat = rectangle(0, 0, 10, 10, 16, 16).float()
    for width in (3, 5, 7):
        inside = looked(a=rectangle(0, 0, 10, width, 16, 16))
        assert metrics.max_box_acc(heat, inside, delta=width / 10).item() == 1
        assert metrics.max_box_acc(heat, inside, delta=width / 10 + 0.01).item() == 0


def test_undefined_samples_do_not_choose_the_threshold():
    heat, masks = drawn(6, 4, 4, seed=1), some_boxes(6, (16, 16))
    alone = metrics.max_box_acc(heat[:4], looked(a=masks[:4]), delta=0.3)
    heat[4] = nan
    masks[5] = False
    value = metrics.max_box_acc(heat, looked(a=masks), delta=0.3)
    assert torch.equal(value[:4], alone) and value[4:].isnan().all()


@pytest.mark.parametrize("name", BOTH)
def test_a_baseline_without_evidence_leaves_the_middle_threshold(name):
    """As with a head of zeros, whose gradient is zero before the first step."""
    metric = metrics.find(name).function
    heat, masks = drawn(6, 4, 4, seed=1), some_boxes(6, (16, 16))
    seen = looked(baseline=heat * 0, now=heat, a=masks)
    assert torch.equal(metric(heat, seen), metric(heat, looked(a=masks), threshold=0.49))


def test_large_maps_are_averaged_down_as_those_of_earlier_looks_are():
    from lightning_cam.heat import condense

    heat, masks = drawn(2, 48, 64).relu(), some_boxes(2, (48, 64))
    value = metrics.max_box_acc(heat, looked(a=masks), delta=0.3)
    assert torch.equal(value, metrics.max_box_acc(condense(heat), looked(a=masks), delta=0.3))
    seen = looked(baseline=condense(heat), now=condense(heat), a=masks)
    assert torch.equal(metrics.max_box_acc(heat, seen, delta=0.3), value)


def test_the_floor_is_the_best_box_in_the_middle():
    masks = boxes_of((4, 4, 12, 12), (5, 5, 11, 11), (4, 4, 12, 13), (0, 0, 4, 4))
    assert centre_box(looked(a=masks)).tolist() == [1, 1, 1, 0]
    assert metrics.find("max_box_acc_v2").facts["floor"](looked(a=masks)).tolist()[3] == 0
    assert centre_box(looked(a=masks), delta=0.95).tolist() == [1, 0, 0, 0]
    assert centre_box(looked()).isnan().all()
    seen = looked(baseline=drawn(4, 4, 4), a=masks)
    assert torch.equal(centre_box(seen), centre_box(looked(a=masks)))  # whatever the run's baseline is


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("threshold", ["basline", 1.0, -0.5, nan])
def test_a_threshold_nobody_knows_is_refused_with_a_line_that_works(name, threshold):
    heat, seen = torch.rand(1, 4, 4), looked(a=rectangle(0, 0, 2, 2))
    message = (
        rf"The threshold of {name} is 'baseline', 'batch' or a number .*got .*write \{{\"{name}\": \{{\"threshold\": 0\.5\}}\}}"
    )
    with pytest.raises(ValueError, match=message):
        metrics.find(name).function(heat, seen, threshold=threshold)
    if threshold == "basline":
        with pytest.raises(ValueError, match="Did you mean 'baseline'"):
            metrics.find(name).function(heat, seen, threshold=threshold)
    assert metrics.find({name: {"threshold": 0.5}}).function(heat, seen).isfinite().all()


def test_an_overlap_that_is_none_is_refused_with_lines_that_work():
    heat, seen = torch.rand(1, 4, 4), looked(a=rectangle(0, 0, 2, 2))
    for delta in (0.0, 1.5, nan):
        with pytest.raises(ValueError, match=r'max_box_acc needs overlaps above 0 and at most 1; got .*\{"delta": 0\.5\}'):
            metrics.max_box_acc(heat, seen, delta=delta)
    for deltas, told in (([], "none"), ([0.5, 50.0], "0.5, 50.0")):
        with pytest.raises(ValueError, match=rf"max_box_acc_v2 needs overlaps .* got {told}"):
            metrics.max_box_acc_v2(heat, seen, deltas=deltas)
    for spec in ({"max_box_acc": {"delta": 0.5}}, {"max_box_acc_v2": {"deltas": [0.3, 0.5, 0.7]}}):
        assert metrics.find(spec).function(heat, seen).isfinite().all()


def test_a_run_keeps_the_threshold_of_its_first_look(tmp_path):
    from plain import plain_net

    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    masks = some_boxes(6, (16, 16))
    net = plain_net()
    data = {"image": x, "label": torch.tensor([0, 1, 2, 0, 1, 2]), "where": masks}
    names = ["max_box_acc", {"max_box_acc": {"threshold": "batch"}}]
    watching = watcher(net, tmp_path, data, metrics=names, batch=Batch(samples=6, regions="where"))
    (first,) = watching.look(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    (second,) = watching.look(1)
    assert torch.equal(first.values["max_box_acc"].nan_to_num(-1), first.values["max_box_acc_batch"].nan_to_num(-1))
    maps, before = (share_of_maximum(resize(record.heat[:, 0], (16, 16))) for record in (second, first))
    defined = second.values["max_box_acc"][:, 0].isfinite() & first.values["max_box_acc"][:, 0].isfinite()
    assert defined.all()
    expected = reference_localization.max_box_acc(maps, masks, 0.5, largest=True, chosen_on=before)
    assert second.values["max_box_acc"][:, 0].tolist() == expected


def test_each_overlap_of_v2_has_the_threshold_that_serves_it_best():
    """Two samples of three fit loosely at low thresholds alone, and the first fits closely at high ones alone."""
    wide = [1.0, 0.3, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0]
    heat = torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]], [wide], [wide]])
    seen = looked(a=boxes_of((0, 0, 4, 1), (0, 0, 6, 1), (0, 0, 6, 1), h=1, w=8))
    assert metrics.max_box_acc_v2(heat, seen, deltas=[0.3, 0.7]).tolist() == [1, 0.5, 0.5]
