"""Regions of any form become masks, and reach the metric."""

import pytest
import torch
from nets import SIDE, STRICT, cam, fit, loader

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
