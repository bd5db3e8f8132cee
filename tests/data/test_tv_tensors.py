"""Torchvision's tensors are read by the format that they tell, and refused where they are of another picture."""

import pytest
import torch
from nets import STRICT, cam, fit
from reference_outlines import in_rotated
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.tv_tensors import BoundingBoxes, Mask

from lightning_cam import Batch, Points
from lightning_cam.data.collated import read_batch
from lightning_cam.data.regions import boxes as boxes_module
from lightning_cam.data.regions import to_mask

pytestmark = STRICT

SIZE = (8, 10)
IMAGES = torch.zeros(2, 3, *SIZE)
XYXY = torch.tensor([[[1.0, 2.0, 4.0, 7.0], [5.0, 0.0, 9.0, 3.0]], [[0.0, 0.0, 3.0, 3.0], [2.5, 2.5, 8.0, 6.0]]])
PLAIN = to_mask(XYXY, IMAGES)
ROTATED = hasattr(tv_tensors.BoundingBoxFormat, "XYWHR")
needs_rotated = pytest.mark.skipif(not ROTATED, reason="this torchvision has no rotated boxes")
needs_points = pytest.mark.skipif(not hasattr(tv_tensors, "KeyPoints"), reason="this torchvision has no key points")


def typed(numbers, form="XYXY", size=SIZE):
    return BoundingBoxes(numbers, format=form, canvas_size=size)


@pytest.mark.parametrize("form", ["XYXY", "XYWH", "CXCYWH"])
def test_boxes_are_read_by_their_format(form):
    numbers = box_convert(XYXY, "xyxy", form.lower())
    assert torch.equal(to_mask([typed(row, form) for row in numbers], IMAGES), PLAIN)
    one = typed(numbers[:, 0], form)
    assert torch.equal(to_mask(one, IMAGES), to_mask(XYXY[:, 0], IMAGES))
    # samples may differ in how many they have, and in their format
    mixed = [typed(numbers[0], form), typed(XYXY[1, :0])]
    assert torch.equal(to_mask(mixed, IMAGES)[0], PLAIN[0]) and not to_mask(mixed, IMAGES)[1].any()


def test_whole_numbers_are_not_rounded_on_the_way():
    centred = typed(torch.tensor([[3, 3, 3, 3]]), "CXCYWH")
    assert to_mask([centred], IMAGES[:1])[0].sum() == 9  # 1.5 to 4.5: the pixels 2 to 4, or 1 to 3 with rounding


@needs_rotated
@pytest.mark.parametrize("angle", [0.0, 20.0, 45.0, 117.0, -30.0])
def test_rotated_boxes_hold_the_pixels_that_they_hold_when_turned_back(angle):
    box = (4.7, 3.9, 5.2, 2.6, angle)
    mask = to_mask([typed(torch.tensor([box]), "CXCYWHR")], IMAGES[:1])[0]
    expected = [[in_rotated((y, x), box) for x in range(SIZE[1])] for y in range(SIZE[0])]
    assert mask.tolist() == expected and mask.any()


@needs_rotated
def test_a_box_rotated_by_nothing_is_a_box_and_formats_may_be_mixed():
    numbers = box_convert(XYXY, "xyxy", "cxcywh")
    rows = [typed(torch.cat([row, torch.zeros(2, 1)], 1), "CXCYWHR") for row in numbers]
    assert torch.equal(to_mask(rows, IMAGES), PLAIN)
    assert torch.equal(to_mask([rows[0], typed(XYXY[1])], IMAGES), PLAIN)
    nan = typed(torch.full((1, 5), torch.nan), "CXCYWHR")
    assert not to_mask([nan, nan], IMAGES).any()


def test_quadrilaterals_in_either_sense_share_no_pixel_along_an_edge():
    corners = torch.tensor([[0.0, 0, 5, 0, 5, 8, 0, 8], [5.0, 0, 5, 8, 10, 8, 10, 0]])[:, None]
    left, right = (boxes_module.inside_quadrilaterals(part[None], SIZE)[0] for part in corners)
    assert torch.equal(left, ~right)
    slanted = torch.tensor([[0.5, 0.5, 9.5, 0.5, 9.5, 7.5], [0.5, 0.5, 9.5, 7.5, 0.5, 7.5]])
    # triangles, as quadrilaterals with a corner twice
    one, other = (boxes_module.inside_quadrilaterals(torch.cat([t, t[-2:]])[None, None], SIZE)[0] for t in slanted)
    assert not (one & other).any() and (one | other).sum() == 9 * 7
    assert not boxes_module.inside_quadrilaterals(torch.zeros(1, 1, 8), SIZE).any()


