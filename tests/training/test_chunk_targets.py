"""Targets where many samples are looked at in chunks: what they hold of a sample stays with it."""

from dataclasses import replace

import pytest
import torch
from chunked import CHUNK, SHOWN, N, assert_same, boxed, disturb, in_double, looks, near
from nets import STRICT
from plain import PlainNet, plain_net, watcher
from querying import QueryNet

from lightning_cam import Batch
from lightning_cam.targets import find
from lightning_cam.targets.state import of_part

pytestmark = STRICT

OF_FIRST_CHUNK = ("drift_floor", "settled_at")  # the floor is that of the samples shown


def multi_hot(n=N):
    """Samples of one to three classes; the last sixteen have one each."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.nn.functional.one_hot(torch.arange(n) % 3, 3).bool()
    labels[: n - CHUNK] |= torch.rand(n - CHUNK, 3, generator=generator) < 0.4
    return boxed(n).images.double(), labels.double()


CLASSES = torch.arange(N) % 3
TARGETS = {
    "one class": 2,
    "a class a sample": CLASSES,
    "two classes a sample, or one": torch.stack([CLASSES, torch.where(CLASSES > 0, CLASSES - 1, -1)], 1),
    "the best two": {"top_k": {"k": 2}},
    "a class, and one a sample": [1, CLASSES, "predicted"],
    "scores of a callable": lambda logits, label: logits.logsumexp(1),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_of_samples_are_those_of_their_chunk(name, tmp_path):
    options = dict(target=TARGETS[name], metrics=["drift", "px_ap", "feature_drift"])
    chunked, _ = looks(tmp_path / "chunks", SHOWN, **options)
    whole, _ = looks(tmp_path / "whole", None, **options)
    for ones, others in zip(chunked, whole, strict=True):
        assert_same(ones, others)


@pytest.mark.parametrize("target", ["label", "positives"])
def test_samples_of_several_classes_are_joined_where_chunks_differ_in_how_many(target, tmp_path):
    x, y = multi_hot()
    runs = []
    for pictures in (SHOWN, None):
        net = plain_net().double()
        batch = Batch(samples=N, pictures=pictures)
        watching = watcher(net, tmp_path / str(pictures), (x, y), batch=batch, target=target)
        told = []
        for i in range(3):
            told.append(watching.look(i))
            disturb(net, i)
        runs.append((told, watching))
    (chunked, watching), (whole, _) = runs
    for (one,), (other,) in zip(chunked, whole, strict=True):
        assert one.score.shape[1] == 3 and bool(one.absent[-CHUNK:, 1:].all())
        names = [name for name in one.values if name not in OF_FIRST_CHUNK]
        assert list(one.values) == list(other.values)
        strip = {record: {name: record.values[name] for name in names} for record in (one, other)}
        assert_same([replace(one, values=strip[one])], [replace(other, values=strip[other])])
    assert chunked[2][0].values["feature_drift"].isfinite().any()


def test_numbers_are_a_class_by_their_sign_only_where_all_are():
    """A regression whose last chunk happens to hold a label 0 or 1."""
    labels = torch.tensor([2.5, 0.0])
    alone = find("label").choose(torch.tensor([[3.0]]), labels[1:], None)
    part = of_part(find("label"), slice(1, 2), 2, labels).choose(torch.tensor([[3.0]]), labels[1:], None)
    assert alone.parts[0].tolist() == [-1] and part.parts[0].tolist() == [1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("n", [CHUNK, N - 1, N + 1])
def test_classes_of_another_number_of_samples_are_refused(n, tmp_path):
    with pytest.raises(ValueError, match=f"{n} target classes were given for {N} samples; expected one a sample"):
        looks(tmp_path, SHOWN, target=torch.zeros(n, dtype=torch.long), looks=1)


class Embedding(PlainNet):
    def forward(self, x):
        return self.relu(self.last(self.trunk(x))).mean((2, 3))


def embedding_net():
    torch.manual_seed(4)
    return Embedding().double()


def test_a_frozen_reference_is_that_of_its_sample_over_looks_and_over_a_checkpoint(tmp_path):
    options = dict(target="similarity", metrics=["drift"], looks=2)
    chunked, watching = looks(tmp_path / "chunks", SHOWN, net=embedding_net(), **options)
    whole, _ = looks(tmp_path / "whole", None, net=embedding_net(), **options)
    for ones, others in zip(chunked, whole, strict=True):
        assert_same(ones, others)
    assert chunked[1][0].score.min() < 0.999 and near(chunked[0][0].score, torch.ones(N, 1).double())
    file = tmp_path / "state.pt"
    torch.save(watching.state_dict(), file)
    net = embedding_net()
    disturb(net, 0)
    resumed = watcher(
        net, tmp_path, in_double(boxed()), batch=Batch(samples=N, pictures=SHOWN), target="similarity", metrics=["drift"]
    )
    resumed.load_state_dict(torch.load(file, weights_only=True))
    (record,) = resumed.look(2)
    assert near(record.score, chunked[1][0].score)


def test_a_reference_that_is_handed_in_is_that_of_its_sample(tmp_path):
    reference = torch.rand(N, 5, dtype=torch.float64)
    options = dict(target={"similarity": {"reference": reference}}, metrics=[], looks=1)
    chunked, _ = looks(tmp_path / "chunks", SHOWN, net=embedding_net(), **options)
    whole, _ = looks(tmp_path / "whole", None, net=embedding_net(), **options)
    assert_same(chunked[0], whole[0])
    with pytest.raises(ValueError, match=rf"\({CHUNK}, 5\) and there are {N} samples; expected a row for each, or one for all"):
        looks(tmp_path, SHOWN, net=embedding_net(), **{**options, "target": {"similarity": {"reference": reference[:CHUNK]}}})


@pytest.mark.parametrize("named", [False, True])
def test_pinned_boxes_stay_with_their_samples_over_looks_and_over_a_checkpoint(named, tmp_path):
    target = {"detection": {"activation": "sigmoid"}}
    if named:
        boxes = torch.rand(N, 4) * 0.3 + 0.3
        target = {"detection": {"boxes": boxes, "classes": CLASSES, "iou_threshold": 0.0, "activation": "sigmoid"}}
    data = torch.rand(N, 3, 12, 12, dtype=torch.float64)
    runs = []
    for pictures in (SHOWN, None):
        net = QueryNet()
        batch = Batch(samples=N, pictures=pictures)
        watching = watcher(net, tmp_path / str(pictures), data, "backbone.3", batch=batch, target=target, metrics=["drift"])
        told = [watching.look(0)]
        net.anchor += 0.3
        told.append(watching.look(1))
        runs.append((told, watching, net))
    (chunked, watching, net), (whole, other, _) = runs
    for ones, others in zip(chunked, whole, strict=True):
        assert_same(ones, others)
    if not named:
        for pinned, expected in zip(watching.memory.target.pinned, other.memory.target.pinned, strict=True):
            assert torch.equal(pinned, expected) and len(pinned) == N
    resumed = watcher(
        net, tmp_path, data, "backbone.3", batch=Batch(samples=N, pictures=SHOWN), target=target, metrics=["drift"]
    )
    resumed.load_state_dict(watching.state_dict())
    assert near(resumed.look(2)[0].score, chunked[1][0].score)


def test_a_mask_a_sample_is_that_of_its_sample(tmp_path):
    class Dense(PlainNet):
        def forward(self, x):
            return torch.einsum("bchw,kc->bkhw", self.relu(self.last(self.trunk(x))), self.head.weight)

    masks = torch.rand(N, 8, 8) < 0.5
    options = dict(target={"segment": {"class_id": 1, "region": masks}}, metrics=[], looks=1)
    runs = []
    for pictures in (SHOWN, None):
        torch.manual_seed(0)
        runs.append(looks(tmp_path / str(pictures), pictures, net=Dense().double(), **options)[0])
    assert_same(runs[0][0], runs[1][0])
