"""Samples out of batches that pass by: copied, joined, and no more than wanted, whatever a batch is made of."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from nets import Pictures
from streams import Pipeline, Stream
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_cam import Batch, Watcher, explain
from lightning_cam.data.loader import SampleSource, load_passed
from lightning_cam.data.passing import PassingSamples, copied, is_stream, joined, refuse_choice
from lightning_cam.data.selection import ChosenLoader

Pair = namedtuple("Pair", ["image", "label"])


@dataclass
class Sample:
    image: Tensor
    label: Tensor
    scale: float = 2.0


class Nested:
    """As detectors have it: padded tensors and their mask, in an object of no known kind."""

    def __init__(self, image, mask):
        self.tensors, self.mask = image, mask


def images(n, start=0):
    return torch.arange(start, start + n).float()[:, None, None, None].expand(n, 3, 8, 8)


def labels(n, start=0):
    return torch.arange(start, start + n) % 3


def nested(n, start):
    targets = [{"labels": label[None]} for label in labels(n, start)]
    return Nested(images(n, start), images(n, start)[:, 0] > 2), targets


FORMS: dict[str, tuple[Any, dict]] = {
    "a tuple": (lambda n, i: (images(n, i), labels(n, i)), {}),
    "a list, as a loader with pinned memory gives it": (lambda n, i: [images(n, i), labels(n, i)], {}),
    "images alone": (lambda n, i: images(n, i), {}),
    "a dict": (lambda n, i: {"image": images(n, i), "label": labels(n, i), "scale": 2.0}, {}),
    "a mapping": (lambda n, i: UserDict(pixel_values=images(n, i), labels=labels(n, i)), {}),
    "a named tuple": (lambda n, i: Pair(images(n, i), labels(n, i)), {}),
    "a dataclass": (lambda n, i: Sample(images(n, i), labels(n, i)), {}),
    "a list of images": (lambda n, i: (list(images(n, i)), labels(n, i)), {}),
    "a list of one dict, as DALI gives it": (
        lambda n, i: [{"data": images(n, i), "label": labels(n, i)}],
        {"image": lambda batch: batch[0]["data"], "label": lambda batch: batch[0]["label"]},
    ),
    "padded tensors and a list of targets": (
        nested,
        {"image": lambda batch: batch[0].tensors, "label": lambda batch: [t["labels"].item() for t in batch[1]]},
    ),
}


def passing(count=5, **options):
    chosen = ChosenLoader(Pipeline(), "validation set")
    return PassingSamples(chosen, Batch(count, **options), lambda: (2, 3), count)


def loaded(samples):
    source = SampleSource(lambda: (None, ""), lambda batch, position: 1 / 0, (), samples.form)
    return load_passed(samples, source)


@pytest.mark.parametrize("form", FORMS)
def test_samples_of_several_batches_are_those_of_one(form):
    make, keys = FORMS[form]
    samples = passing(5, **keys)
    whole = passing(5, **keys)
    for i in (0, 2, 4):
        samples.take(make(2, i))
    whole.take(make(6, 0))
    several, one = loaded(samples), loaded(whole)
    assert torch.equal(several.images, images(5)) and torch.equal(one.images, images(5))
    if form != "images alone":
        assert several.labels.tolist() == one.labels.tolist() == labels(5).tolist()
    assert type(several.inputs.batch) is type(one.inputs.batch) is type(make(2, 0))
    assert several.inputs.path == one.inputs.path
    assert several.origin == "the first of the validation set that passed by (it has no index)"


def test_what_has_no_rows_stays_and_lists_of_samples_grow():
    batches = [{"image": images(2, i), "name": [f"{i}", f"{i + 1}"], "scale": torch.tensor(3.0)} for i in (0, 2)]
    samples = passing(3)
    for batch in batches:
        samples.take(batch)
    kept = samples.batch
    assert (kept["name"], kept["scale"].item(), len(kept["image"]), samples.count) == (["0", "1", "2"], 3.0, 3, 3)


def test_the_targets_of_a_detector_stay_with_their_images():
    samples = passing(3, **FORMS["padded tensors and a list of targets"][1])
    for i in (0, 2):
        samples.take(nested(2, i))
    padded, targets = samples.batch
    assert [target["labels"].item() for target in targets] == [0, 1, 2]
    assert torch.equal(padded.tensors, images(3)) and torch.equal(padded.mask, images(3)[:, 0] > 2)


def test_what_is_taken_has_memory_of_its_own():
    pipeline = Pipeline(form="dict")
    samples = passing(5)
    for batch in pipeline:
        samples.take(batch)
        batch["image"].zero_()
        batch["name"].clear()
    assert torch.equal(samples.batch["image"], torch.cat(pipeline.given)[:5])
    assert samples.batch["name"] == ["1.0", "1.1", "1.2", "2.0", "2.1"]
    one = (images(2), [images(2)])
    copy = copied(one)
    assert torch.equal(copy[0], one[0]) and copy[0].data_ptr() != one[0].data_ptr() != copy[1][0].data_ptr()


def test_no_more_is_looked_at_than_wanted():
    samples = passing(2)
    samples.take((images(2), labels(2)))
    samples.take("this is no batch, and nobody looks at it")
    assert samples.count == 2 and samples.error is None


def test_a_process_that_does_not_look_takes_nothing():
    samples = passing(2)
    samples.wanted = 0
    samples.take((images(2), labels(2)))
    assert samples.batch is None and not samples.is_ready


def test_a_later_batch_of_another_size_ends_the_taking():
    samples = passing(5)
    samples.take((images(2), labels(2)))
    samples.take((torch.zeros(2, 3, 9, 9), labels(2)))
    samples.take((images(2), labels(2)))
    assert samples.error is None and torch.equal(loaded(samples).images, images(2))


def test_a_batch_without_images_is_the_looks_to_refuse():
    samples = passing(5)
    samples.take({"x": torch.zeros(2, 5)})
    assert samples.is_ready and samples.count == 0
    with pytest.raises(ValueError, match=r"No images \[b c h w\] in the batch: a dict of x.*Batch\(image=\.\.\.\)"):
        loaded(samples)


def test_no_batch_and_a_batch_of_nothing_are_passed_over():
    samples = passing(2)
    samples.take(None)
    samples.take((images(0), labels(0)))
    assert not samples.is_ready
    samples.take((images(2), labels(2)))
    assert samples.is_ready


def test_samples_of_an_evaluation_in_inference_mode_can_be_differentiated():
    samples = passing(2)
    with torch.inference_mode():
        samples.take((images(2).clone(), labels(2)))
        batch = loaded(samples)
    assert not batch.images.is_inference()
    assert (batch.images.requires_grad_() ** 2).sum().requires_grad


def test_a_key_that_draws_leaves_the_random_numbers_as_they_were():
    before = torch.get_rng_state()
    samples = passing(2, image=lambda batch: batch[0] + torch.rand(()) * 0)
    samples.take((images(2), labels(2)))
    assert samples.count == 2 and torch.equal(torch.get_rng_state(), before)


def test_rows_are_joined_and_only_rows():
    first = {"x": torch.zeros(2, 3), "mean": torch.zeros(3), "views": [torch.zeros(2), torch.zeros(2)], "ids": ("a", "b")}
    second = {"x": torch.ones(1, 3), "mean": torch.ones(3), "views": [torch.ones(1), torch.ones(1)], "ids": ("c",)}
    both = joined(first, second, (2, 1))
    assert both["x"].tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1]] and both["mean"].tolist() == [0, 0, 0]
    assert [view.tolist() for view in both["views"]] == [[0, 0, 1], [0, 0, 1]] and both["ids"] == ("a", "b", "c")
    assert len(first["x"]) == 2


# what can only be iterated


class Loader:
    """As FFCV has it: it can be iterated and knows its length."""

    batch_size = 4

    def __init__(self):
        self.images = images(4) / 8
        self.begun = 0

    def __len__(self):
        return 1

    def __iter__(self):
        self.begun += 1
        return iter([(self.images, labels(4))])


@dataclass
class IterableBatch(Sample):
    """As anomalib has it: a batch that can be iterated and knows its size."""

    batch_size: int = 2

    def __iter__(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    "data",
    [Pipeline(), Stream(), Loader(), iter([1]), (i for i in range(3)), DataLoader(Pictures())],
    ids=lambda d: type(d).__name__,
)
def test_loaders_iterators_and_streams_can_only_be_iterated(data):
    assert is_stream(data)


@pytest.mark.parametrize("form", FORMS)
def test_no_batch_is_taken_for_a_loader(form):
    assert not is_stream(FORMS[form][0](2, 0))


def test_a_dataset_and_a_batch_that_can_be_iterated_are_no_streams():
    assert not is_stream(Pictures()) and not is_stream(IterableBatch(images(2), labels(2))) and not is_stream(16)


@pytest.mark.parametrize(("given", "said"), [(dict(samples=[0, 5]), r"samples=\[0, 5\]"), (dict(per_class=2), "per_class=2")])
def test_a_choice_by_index_or_class_is_refused(given, said):
    with pytest.raises(ValueError, match=rf"Batch\({said}\): the test set has no samples by index\. Write Batch\(samples=16\)"):
        refuse_choice(Batch(**given), "test set")
    refuse_choice(Batch(16), "test set")


NET = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


@pytest.mark.parametrize("make", [Pipeline, Stream, Loader, lambda: DataLoader(Stream(), 4)])
def test_a_watcher_takes_nothing_from_a_loop_and_the_line_it_names_works(make, tmp_path):
    loader, other = make(), make()
    watcher = Watcher(NET, loader, "1", target="predicted", folder=tmp_path)
    with pytest.raises(ValueError, match=r"has no samples by index.*Watcher\(model, batch\).*or next\(iter\(loader\)\)"):
        watcher.look(0)
    source = getattr(loader, "dataset", loader)
    assert not getattr(source, "given", []) and not getattr(source, "opened", 0) and not getattr(source, "begun", 0)
    if isinstance(other, Stream):
        other = DataLoader(other, 4)
    batch = next(iter(other))
    watcher = Watcher(NET, batch, "1", target="predicted", folder=tmp_path)
    assert len(watcher.look(0)[0].heat) == len(batch[0])


def test_explain_takes_nothing_from_a_loop():
    pipeline = Pipeline()
    with pytest.raises(ValueError, match="The Pipeline has no samples by index"):
        explain(NET, Batch(samples=pipeline), layer="1", target=0)
    assert not pipeline.given
    assert len(explain(NET, Batch(samples=next(iter(pipeline))), layer="1", target=0).heat) == 3
