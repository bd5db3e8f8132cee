"""What ``target="label"`` explains where labels are no class a sample: the obvious, and it is said once."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from aims import look
from nets import SMALL, STRICT, trainer
from plain import watcher
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from zoo import gap_linear, images

from lightning_cam import Batch, CAMCallback, explain, targets
from lightning_cam.figures import pages
from lightning_cam.figures.captions import captions, description, row_names
from lightning_cam.figures.pages import RecordPages

pytestmark = STRICT

SOFT = torch.tensor([[0.1, 0.6, 0.1, 0.2], [0.4, 0.0, 0.6, 0.0], [0.25, 0.25, 0.2, 0.3]])
ONE_HOT = F.one_hot(torch.tensor([1, 2, 3]), 4)
HOT = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]])


@dataclass(frozen=True)
class Kind:
    """Labels of a kind, the target that explains the same, and what is said."""

    labels: Tensor | None
    same: Any
    note: str = ""
    k: int = 4


MULTI_HOT = "the labels are multi-hot, so every class that is set is explained, as by 'positives'"
LARGEST = "the labels are soft, so the class of the largest share is explained"
MISSING = (
    "the batch has no labels, so the predicted class is explained, which may change from look to look; "
    "say where the labels are with Batch(label=...)"
)
SIGNED = "the labels are 0 or 1 and the model gives one logit, which is explained by its label's sign, as by 'binary'"
NUMBER = "the labels are numbers and the model gives one, which is explained, as by 'value'"

CLASSES = torch.tensor([1, 2, 3])
KINDS = {
    "classes": Kind(CLASSES, CLASSES),
    "classes in a column": Kind(CLASSES[:, None], CLASSES),
    "classes as bytes": Kind(CLASSES.to(torch.uint8), CLASSES),
    "soft": Kind(SOFT, CLASSES, LARGEST),
    "soft in half precision": Kind(SOFT.half(), CLASSES, LARGEST),
    "one-hot floats": Kind(ONE_HOT.double(), CLASSES, LARGEST),
    "one-hot integers": Kind(ONE_HOT, "positives", MULTI_HOT),
    "multi-hot integers": Kind(HOT, "positives", MULTI_HOT),
    "multi-hot booleans": Kind(HOT.bool(), "positives", MULTI_HOT),
    "multi-hot floats": Kind(HOT.float(), "positives", MULTI_HOT),
    "multi-hot smoothed": Kind(HOT * 0.8 + 0.1, "positives", MULTI_HOT),
    "none": Kind(None, "predicted", MISSING),
    "binary": Kind(torch.tensor([1, 0, 1]), "binary", SIGNED, 1),
    "binary floats": Kind(torch.tensor([1.0, 0.0, 1.0]), "binary", SIGNED, 1),
    "binary booleans in a column": Kind(torch.tensor([[True], [False], [True]]), "binary", SIGNED, 1),
    "binary signs": Kind(torch.tensor([1.0, -1.0, 1.0]), "binary", SIGNED, 1),
    "numbers": Kind(torch.tensor([0.3, -1.2, 7.0]), "value", NUMBER, 1),
    "numbers in a column": Kind(torch.tensor([[0.3], [1.0], [0.0]]), "value", NUMBER, 1),
}


def is_same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("name", KINDS)
def test_the_default_target_explains_the_obvious_for_labels_of_every_kind(name):
    kind = KINDS[name]
    ours, theirs = (look(gap_linear(k=kind.k), target, kind.labels) for target in ("label", kind.same))
    assert is_same(ours.scores.score, theirs.scores.score)
    assert is_same(ours.heat, theirs.heat) and is_same(ours.again, theirs.again)
    a, b = ours.scores.choice, theirs.scores.choice
    assert (a.note, b.note) == (kind.note, "") and (a.single, a.logit) == (b.single, b.logit)
    for ours_told, theirs_told in ((a.classes, b.classes), (a.absent, b.absent)):
        assert (ours_told is None) == (theirs_told is None)
        assert ours_told is None or torch.equal(ours_told, theirs_told)


def test_a_model_that_gives_a_row_of_numbers_is_explained_too():
    def row():
        net = gap_linear(k=1)
        net.head.append(nn.Flatten(0))
        return net

    y = row()(images()).detach()
    assert torch.equal(look(row(), "label", torch.rand(3)).scores.score[:, 0], y)
    signs = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    assert torch.equal(look(row(), "label", torch.tensor([1, 0, 0])).scores.score[:, 0], y * signs)


def test_targets_about_a_class_take_the_one_that_labels_stand_for():
    for name in ("log_probability", "counterfactual", "rivals"):
        of_soft = look(gap_linear(), name, SOFT)
        assert torch.equal(of_soft.scores.score, look(gap_linear(), name, CLASSES).scores.score)
        assert of_soft.scores.choice.note == LARGEST
        assert look(gap_linear(), name).scores.choice.note == ""
    several = look(gap_linear(), ["label", "predicted", "label"], SOFT)
    assert several.scores.choice.note == LARGEST
    assert torch.equal(several.scores.choice.classes[:, 0], CLASSES)


def test_the_target_is_found_by_its_name_and_by_its_function():
    for spec in ("label", targets.label, targets.label()):
        assert look(gap_linear(), spec, SOFT).scores.choice.note == LARGEST


# as a user has them


class Labelled(Dataset):
    """Fixed noise and labels, of which there may be none."""

    def __init__(self, labels: Tensor | None) -> None:
        self.images = torch.rand(6, 3, 8, 10, generator=torch.Generator().manual_seed(3))
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        if self.labels is None:
            return self.images[i]
        return self.images[i], self.labels[i]


class Task(L.LightningModule):
    """A classifier, or a regression, with the loss that its labels ask for."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.net = gap_linear(k=k).float().train()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if isinstance(batch, Tensor):
            return self(batch).square().mean()
        x, y = batch
        return (self(x).float() - y.float().reshape(len(x), -1)).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


