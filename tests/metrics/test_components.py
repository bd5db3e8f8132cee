"""Connected components on the device, against a flood fill, OpenCV and published vectors."""

import cv2
import numpy as np
import pytest
import reference_localization
import torch
from regions import SIZES, drawn

from lightning_cam.heat import resize, share_of_maximum
from lightning_cam.metrics.boxes.accuracy import box_iou
from lightning_cam.metrics.boxes.components import components, mask_boxes

STEPS = torch.arange(100, dtype=torch.float64) / 100


def found(values, thresholds):
    """Boxes and sizes above each threshold, of each sample: [sample][threshold] a sorted list."""
    parts = components(values, thresholds)
    return [
        [
            sorted((tuple(box), size) for box, size in zip(boxes, sizes, strict=True) if size)
            for boxes, sizes in zip(sample_boxes, sample_sizes, strict=True)
        ]
        for sample_boxes, sample_sizes in zip(parts.boxes.tolist(), parts.places.tolist(), strict=True)
    ]


def by_opencv(hot):
    _, _, stats, _ = cv2.connectedComponentsWithStats(hot.numpy().astype(np.uint8), connectivity=8)
    return sorted(((x, y, x + w, y + h), area) for x, y, w, h, area in stats[1:].tolist())


@pytest.mark.parametrize("sides", SIZES)
def test_components_equal_a_flood_fill_over_any_number_of_sides(sides):
    _, size = SIZES[sides]
    values = share_of_maximum(drawn(3, *size, seed=4))
    thresholds = STEPS[::10].contiguous()
    for i, sample in enumerate(found(values, thresholds)):
        for threshold, parts in zip(thresholds, sample, strict=True):
            assert parts == sorted(reference_localization.components(np.asarray(values[i]) > float(threshold)))


