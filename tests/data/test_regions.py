"""Regions of any form become masks, and reach the metric."""

from itertools import product

import pytest
import torch
from nets import SIDE, STRICT, cam, fit, loader
from reference_regions import is_inside

from lightning_cam import Batch
from lightning_cam.data.regions import to_mask

pytestmark = STRICT

IMAGES = torch.rand(4, 3, SIDE, SIDE)

BOX = [[0, 0, 4, 2], [2, 2, 6, 6], [7, 7, 8, 8], [0, 0, 8, 8]]


def mask_of(*boxes):
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


EACH = torch.stack([mask_of(box) for box in BOX])

NAN = [float("nan")] * 4

REGIONS = {
    "boxes": torch.tensor(BOX),
    "float boxes": torch.tensor(BOX, dtype=torch.float64),
    "boxes of one object": torch.tensor(BOX)[:, None],
    "boxes with rows of NaN": torch.tensor([[box, NAN] for box in BOX]),
    "lists of boxes": [torch.tensor([box]) for box in BOX],
    "lists of single boxes": [torch.tensor(box) for box in BOX],
    "nested lists": [[box] for box in BOX],
    "masks": EACH,
    "masks of numbers": EACH.float(),
    "masks with a channel": EACH[:, None].to(torch.uint8) * 255,
}


@pytest.mark.parametrize("form", REGIONS)
def test_regions_become_masks_from(form):
    assert torch.equal(to_mask(REGIONS[form], IMAGES), EACH)


def test_several_boxes_are_united_and_lists_may_be_of_unequal_length():
    boxes = [torch.tensor([BOX[0], BOX[1]]), torch.zeros(0, 4), torch.tensor([BOX[2]]), torch.tensor([BOX[3], BOX[0], BOX[1]])]
    expected = torch.stack([mask_of(BOX[0], BOX[1]), mask_of(), mask_of(BOX[2]), mask_of(BOX[3])])
    assert torch.equal(to_mask(boxes, IMAGES), expected)


def test_a_pixel_is_inside_if_its_centre_is():
    half = to_mask(torch.tensor([[0.5, 0.51, 2.5, 2.49]]), IMAGES[:1])
    assert torch.equal(half[0], mask_of((0, 1, 2, 2)))


def test_regions_reach_the_metric_by_name(tmp_path):
    seen = []

    def keep(heat, look):
        seen.append({name: mask.clone() for name, mask in look.regions.items()})
        return torch.zeros(len(heat))

    batch = Batch(3, regions={"box": "box", "all": lambda b: torch.ones(len(b["image"]), SIDE, SIDE)})
    fit(tmp_path, cam(batch=batch, metrics=[keep]), val=loader(form="dict"), train=loader(form="dict"), max_epochs=1)
    assert set(seen[0]) == {"box", "all"} and bool(seen[0]["all"].all())
    half = SIDE // 2
    assert torch.equal(seen[0]["box"], torch.stack([mask_of((c, 0, c + half, half)) for c in range(3)]))


# signals and volumes

SIZES = {1: (9,), 2: (5, 7), 3: (4, 5, 6)}


