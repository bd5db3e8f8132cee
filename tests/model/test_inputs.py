"""The batch that samples came in: its rows for some of them, and other images in their place."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lightning_cam.model.call import Inputs
from lightning_cam.model.call.entries import describe, has_rows, locate, mapped, named, names, with_images

X = torch.arange(24.0).reshape(3, 2, 2, 2)
PLACE = torch.arange(3)
Pair = namedtuple("Pair", ["image", "place"])


@dataclass(frozen=True)
class Frozen:
    image: Tensor
    place: Tensor


class Features(UserDict):
    """As Hugging Face's."""


FORMS = {
    "a dict": ({"image": X, "place": PLACE}, lambda batch: (batch["image"], batch["place"])),
    "a user's dict": (Features(image=X, place=PLACE), lambda batch: (batch["image"], batch["place"])),
    "a tuple": ((X, PLACE), lambda batch: batch),
    "a list": ([X, PLACE], lambda batch: batch),
    "a namedtuple": (Pair(X, PLACE), lambda batch: batch),
    "a frozen dataclass": (Frozen(X, PLACE), lambda batch: (batch.image, batch.place)),
    "an object": (SimpleNamespace(image=X, place=PLACE), lambda batch: (batch.image, batch.place)),
    "a dict in a tuple": (({"image": X}, PLACE), lambda batch: (batch[0]["image"], batch[1])),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_and_other_images_of(form):
    batch, parts = FORMS[form]
    path = locate(batch, X)
    inputs = Inputs(batch, path, None, 3)
    two = inputs.rows(slice(1, 3), 2)
    assert type(two) is type(batch)
    assert torch.equal(parts(two)[0], X[1:3]) and parts(two)[1].tolist() == [1, 2]
    repeated = inputs.rows(slice(2, 3), 4)
    assert parts(repeated)[1].tolist() == [2, 2, 2, 2] and torch.equal(parts(repeated)[0][3], X[2])
    changed = with_images(batch, path, -X)
    assert type(changed) is type(batch) and torch.equal(parts(changed)[0], -X) and parts(changed)[1] is PLACE
    assert parts(batch)[0] is X  # the batch itself stays as it is


@pytest.mark.parametrize("form", FORMS)
def test_the_first_samples_of(form):
    batch, parts = FORMS[form]
    first = Inputs(batch, locate(batch, X), None, 3).part(slice(2))
    assert first.count == 2 and parts(first.batch)[1].tolist() == [0, 1]


def test_what_has_no_row_a_sample_is_passed_as_it_is():
    table, scale, word = torch.zeros(5, 2), torch.tensor(2.0), "abc"
    rows = Inputs({"table": table, "scale": scale, "word": word, "image": X, "none": None}, None, None, 3).rows(slice(1), 4)
    assert rows["table"].shape == (5, 2) and float(rows["scale"]) == 2 and rows["word"] is word and rows["none"] is None
    assert len(rows["image"]) == 4


def test_lists_have_an_item_a_sample_but_modalities_their_rows():
    targets = [{"box": torch.zeros(i, 4)} for i in range(3)]
    modalities = [X, X + 1, X + 2]
    rows = Inputs({"targets": targets, "modalities": modalities, "names": ("a", "b", "c")}, None, None, 3).rows(slice(1, 2), 2)
    assert [t["box"].shape for t in rows["targets"]] == [(1, 4), (1, 4)]
    assert [m.shape for m in rows["modalities"]] == [(2, 2, 2, 2)] * 3 and rows["names"] == ("b", "b")


def test_the_batch_itself_is_no_list_of_samples():
    """A tuple of two that holds two samples."""
    rows = Inputs((X[:2], ["a", "b"]), None, None, 2).rows(slice(1, 2), 1)
    assert torch.equal(rows[0], X[1:2]) and rows[1] == ["b"]


def test_whatever_a_forward_does_to_its_batch_the_samples_stay():
    batch = {"image": X.clone(), "table": torch.zeros(5), "meta": {"word": "a"}, "names": [[1], [2], [3]]}
    inputs = Inputs(batch, None, None, 3)
    for samples, n in ((slice(None), 3), (slice(1), 2)):
        rows = inputs.rows(samples, n)
        rows["image"].zero_()
        rows["table"] += 1
        del rows["meta"]["word"], rows["names"][0]
        rows.pop("image")
    assert torch.equal(batch["image"], X) and not batch["table"].any()
    assert batch["meta"] == {"word": "a"} and batch["names"] == [[1], [2], [3]]


def test_a_bare_tensor_is_a_batch():
    assert Inputs(X, (), None, 3).rows(slice(2, 3), 2).shape == (2, 2, 2, 2)
    assert Inputs(None).rows(slice(None), 3) is None


def test_an_object_that_holds_itself_is_no_end():
    loop = SimpleNamespace(image=X)
    loop.itself = loop
    rows = Inputs(loop, None, None, 3).rows(slice(1), 1)
    assert rows.image.shape[0] == 1 and locate(loop, object()) is None


def test_an_object_without_rows_is_not_copied():
    class Uncopyable:
        def __init__(self):
            self.number = 3

        def __copy__(self):
            raise RuntimeError("no copies")

    thing = Uncopyable()
    assert Inputs({"thing": thing, "image": X}, None, None, 3).rows(slice(1), 1)["thing"] is thing
    assert mapped(thing, lambda value: value) is thing


def test_images_in_the_models_order_of_axes():
    inputs = Inputs(order=(0, 2, 1, 3))
    assert torch.equal(inputs.to_model(X), X.permute(0, 2, 1, 3)) and Inputs().to_model(X) is X


def test_a_list_of_images_stays_a_list():
    batch = ([X[0], X[1]], PLACE)
    changed = with_images(batch, locate(batch, batch[0]), -X[:2])
    assert isinstance(changed[0], list) and torch.equal(changed[0][1], -X[1])


def test_names_of_entries():
    assert names({"image": 0, 3: 1}) == ["image"] and names((X, 1)) == [] and names(Pair(1, 2)) == ["image", "place"]
    assert named({"a": 1}, "a") == 1 and named(Pair(1, 2), "place") == 2


def test_rows_are_counted():
    assert has_rows(X, 3) and has_rows([X, (PLACE,)], 3)
    assert not has_rows(X, 2) and not has_rows([], 3) and not has_rows("abc", 3) and not has_rows([X, 1], 3)
    assert not has_rows(torch.tensor(3.0), 3)


def test_a_batch_in_words():
    assert describe({"image": X, "y": 1}) == "a dict of image, y"
    assert describe([X]) == "a list of Tensor[3, 2, 2, 2]" and describe(3) == "int"
