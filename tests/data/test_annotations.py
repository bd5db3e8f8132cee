"""Objects marked in files are found by the pictures' names and go where the dataset's transform puts the pixels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_cam import Annotations, Batch
from lightning_cam.data.loader import load_plain_batch

# a picture that shows where its object is: black, and white inside
SIZES = {"cat/a.png": (60, 40), "cat/b.png": (40, 60), "dog/c.d.png": (64, 64)}
BOXES = {"cat/a.png": [(10, 5, 30, 35)], "cat/b.png": [(0, 0, 12, 20), (20, 30, 40, 60)], "dog/c.d.png": [(8, 8, 56, 40)]}
MODEL = torch.nn.Conv2d(3, 4, 3)
END = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


@pytest.fixture
def pictures(tmp_path):
    for name, (width, height) in SIZES.items():
        pixels = np.zeros((height, width, 3), np.uint8)
        for x0, y0, x1, y1 in BOXES[name]:
            pixels[y0:y1, x0:x1] = 255
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return tmp_path / "images"


def write_csv(folder, names=None, sized=True):
    rows = ["file,class,width,height,xmin,ymin,xmax,ymax"] if sized else ["file,class,xmin,ymin,xmax,ymax"]
    for name, boxes in BOXES.items():
        size = [*SIZES[name]] if sized else []
        rows += [",".join(map(str, [(names or {}).get(name, name), name.partition("/")[0], *size, *box])) for box in boxes]
    path = folder / "boxes.csv"
    path.write_text("\n".join(rows))
    return path


def write_voc(folder):
    folder = folder / "voc"
    folder.mkdir()
    for i, (name, boxes) in enumerate(BOXES.items()):
        objects = "".join(
            f"<object><name>{name[:3]}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for x0, y0, x1, y1 in boxes
        )
        size = f"<size><width>{SIZES[name][0]}</width><height>{SIZES[name][1]}</height></size>"
        file = name.split("/")[1]
        (folder / f"{i}.xml").write_text(f"<annotation><filename>{file}</filename>{size}{objects}</annotation>")
    return folder


def write_coco(folder, polygons=False):
    images = [{"id": i, "file_name": name, "width": w, "height": h} for i, (name, (w, h)) in enumerate(SIZES.items())]
    annotations = []
    for i, boxes in enumerate(BOXES.values()):
        for x0, y0, x1, y1 in boxes:
            one = {"id": len(annotations), "image_id": i, "category_id": i // 2, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            if polygons:
                # filled polygons include their ends
                one["segmentation"] = [[x0, y0, x1 - 1, y0, x1 - 1, y1 - 1, x0, y1 - 1]]
            annotations.append(one)
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


WRITERS = {
    "csv": write_csv,
    "csv without sizes": lambda folder: write_csv(folder, sized=False),
    "csv of stems": lambda folder: write_csv(folder, {name: name.split("/")[1].removesuffix(".png") for name in SIZES}),
    "csv of longer paths": lambda folder: write_csv(folder, {name: f"/data\\old/{name}" for name in SIZES}),
    "voc": write_voc,
    "coco": write_coco,
    "coco polygons": lambda folder: write_coco(folder, polygons=True),
}


def watched(folder, transform, regions, samples=3, wrap=lambda data: data):
    data = wrap(ImageFolder(folder, transform=transform))
    return load_plain_batch(MODEL, DataLoader(data, 2), Batch(samples=samples, regions=regions)), data


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_marks_the_same_pixels(pictures, tmp_path, kind):
    transform = v2.Compose([v2.Resize((64, 64), interpolation=v2.InterpolationMode.NEAREST), *END])
    batch, _ = watched(pictures, transform, Annotations(WRITERS[kind](tmp_path)))
    white = batch.images[:, 0] > 0.5
    assert batch.regions["object"].shape == white.shape and white.any()
    # nearest pixels and box ends round differently in single rows
    wrong = (batch.regions["object"] != white).flatten(1).sum(1)
    assert wrong.max() <= (4 if "polygons" not in kind else 130)
    if "polygons" not in kind:
        assert torch.equal(batch.regions["object"][2], white[2])


GEOMETRY = {
    "resize": [v2.Resize(48), v2.CenterCrop(40)],
    "random": [v2.RandomHorizontalFlip(0.5), v2.Resize(56), v2.RandomCrop(40), v2.RandomVerticalFlip(0.5)],
    "pad": [v2.Pad(6), v2.Resize((50, 70))],
    "affine": [v2.Resize((48, 48)), v2.RandomAffine(0, translate=(0.2, 0.2), scale=(0.7, 1.3))],
    "first transforms": [v1.Resize(48), v1.CenterCrop(40)],
}


@pytest.mark.parametrize("kind", GEOMETRY)
def test_objects_go_where_the_pixels_go(pictures, tmp_path, kind):
    if kind == "first transforms":
        transform = v1.Compose([*GEOMETRY[kind], v1.ToTensor(), v1.Normalize([0.5] * 3, [0.5] * 3)])
    else:
        transform = v2.Compose([*GEOMETRY[kind], *END])
    batch, data = watched(pictures, transform, Annotations(write_csv(tmp_path)))
    plain, _ = watched(pictures, transform, None)
    assert torch.equal(plain.images, batch.images)  # as without any annotations, drawn at random or not
    white = batch.images[:, 0] > batch.images.mean()
    union = (white | batch.regions["object"]).flatten(1).sum(1)
    both = (white & batch.regions["object"]).flatten(1).sum(1)
    assert (both / union).min() > 0.85
    assert data.transform is transform and data.transforms.transform is transform


def test_a_region_a_class_and_regions_of_the_batch_side_by_side(pictures, tmp_path):
    path = write_csv(tmp_path)
    transform = v2.Compose([v2.Resize((64, 64)), *END])
    regions = {
        "cat": Annotations(path, category="cat"),
        "dog": Annotations(path, category="dog"),
        "corner": lambda batch: torch.tensor([[0, 0, 2, 2]] * len(batch[0])),
    }
    batch, _ = watched(pictures, transform, regions)
    assert {name: mask.flatten(1).any(1).tolist() for name, mask in batch.regions.items()} == {
        "cat": [True, True, False],
        "dog": [False, False, True],
        "corner": [True, True, True],
    }


def test_below_a_subset_names_are_those_of_its_samples(pictures, tmp_path):
    transform = v2.Compose([v2.Resize((64, 64), interpolation=v2.InterpolationMode.NEAREST), *END])
    batch, _ = watched(pictures, transform, Annotations(write_csv(tmp_path)), 2, lambda data: Subset(data, [2, 0]))
    assert batch.names == ("c.d", "a")
    assert torch.equal(batch.regions["object"][0], batch.images[0, 0] > 0.5)


def test_a_point_is_a_pixel_however_small_the_picture_becomes(pictures, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("image,x,y\ncat/a.png,30,20\ncat/b.png,39,59\n")
    batch, _ = watched(pictures, v2.Compose([v2.Resize((8, 8)), *END]), Annotations(path))
    assert batch.regions["object"].nonzero().tolist() == [[0, 4, 4], [1, 7, 7]]


def test_a_picture_kept_smaller_than_it_was_marked_has_its_boxes_scaled(pictures, tmp_path):
    path = tmp_path / "large.csv"
    path.write_text("file,width,height,xmin,ymin,xmax,ymax\nc.d.png,128,640,16,80,112,400\n")
    transform = v2.Compose([v2.Resize((64, 64)), *END])
    batch, _ = watched(pictures, transform, Annotations(path), [2])
    assert torch.equal(batch.regions["object"][0], batch.images[0, 0] > 0.5)


def test_what_is_cropped_away_is_an_empty_region(pictures, tmp_path):
    path = tmp_path / "edge.csv"
    path.write_text("file,xmin,ymin,xmax,ymax\nc.d.png,0,0,4,4\n")
    batch, _ = watched(pictures, v2.Compose([v2.CenterCrop(32), *END]), Annotations(path), [2])
    assert not batch.regions["object"].any()


class Hidden(torch.utils.data.Dataset):
    samples = (("a.png", 0),)

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return torch.zeros(3, 8, 8), 0


def refusal(function):
    with pytest.raises(ValueError) as error:
        function()
    return str(error.value)


def test_refusals_name_the_way_out(pictures, tmp_path):
    path = write_csv(tmp_path)
    assert "there is no such file" in refusal(lambda: Annotations(tmp_path / "no.csv"))
    assert "It marks: cat, dog" in refusal(lambda: Annotations(path, category="cet"))
    assert "Did you mean 'cat'?" in refusal(lambda: Annotations(path, category="cet"))
    (tmp_path / "bad.csv").write_text("file,xmin,ymin,xmax,y_max\n")
    assert "Did you mean 'ymax'" in refusal(lambda: Annotations(tmp_path / "bad.csv"))
    (tmp_path / "nan.csv").write_text("file,xmin,ymin,xmax,ymax\na,1,2,x,4\n")
    assert "nan.csv, line 2: expected numbers for xmin, ymin, xmax, ymax" in refusal(lambda: Annotations(tmp_path / "nan.csv"))
    (tmp_path / "a.json").write_text("[]")
    assert "expected COCO's JSON" in refusal(lambda: Annotations(tmp_path / "a.json"))
    (tmp_path / "a.xml").write_text("<html/>")
    assert "expected Pascal VOC's XML" in refusal(lambda: Annotations(tmp_path / "a.xml"))
    (tmp_path / "a.txt").write_text("")
    assert "expected a .csv, a COCO .json" in refusal(lambda: Annotations(tmp_path / "a.txt"))
    (tmp_path / "other.csv").write_text("file,xmin,ymin,xmax,ymax\nz,1,2,3,4\n")
    plain = v2.Compose([v2.Resize((8, 8)), *END])
    assert "has none of the pictures watched" in refusal(lambda: watched(pictures, plain, Annotations(tmp_path / "other.csv")))
    rotated = v1.Compose([v1.RandomRotation(30), v1.Resize((8, 8)), v1.ToTensor()])
    assert "Where RandomRotation of the dataset's transform moves objects" in refusal(
        lambda: watched(pictures, rotated, Annotations(path))
    )
    # the line that it names works
    watched(pictures, v2.Compose([v2.RandomRotation(30), v2.Resize((8, 8)), *END]), Annotations(path))
    hidden = DataLoader(Hidden())
    (tmp_path / "a.csv").write_text("file,xmin,ymin,xmax,ymax\na,1,2,3,4\n")
    hidden_regions = Batch(samples=1, regions=Annotations(tmp_path / "a.csv"))
    assert "keeps no transform" in refusal(lambda: load_plain_batch(MODEL, hidden, hidden_regions))
    batch = (torch.zeros(2, 3, 8, 8), torch.zeros(2).long())
    assert "no file names" in refusal(lambda: load_plain_batch(MODEL, batch, Batch(regions=Annotations(path))))
