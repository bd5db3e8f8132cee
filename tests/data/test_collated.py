"""How a batch is read, whatever its form, and one handed in."""

from collections import namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from nets import SIDE, SMALL, STRICT, Net, fit
from torch import Tensor
from watching import batches

from lightning_cam import Batch, CAMCallback
from lightning_cam.data.collated import read_batch

pytestmark = STRICT

IMAGES, LABELS = torch.rand(4, 3, SIDE, SIDE), torch.tensor([2, 0, 1, 1])


@dataclass
class Sample:
    pixel_values: Tensor = field(default_factory=lambda: IMAGES)
    labels: Tensor = field(default_factory=lambda: LABELS)


Named = namedtuple("Named", ["img", "target", "extra"])

Odd = namedtuple("Odd", ["extra", "img", "y"])

FORMS = {
    "tuple": ((IMAGES, LABELS), Batch()),
    "list": ([IMAGES, LABELS, "x"], Batch()),
    "bare tensor": (IMAGES, Batch()),
    "dict": ({"image": IMAGES, "label": LABELS}, Batch()),
    "dict in Hugging Face's words": ({"pixel_values": IMAGES, "labels": LABELS}, Batch()),
    "dict with labels as numbers": ({"x": IMAGES, "y": [2, 0, 1, 1]}, Batch()),
    "dict with words for labels": ({"x": IMAGES, "y": ["c", "a", "b", "b"]}, Batch()),
    "dataclass": (Sample(), Batch()),
    "namedtuple": (Named(IMAGES, LABELS, None), Batch()),
    "namedtuple in another order": (Odd(None, IMAGES, LABELS), Batch()),
    "keys": ({"scan": IMAGES, "diagnosis": LABELS}, Batch(image="scan", label="diagnosis")),
    "positions": ((LABELS, "x", IMAGES), Batch(image=2, label=0)),
    "callables": ({"a": {"b": IMAGES}, "c": LABELS}, Batch(image=lambda b: b["a"]["b"], label=lambda b: b["c"])),
    "attribute": (Sample(), Batch(image="pixel_values", label="labels")),
    "a list of images": ([list(IMAGES), LABELS], Batch()),
    "labels of one column": ((IMAGES, LABELS[:, None]), Batch()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_read_from_a(form):
    batch, how = FORMS[form]
    found = read_batch(batch, how)
    assert torch.equal(found.images, IMAGES) and len(found) == 4
    if form in ("bare tensor", "dict with words for labels"):
        assert found.labels is None
    else:
        assert found.labels.flatten().tolist() == [2, 0, 1, 1]


def test_grey_images_without_a_channel_axis_are_read_when_named():
    assert read_batch({"scan": IMAGES[:, 0]}, Batch(image="scan")).images.shape == (4, 1, SIDE, SIDE)


@pytest.mark.parametrize("given", [IMAGES, (IMAGES, LABELS), {"image": IMAGES, "label": LABELS}, [IMAGES, LABELS]])
def test_a_batch_can_be_handed_in(given, tmp_path):
    callback = CAMCallback("relu", target="predicted", batch=given, style=SMALL, on_error="raise")
    run = fit(tmp_path, callback)
    assert run.global_step == 12 and len(list((tmp_path / "cam/relu/grad_cam/step_000000").iterdir())) == 4


def test_a_dict_is_options_or_a_batch_handed_in_by_what_it_holds():
    assert Batch.of({"samples": [IMAGES, LABELS], "label": 1}).label == 1
    assert (
        Batch.of({"image": IMAGES, "label": LABELS}).is_handed_in
        and Batch.of({"views": [IMAGES], "label": LABELS}).is_handed_in
    )
    assert Batch.of({"views": [IMAGES], "name": "x"}).is_handed_in and not Batch.of({"samples": 3}).is_handed_in


def test_a_batch_handed_in_is_left_as_it_is(tmp_path):
    given = {"image": IMAGES.clone().double(), "label": LABELS.clone()}
    found = batches(tmp_path, net=Net().double(), callback_batch=Batch(given), precision="64-true")[0]
    assert given["image"].dtype == torch.float64 and found.images.dtype == torch.float64
    assert found.names == ("sample 0", "sample 1", "sample 2", "sample 3")
