"""A Watcher in a loop written by hand: what it looks at, what it refuses, and how it stands beside Lightning."""

import warnings

import lightning.pytorch as L
import pytest
import torch
from events import read_events
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from looks import files, same, strength
from nets import STRICT, Net, Pictures, cam, fit, loader
from plain import batch, plain_net, train, watcher
from torch.utils.data import DataLoader
from traces import model_state

from lightning_cam import Batch, Style, Watcher, explain

pytestmark = STRICT

WHERE = "relu/grad_cam"


def failing(calls):
    """A method that fails at these calls, counted from 1."""
    made = []

    def sometimes(seen):
        made.append(0)
        if len(made) in calls:
            raise ArithmeticError(f"call {len(made)}")
        return seen.activation.mean(1)

    return sometimes


# what a look shows


def test_it_looks_before_training_and_after_steps_as_explain_does(tmp_path):
    net, (x, y) = plain_net(), batch()
    watching = watcher(net, tmp_path)
    explained, moments = [], []

    def look(step):
        (record,) = watching.look(step, "before training" if step == 0 else None)
        explanation = explain(net, x, layer="relu", target=y)
        assert torch.equal(record.heat[:, 0], explanation.heat)
        assert torch.equal(record.score[:, 0], explanation.score)
        explained.append(explanation.heat)
        moments.append((record.moment.step, record.moment.title, record.moment.short, record.moment.baseline))

    train(net, look)
    assert moments == [
        (0, "before training", "before training", True),
        (6, "step 6", "6", False),
        (12, "step 12", "12", False),
        (18, "step 18", "18", False),
    ]
    history = watching.history[WHERE]
    assert history.titles == ["before training", "6", "12", "18"]
    assert all(torch.equal(a, b) for a, b in zip(history.heats, explained, strict=True))
    assert not torch.equal(explained[0], explained[1])  # training moved the maps, else this would show little


def test_every_layer_and_method_has_its_record_and_its_history(tmp_path):
    net, (x, y) = plain_net(), batch()
    watching = watcher(net, tmp_path, layer=["trunk", "relu"], method=["grad_cam", "activation_mean"])
    records = watching.look(0)
    tags = ["trunk/grad_cam", "trunk/activation_mean", "relu/grad_cam", "relu/activation_mean"]
    assert [record.tag for record in records] == tags == list(watching.history)
    for record in records:
        assert torch.equal(record.heat[:, 0], explain(net, x, layer=record.layer, method=record.method, target=y).heat)


def test_a_layer_nobody_named_is_found_once(tmp_path, monkeypatch):
    from lightning_cam.capture import session

    searches = []
    search = session.find_default_layer
    monkeypatch.setattr(session, "find_default_layer", lambda *args: searches.append(0) or search(*args))
    watching = watcher(plain_net(), tmp_path, layer=None)
    assert [watching.look(step)[0].layer for step in range(3)] == ["relu"] * 3
    assert len(searches) == 1


@pytest.mark.parametrize("form", ["dataset", "loader", "shuffling loader", "tuple", "dict", "dict of a dataset"])
def test_samples_come_from_a_dataset_a_loader_or_a_batch(form, tmp_path):
    images, labels = batch(12)
    data = {
        "dataset": Pictures(),
        "loader": DataLoader(Pictures(), 5),
        "shuffling loader": DataLoader(Pictures(), 5, shuffle=True),
        "tuple": (images, labels),
        "dict": {"image": images, "label": labels},
        "dict of a dataset": Pictures(form="dict"),
    }[form]
    net = plain_net()
    watching = watcher(net, tmp_path, data)
    (record,) = watching.look(0)
    assert torch.equal(watching.batch.images, images) and torch.equal(watching.batch.labels, labels)
    assert torch.equal(record.heat[:, 0], explain(net, images, layer="relu", target=labels).heat)


def test_images_alone_are_watched_where_no_label_is_needed(tmp_path):
    net, (x, _) = plain_net(), batch()
    (record,) = watcher(net, tmp_path, x, target="predicted").look(0)
    assert torch.equal(record.heat[:, 0], explain(net, x, layer="relu").heat)


@pytest.mark.parametrize(
    ("chosen", "indices"),
    [
        (3, [0, 1, 2]),
        ([7, 2], [7, 2]),
        ([-1], [11]),
        (Batch(per_class=2), [0, 3, 1, 4, 2, 5]),
        ({"per_class": 1}, [0, 1, 2]),
    ],
)
def test_samples_are_chosen_by_count_index_or_class(chosen, indices, tmp_path):
    watching = watcher(plain_net(), tmp_path, Pictures(), batch=chosen)
    watching.look(0)
    assert torch.equal(watching.batch.images, Pictures().images[indices])
    assert watching.batch.labels.tolist() == [i % 3 for i in indices]
    assert watching.batch.names == tuple(f"#{i}" for i in indices)
    assert watching.batch.classes == ("class_0", "class_1", "class_2")


def test_the_samples_stay_the_same_whatever_becomes_of_the_batch_handed_in(tmp_path):
    net, (x, y) = plain_net(), batch()
    watching = watcher(net, tmp_path, (x, y))
    first = watching.look(0)[0].heat
    x.zero_()
    assert torch.equal(watching.look(1)[0].heat, first)