RUNS = ["soft", "multi-hot floats", "none", "binary floats", "numbers"]


def fitted(folder, kind, target):
    labels = kind.labels
    if labels is not None:
        labels = labels.repeat(2, *(1,) * (labels.ndim - 1))
    if isinstance(target, Tensor):
        target = target.repeat(2)
    data = DataLoader(Labelled(labels), 3)
    callback = CAMCallback("net.features", target=target, batch=6, style=SMALL, on_error="raise")
    results = []
    callback.watcher.observers.append(results.append)
    trainer(folder, [callback], max_epochs=2).fit(Task(kind.k), data, data)
    return callback, results


@pytest.mark.parametrize("name", RUNS)
def test_a_fit_with_labels_of_any_kind_explains_the_obvious_and_says_so_once(name, tmp_path, caplog):
    kind = KINDS[name]
    ours, results = fitted(tmp_path / "a", kind, "label")
    assert [line for line in caplog.messages if kind.note in line] == [f"CAMCallback: {kind.note}"]
    theirs, _ = fitted(tmp_path / "b", kind, kind.same)
    heats = [[heat.nan_to_num(9) for heat in each.history["net.features/grad_cam"].heats] for each in (ours, theirs)]
    assert len(heats[0]) == 3 and all(torch.equal(a, b) for a, b in zip(*heats, strict=True))
    assert all(result.records[0].note == kind.note for result in results)
    assert sum(path.name == "filmstrip.jpg" for path in (tmp_path / "a").rglob("*.jpg")) == 1


def test_a_plain_loop_is_told_once_too(tmp_path, caplog):
    watching = watcher(Task(4), tmp_path, (torch.rand(3, 3, 8, 10), SOFT), layer="net.features")
    for step in range(3):
        watching.look(step)
    assert [line for line in caplog.messages if LARGEST in line] == [f"Watcher: {LARGEST}"]