def test_samples_of_several_kinds_are_refused_and_what_is_advised_is_read():
    boxes = typed(box_convert(XYXY[0], "xyxy", "xywh"), "XYWH")
    with pytest.raises(ValueError, match=r"several kinds: BoundingBoxes, Tensor.*BoundingBoxes\(torch.zeros\(0, 4\), format="):
        to_mask([boxes, torch.zeros(0, 4)], IMAGES)
    empty = BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=IMAGES.shape[-2:])
    assert torch.equal(to_mask([boxes, empty], IMAGES)[0], PLAIN[0])


def test_masks_are_masks_whatever_their_width():
    images = torch.zeros(2, 3, 3, 4)
    mask = torch.zeros(2, 3, 4)
    mask[:, 1, 2] = 7
    for form in (Mask(mask), [Mask(row) for row in mask], [Mask(row[None]) for row in mask]):
        assert torch.equal(to_mask(form, images), mask.bool())
    with pytest.raises(ValueError, match=r"masks are of a picture of \(4, 4\) and the images are \(3, 4\)"):
        to_mask([Mask(torch.zeros(4, 4))] * 2, images)
    with pytest.raises(ValueError, match=r"of a picture of \(5, 4\)"):
        to_mask(Mask(torch.zeros(2, 5, 4)), images)


@needs_points
def test_key_points_are_discs_of_the_usual_radius():
    points = torch.tensor([[[2.5, 3.5], [7.0, 1.0]], [[4.0, 4.0], [torch.nan, 1.0]]])
    rows = [tv_tensors.KeyPoints(row, canvas_size=SIZE) for row in points]
    expected = Points("").to_mask(points, IMAGES)
    assert torch.equal(to_mask(rows, IMAGES), expected) and expected.any()
    with pytest.raises(ValueError, match=r"key points are of a picture of \(8, 10\).*images are \(5, 5\)"):
        to_mask(rows, torch.zeros(2, 3, 5, 5))


def test_boxes_of_another_picture_are_refused_and_what_is_advised_helps():
    from torchvision.transforms import v2

    image, boxes = torch.zeros(3, 16, 20), typed(2 * XYXY[0], size=(16, 20))
    with pytest.raises(ValueError, match=r"picture of \(16, 20\) and the images are \(8, 10\).*v2"):
        to_mask([boxes, boxes], IMAGES)
    transform = v2.Resize(SIZE)
    image, boxes = transform(image, boxes)
    assert torch.equal(to_mask([boxes], image[None]), PLAIN[:1])
    with pytest.raises(ValueError, match=r"images are \(10,\)"):
        to_mask([boxes], torch.zeros(1, 1, 10))


class Boxed(Dataset):
    """Samples whose boxes tell their format."""

    def __init__(self, form="XYWH"):
        self.form = form

    def __len__(self):
        return 2

    def __getitem__(self, i):
        numbers = box_convert(XYXY[i, :1], "xyxy", self.form.lower())
        return {"image": torch.rand(3, *SIZE), "label": i, "box": typed(numbers, self.form)}


@pytest.mark.parametrize("form", ["XYXY", "XYWH", "CXCYWH"])
def test_the_format_survives_collating_by_default(form, tmp_path):
    kept = []

    def keep(heat, look):
        kept.append(look.regions["box"].clone())
        return torch.zeros(len(heat))

    loaded = DataLoader(Boxed(form), batch_size=2)
    assert type(next(iter(loaded))["box"]) is torch.Tensor  # which has lost it
    fit(tmp_path, cam(batch=Batch(2, regions={"box": "box"}), metrics=[keep]), val=loaded, train=loaded, max_epochs=1)
    assert torch.equal(kept[0], to_mask(XYXY[:, :1], IMAGES))


def test_boxes_that_the_collate_function_has_converted_are_left_alone(tmp_path):
    kept = []

    def keep(heat, look):
        kept.append(look.regions["box"].clone())
        return torch.zeros(len(heat))

    def collate(samples):
        batch = torch.utils.data.default_collate(samples)
        return batch | {"box": box_convert(batch["box"], "xywh", "xyxy")}

    loaded = DataLoader(Boxed(), batch_size=2, collate_fn=collate)
    fit(tmp_path, cam(batch=Batch(2, regions={"box": "box"}), metrics=[keep]), val=loaded, train=loaded, max_epochs=1)
    assert torch.equal(kept[0], to_mask(XYXY[:, :1], IMAGES))


def test_a_list_of_dicts_with_boxes_is_read_by_the_line_that_is_advised():
    batch = (IMAGES, [{"boxes": typed(box_convert(row, "xyxy", "xywh"), "XYWH")} for row in XYXY])
    regions = {"object": lambda batch: [sample["boxes"] for sample in batch[1]]}
    assert torch.equal(read_batch(batch, Batch(label=lambda batch: None, regions=regions)).regions["object"], PLAIN)