def random_boxes(sides, n=3, seed=0):
    """Boxes of two samples that reach beyond the image here and there; one row is NaN."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(2, n, 2, sides, generator=generator, dtype=torch.float64) * 9 - 1
    boxes = torch.cat([ends.amin(2), ends.amax(2)], 2)
    boxes[1, 0] = torch.nan
    return boxes


@pytest.mark.parametrize("sides", SIZES)
def test_boxes_hold_the_places_whose_centres_they_hold_over_any_number_of_sides(sides):
    size = SIZES[sides]
    boxes = random_boxes(sides)
    found = to_mask(boxes, torch.zeros(2, 1, *size))
    assert found.shape == (2, *size) and 0 < found.sum() < found.numel()
    for i, place in product(range(2), product(*map(range, size))):
        assert bool(found[i][place]) == any(is_inside(place, box) for box in boxes[i].tolist())


def test_a_volumes_box_is_told_by_x_along_w_y_along_h_and_z_along_d():
    mask = to_mask(torch.tensor([[1, 2, 3, 4, 4, 4]]), torch.zeros(1, 2, 5, 6, 7))[0]
    expected = torch.zeros(5, 6, 7, dtype=torch.bool)
    expected[3:4, 2:4, 1:4] = True
    assert torch.equal(mask, expected)
    assert to_mask(torch.tensor([[2, 5]]), torch.zeros(1, 2, 7))[0].tolist() == [False, False, True, True, True, False, False]


@pytest.mark.parametrize("sides", SIZES)
def test_masks_boxes_and_lists_say_the_same_over_any_number_of_sides(sides):
    size = SIZES[sides]
    images = torch.zeros(2, 3, *size)
    boxes = random_boxes(sides, seed=1).round()
    mask = to_mask(boxes, images)
    each = [to_mask(boxes[:, i], images) for i in range(3)]
    assert torch.equal(mask, torch.stack(each).any(0))
    assert torch.equal(to_mask([boxes[0], boxes[1, 1:]], images), mask)
    for form in (mask, mask.float() * 0.1, mask.long() * 3, mask[:, None], list(mask), [m[None] for m in mask]):
        assert torch.equal(to_mask(form, images), mask)
    instances = torch.stack(each, 1)
    assert torch.equal(to_mask(instances, images), mask)
    assert torch.equal(to_mask([instances[0], instances[1, 1:]], images), mask)
    assert not to_mask([[], []], images).any()
    assert not to_mask(torch.full((2, 2 * sides), torch.nan), images).any()


UNREADABLE = {
    "boxes of a signal": (
        (1, 9),
        torch.zeros(2, 4),
        r"boxes \[b 2\] or \[b n 2\], or masks \[b 9\]; got \(2, 4\).*is \(x0, x1\)",
    ),
    "boxes of a volume": (
        (1, 4, 5, 6),
        torch.zeros(2, 4),
        r"boxes \[b 6\] or \[b n 6\], or masks \[b 4 5 6\]; got \(2, 4\).*is \(x0, y0, z0, x1, y1, z1\)",
    ),
    "a slice's mask": ((1, 4, 5, 6), torch.zeros(2, 5, 8).bool(), r"or masks \[b 4 5 6\]; got \(2, 5, 8\)"),
    "a mask of another size": ((3, 8, 8), [torch.zeros(8, 8), torch.zeros(9, 9)], r"got a list with \(9, 9\) of a sample"),
    "a number": ((3, 8, 8), torch.tensor(1), r"or masks \[b 8 8\]; got \(\)"),
    "nothing": ((3, 8, 8), None, "got a NoneType"),
    "no list": ((3, 8, 8), [], "the list of them is empty"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_said_of(name):
    shape, region, message = UNREADABLE[name]
    with pytest.raises(ValueError, match=message):
        to_mask(region, torch.zeros(2, *shape))


def test_boxes_within_a_list_of_dicts_are_taken_out_as_said():
    batch = {"target": [{"boxes": torch.tensor([box]), "labels": torch.ones(1)} for box in BOX]}
    with pytest.raises(ValueError, match=r"got a list of dict.*regions=lambda batch: \[sample\['boxes'\] for sample in batch"):
        to_mask(batch["target"], IMAGES)
    said = Batch(regions=lambda batch: [sample["boxes"] for sample in batch["target"]])
    assert torch.equal(to_mask(said.regions(batch), IMAGES), EACH)


def test_what_may_be_a_box_or_a_mask_of_a_signal_of_two_samples_is_refused():
    signals, region = torch.zeros(2, 1, 2), torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match=r"boxes as well as masks.*batch\['mask'\].bool\(\).*batch\['box'\].tolist\(\)"):
        to_mask(region, signals)
    assert to_mask(region.bool(), signals).tolist() == [[False, True], [True, True]]
    assert to_mask(region.tolist(), signals).tolist() == [[True, False], [False, True]]