def test_explain_has_no_labels_and_says_what_it_explains(caplog):
    net, x = gap_linear(), images()
    assert torch.equal(explain(net, x, target="label").heat, explain(net, x).heat)
    assert caplog.messages == [f"explain: {MISSING}"]


def test_where_the_labels_are_is_said_with_the_line_that_is_told(tmp_path, caplog):
    data = {"image": torch.rand(3, 3, 8, 10), "diagnosis": CLASSES}
    (record,) = watcher(Task(4), tmp_path, data, layer="net.features", batch=Batch(label="diagnosis")).look(0)
    assert record.predictions.classes[:, 0].tolist() == CLASSES.tolist()
    assert "no labels" not in caplog.text


# what is written beside the maps


def watched(folder, labels, target="label", k=4):
    """The samples and the Record of one look."""
    watching = watcher(Task(k), folder, (Labelled(None).images[:3], labels), layer="net.features", target=target)
    (record,) = watching.look(0)
    return watching.batch, record


@pytest.mark.parametrize("labels", [SOFT, ONE_HOT.float()])
@pytest.mark.parametrize("target", ["label", "predicted", 2])
def test_a_soft_label_is_right_or_wrong_by_its_largest_share(labels, target, tmp_path):
    batch, record = watched(tmp_path, labels, target)
    logits = Task(4).eval()(batch.images).detach()
    told = record.predictions
    assert told.labels.tolist() == CLASSES.tolist() and told.predicted.tolist() == logits.argmax(1).tolist()
    right = (logits.argmax(1) == CLASSES).tolist()
    assert [caption.right for caption in captions(batch, record)] == right and len(set(right)) == 2
    assert torch.allclose(told.probability, logits.softmax(1).gather(1, told.classes))
    assert row_names(batch, record) == ["class 1", "class 2", "class 3"]


def test_captions_of_soft_labels_read_like_those_of_classes(tmp_path):
    words = [captions(*watched(tmp_path, labels)) for labels in (SOFT, CLASSES)]
    assert [(one.line, one.under, one.right) for one in words[0]] == [(one.line, one.under, one.right) for one in words[1]]


@pytest.mark.parametrize("labels", [HOT, HOT.float(), ONE_HOT, ONE_HOT.float()])
def test_positives_asked_for_by_name_are_told_as_before(labels, tmp_path):
    batch, record = watched(tmp_path, labels, "positives")
    logits = Task(4).eval()(batch.images).detach()
    told = record.predictions
    assert told.predicted.tolist() == told.labels.tolist() == [-1] * 3
    chosen = told.classes >= 0
    expected = logits.sigmoid().gather(1, told.classes.clamp(min=0))
    assert torch.allclose(told.probability[chosen], expected[chosen]) and told.probability[~chosen].isnan().all()
    assert all(caption.right is None for caption in captions(batch, record))
    assert record.note == ""


def test_multi_hot_labels_are_told_as_positives_are(tmp_path):
    ours, theirs = (captions(*watched(tmp_path, HOT.float(), target)) for target in ("label", "positives"))
    assert [(one.line, one.under, one.right) for one in ours] == [(one.line, one.under, one.right) for one in theirs]
    assert ours[0].line.startswith("class 0 ")


def test_the_sheet_and_its_description_say_that_labels_are_not_what_is_explained(tmp_path, monkeypatch):
    titles = []
    batch, record = watched(tmp_path, None)
    _, labelled = watched(tmp_path, CLASSES)
    drawn = pages.under_header
    monkeypatch.setattr(pages, "under_header", lambda *args: titles.append(args[1]) or drawn(*args))
    RecordPages(record, batch, SMALL, "label").sheet()
    RecordPages(labelled, batch, SMALL, "label").sheet()
    assert [title[1].rpartition(" · ")[2] for title in titles] == ["target: label (the batch has no labels)", "target: label"]
    assert f"| target | `label`: {MISSING} |" in description(batch, record, "label", SMALL)