@pytest.mark.parametrize("cells", [(7, 7), (14, 9), (3, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_components_of_enlarged_maps_equal_those_of_opencv_at_every_threshold(cells, dtype):
    values = share_of_maximum(resize(drawn(2, *cells).to(dtype), (40, 56)))
    thresholds = STEPS.to(dtype)
    for i, sample in enumerate(found(values, thresholds)):
        for threshold, parts in zip(thresholds, sample, strict=True):
            assert parts == by_opencv(values[i] > threshold)


def test_plateaus_and_many_ties_are_one_component_or_apart_as_they_are():
    values = share_of_maximum(drawn(6, 30, 41, seed=2).mul(2).round().clamp(min=0))
    thresholds = torch.tensor([0.0, 0.2, 0.5, 0.9], dtype=torch.float64)
    for i, sample in enumerate(found(values, thresholds)):
        for threshold, parts in zip(thresholds, sample, strict=True):
            assert parts == by_opencv(values[i] > threshold)


def spiral(n):
    """One winding line a pixel wide, the longest way there is through a square."""
    mask = np.zeros((n, n), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    while True:
        for _ in range(2):
            ahead = (y + 2 * dy, x + 2 * dx)
            clear = not (0 <= ahead[0] < n and 0 <= ahead[1] < n and mask[ahead])
            if clear and 0 <= y + dy < n and 0 <= x + dx < n:
                break
            dy, dx = dx, -dy
        else:
            return torch.from_numpy(mask)
        y, x = y + dy, x + dx
        mask[y, x] = True


def test_a_winding_line_is_one_component_and_a_comb_becomes_one_where_its_back_is_reached():
    mask = spiral(31)
    assert mask.sum() > 400
    assert mask_boxes(mask[None]).tolist() == [[[0, 0, 31, 31]]]
    comb = torch.zeros(1, 9, 21, dtype=torch.float64)
    comb[0, 0] = 0.25
    comb[0, :, ::2] += 0.5
    teeth, whole = found(comb, torch.tensor([0.1, 0.4], dtype=torch.float64))[0][::-1]
    assert len(teeth) == 11 and len(whole) == 1


def test_components_touch_at_corners():
    mask = torch.tensor([[[True, False, False], [False, True, False], [False, False, False]]])
    assert mask_boxes(mask).tolist() == [[[0, 0, 2, 2]]]
    volume = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    volume[0, 0, 0, 0] = volume[0, 1, 1, 1] = True
    assert mask_boxes(volume).tolist() == [[[0, 0, 0, 2, 2, 2]]]


def test_samples_with_fewer_components_have_empty_ones_and_none_at_all_one():
    masks = torch.zeros(3, 1, 7, dtype=torch.bool)
    masks[0, 0, ::3] = True
    masks[1, 0, 2:4] = True
    assert mask_boxes(masks).tolist() == [
        [[0, 0, 1, 1], [3, 0, 4, 1], [6, 0, 7, 1]],
        [[2, 0, 4, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0]] * 3,
    ]
    assert mask_boxes(masks[2:]).tolist() == [[[0, 0, 0, 0]]]


def test_a_hole_is_no_component():
    """wsolevaluation returns the contour of a hole as a box too."""
    ring = torch.ones(1, 7, 9, dtype=torch.bool)
    ring[0, 2:5, 2:6] = False
    assert mask_boxes(ring).tolist() == [[[0, 0, 9, 7]]]


def test_thresholds_are_exact_and_not_of_eight_bits():
    """Both values are 128 of 255 and differ by less than a step of it."""
    values = torch.tensor([[[1.0, 0.0, 0.5021, 0.0, 0.5024]]], dtype=torch.float64)
    assert int(0.5021 * 255) == int(0.5024 * 255)
    sizes = components(values, torch.tensor([0.502, 0.5022, 0.5024], dtype=torch.float64)).places
    assert sizes.sum(2).tolist() == [[3, 2, 1]]


# the vectors of wsolevaluation's own tests, whose upper ends are half-open but cut at the last pixel

UNIMODAL = [[0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.4, 0.4, 0.4, 0.6], [0.0, 0.4, 1.0, 0.8, 0.6], [0.0, 0.4, 0.4, 0.4, 0.6]]
MULTIMODAL = [[0.4, 0.0, 0.2, 0.2, 0.2], [0.4, 0.4, 0.0, 0.4, 0.0], [0.0, 0.0, 0.0, 0.4, 0.0], [1.0, 0.6, 0.8, 0.2, 0.2]]


@pytest.mark.parametrize(
    ("scores", "published"),
    [
        (UNIMODAL, [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]]),
        # at .2 it takes a triangle of three pixels before a line of five, by the area within the contour
        (MULTIMODAL, [[0, 0, 4, 3], None, [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]]),
    ],
)
def test_the_largest_component_is_that_of_published_vectors(scores, published):
    thresholds = torch.from_numpy(np.arange(0, 1, 0.2))
    parts = components(torch.tensor([scores], dtype=torch.float64), thresholds)
    for i, box in enumerate(published):
        sizes = parts.places[0, i]
        largest = parts.boxes[0, i][sizes == sizes.max()].clamp(max=torch.tensor([4, 3, 4, 3])).tolist()
        assert box is None or box in largest
    assert parts.boxes[0, 1][parts.places[0, 1].argmax()].tolist() == ([1, 1, 5, 4] if scores is UNIMODAL else [0, 1, 4, 4])


# overlap of boxes


def test_the_overlap_of_boxes_is_half_open():
    boxes = torch.tensor([[[1, 1, 3, 3], [4, 4, 5, 5], [0, 0, 0, 0]]])
    expected = torch.eye(3)
    expected[2, 2] = 0  # an empty box overlaps nothing
    assert torch.equal(box_iou(boxes, boxes)[0], expected)
    assert box_iou(torch.tensor([[[0, 0, 5, 5]]]), torch.tensor([[[0, 0, 6, 6]]])).item() == pytest.approx(25 / 36)


@pytest.mark.parametrize("sides", SIZES)
def test_the_overlap_of_boxes_equals_the_slow_reference(sides):
    generator = torch.Generator().manual_seed(sides)
    low = torch.randint(0, 5, (2, 6, sides), generator=generator)
    boxes = torch.cat([low, low + torch.randint(1, 6, (2, 6, sides), generator=generator)], 2)
    value = box_iou(boxes[:, :4], boxes[:, 4:], torch.float64)
    for b, i, j in np.ndindex(2, 4, 2):
        expected = reference_localization.box_iou(boxes[b, i].tolist(), boxes[b, 4 + j].tolist())
        assert value[b, i, j].item() == pytest.approx(expected, rel=1e-10)