# mistakes and failures


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="gradcam"), "Did you mean 'grad_cam'"),
        (dict(method={"grad_cam": {"sigma": 1}}), "has no option 'sigma'"),
        (dict(metrics=["energy"]), "Did you mean .*'energy_inside'"),
        (dict(target="labels"), "Did you mean 'label'"),
        (dict(target="probability"), "is refused"),
        (dict(batch=0), "expected a count of at least 1"),
        (dict(batch={"sample": 3}), "Did you mean 'samples'"),
        (dict(concepts=-1), "expected how many are drawn"),
        (dict(tag="cam/"), "without a slash at its ends"),
        (dict(tag=""), "without a slash at its ends"),
        (dict(on_error="ignore"), "expected 'warn' or 'raise'"),
        (dict(layer=["trunk", "relu"], fuse="avg"), "No fusion 'avg'"),
    ],
)
def test_a_mistake_in_the_options_raises_at_once(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        watcher(plain_net(), tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(layer="rellu"), "Did you mean 'relu'"),
        (dict(layer="head"), "returned shape"),
        (dict(target=17), "Class 17 is out of range"),
        (dict(output="logits"), "logits"),
        (dict(data=Pictures(), batch=[99]), "Sample 99 is out of range"),
        (dict(method=failing({1})), "call 1"),
    ],
)
def test_a_mistake_that_the_model_shows_raises_at_the_first_look(options, message, tmp_path):
    net = plain_net(dropout=0.2, norm=True)
    before = model_state(net)
    watching = watcher(net, tmp_path, **{"on_error": "warn"} | options)
    for _ in range(2):  # it stays the first look until one succeeds
        with pytest.raises((ValueError, ArithmeticError), match=message):
            watching.look(0)
        if "method" in options:
            break
    assert not watching.looked
    assert files(tmp_path) == []
    assert model_state(net) == before


def test_without_a_model_it_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="has nothing to look at: give it the model"):
        watcher(None, tmp_path).look(0)


def test_what_fails_later_is_one_warning_and_the_training_goes_on(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, method=failing({2, 3}), metrics=[], on_error="warn")
    records = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        states = train(net, lambda step: records.append(watching.look(step)))
    assert states == train(plain_net())
    assert [len(of_look) for of_look in records] == [1, 0, 0, 1]
    ours = [str(warning.message) for warning in caught]
    assert ours == ["Watcher: relu/sometimes failed and is left out, training goes on: ArithmeticError: call 2"]
    assert watching.history["relu/sometimes"].titles == ["0", "18"]


def test_a_forward_that_fails_later_costs_that_look_alone(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, on_error="warn")
    watching.look(0)
    forward, net.forward = net.forward, lambda x: 1 / 0
    with pytest.warns(UserWarning, match="Watcher: a look failed and is left out, training goes on: ZeroDivisionError"):
        assert watching.look(1) == []
    net.forward = forward
    watching.look(2)
    assert watching.history[WHERE].titles == ["0", "2"]


def test_what_fails_later_raises_if_so_wished(tmp_path):
    watching = watcher(plain_net(), tmp_path, method=failing({2}), metrics=[], on_error="raise")
    watching.look(0)
    with pytest.raises(ArithmeticError, match="call 2"):
        watching.look(1)


# beside Lightning


@pytest.mark.parametrize("wrapped", [False, True])
def test_it_looks_in_a_fabric_run(wrapped, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fabric = Fabric(accelerator="cpu", devices=1, loggers=[logger])
    net = model = plain_net()
    layer = "relu"  # under either name its tags are without Fabric's level
    given = layer
    if wrapped:
        model, given = fabric.setup(net), "_forward_module.relu"
    x, y = batch()
    watching = watcher(model, tmp_path / "files", layer=given, loggers=fabric.loggers, metrics=[strength])
    records = []

    def look(step):
        records.extend(watching.look(step))
        assert torch.equal(records[-1].heat[:, 0], explain(net, x, layer="relu", target=y).heat)

    train(net, look, fabric=fabric if not wrapped else None)
    logger.finalize("success")
    events = read_events(logger.log_dir)
    assert [event.step for event in events.Images(f"cam/{layer}/grad_cam")] == [0, 6, 12, 18]
    assert [event.value for event in events.Scalars("cam/strength")] == pytest.approx(
        [float(record.strength.mean()) for record in records], rel=1e-6
    )


class Beside(L.Callback):
    """Lets a Watcher look at the module at the callback's moments."""

    def __init__(self, watching):
        self.watching = watching

    def look(self, module, title):
        self.watching.model = module
        self.watching.look(0, title)

    def on_train_start(self, trainer, module):
        self.look(module, "start")

    def on_validation_epoch_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.look(module, str(trainer.current_epoch + 1))


def test_its_history_is_that_of_a_callback_at_the_same_weights(tmp_path):
    options = dict(layer=["trunk", "relu"], method=["grad_cam", "layer_cam"], target=["label", {"top_k": {"k": 2}}])
    callback = cam(**options, on_error="raise")
    watching = Watcher(None, loader(), batch=4, style=Style(tile=32), folder=tmp_path / "plain", on_error="raise", **options)
    fit(tmp_path, [callback, Beside(watching)], Net(dropout=0.3, norm=True), max_epochs=3)
    assert list(callback.history) == list(watching.history)
    assert len(callback.history) == 4
    for tag, history in callback.history.items():
        assert history.titles == ["start", "1", "2", "3"]
        assert same(history, watching.history[tag])
        assert not torch.equal(history.heats[0], history.heats[-1])
