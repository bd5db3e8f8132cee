"""A Watcher in a loop written by hand: what it looks at, what it keeps, where it writes, and what it refuses."""

import csv
import io
import pickle
import warnings
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from events import read_events
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from nets import STRICT, Net, Pictures, cam, fit, loader
from plain import batch, plain_net, train, watcher
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from traces import model_state

from lightning_cam import Batch, Style, Watcher, explain

pytestmark = STRICT

WHERE = "relu/grad_cam"


def same(first, second):
    """Whether two histories hold the same looks, bit for bit."""
    assert first.titles == second.titles
    assert (first.lowest, first.highest) == (second.lowest, second.highest)
    return all(torch.equal(a, b) for a, b in zip(first.heats, second.heats, strict=True))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


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


# where it writes


def test_without_a_logger_pictures_are_files_below_the_folder(tmp_path):
    watching = watcher(plain_net(), tmp_path, batch(2), tag="gaze")
    watching.look(0)
    watching.look(7)
    assert files(tmp_path) == [
        "gaze/relu/grad_cam/filmstrip.jpg",
        "gaze/relu/grad_cam/step_000000.jpg",
        "gaze/relu/grad_cam/step_000000/sample_0_grad_cam.jpg",
        "gaze/relu/grad_cam/step_000000/sample_1_grad_cam.jpg",
        "gaze/relu/grad_cam/step_000007.jpg",
        "gaze/relu/grad_cam/step_000007/sample_0_grad_cam.jpg",
        "gaze/relu/grad_cam/step_000007/sample_1_grad_cam.jpg",
    ]


def strength(heat, seen):
    return heat.flatten(1).amax(1)


def boxed():
    return dict(data=Pictures(form="dict"), batch=Batch(samples=4, regions="box"), metrics=["energy_inside", strength])


def means(record):
    """What is logged of a Record, computed anew."""
    numbers = {f"cam/{name}": float(values.double().nanmean()) for name, values in record.values.items()}
    return numbers | {f"cam/{name}_defined": float((~values.isnan()).double().mean()) for name, values in record.values.items()}


def test_numbers_and_pictures_go_to_fabrics_csv_logger(tmp_path):
    logger = CSVLogger(tmp_path / "csv")
    watching = watcher(plain_net(), tmp_path / "files", loggers=[logger], **boxed())
    expected = [means(watching.look(step)[0]) for step in (0, 5)]
    logger.save()
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 5]
    assert [{name: float(value) for name, value in row.items() if name != "step"} for row in rows] == expected
    assert set(expected[0]) == {
        f"cam/{name}" for name in ("energy_inside", "energy_inside_defined", "strength", "strength_defined")
    }
    assert len(list(Path(logger.log_dir).rglob("grad_cam/step_*.jpg"))) == 2
    assert not (tmp_path / "files").exists()


def test_numbers_and_pictures_go_to_fabrics_tensorboard_logger(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    watching = watcher(plain_net(), tmp_path / "files", loggers=[logger], **boxed())
    expected = [means(watching.look(step)[0])["cam/strength"] for step in (0, 5)]
    logger.finalize("success")
    events = read_events(logger.log_dir)
    scalars = events.Scalars("cam/strength")
    assert [event.step for event in scalars] == [0, 5]
    assert [event.value for event in scalars] == pytest.approx(expected, rel=1e-6)
    assert [event.step for event in events.Images("cam/relu/grad_cam")] == [0, 5]
    assert [event.step for event in events.Images("cam/relu/grad_cam/filmstrip")] == [0, 5]
    assert not (tmp_path / "files").exists()


def test_numbers_and_pictures_go_to_a_summary_writer(tmp_path):
    writer = SummaryWriter(tmp_path / "events")
    watching = watcher(plain_net(), tmp_path / "files", loggers=[writer], **boxed())
    expected = means(watching.look(3)[0])["cam/strength"]
    writer.close()
    events = read_events(tmp_path / "events")
    ((step, value),) = [(event.step, event.value) for event in events.Scalars("cam/strength")]
    assert (step, value) == (3, pytest.approx(expected, rel=1e-6))
    assert [event.step for event in events.Images("cam/relu/grad_cam")] == [3]
    assert not (tmp_path / "files").exists()


# what it keeps


def test_a_resumed_watcher_has_the_history_and_the_filmstrip_of_one_that_went_on(tmp_path):
    net = plain_net()
    straight, broken, resumed = (watcher(net, tmp_path / name, concepts=2) for name in ("straight", "broken", "resumed"))
    saved = io.BytesIO()

    def look(step):
        straight.look(step)
        if step <= 6:
            broken.look(step)
            saved.seek(0)
            torch.save(broken.state_dict(), saved)
            return
        if not resumed.looked:
            saved.seek(0)
            resumed.load_state_dict(torch.load(saved, weights_only=True))
        resumed.look(step)

    train(net, look)
    assert straight.history[WHERE].titles == ["0", "6", "12", "18"]
    assert same(straight.history[WHERE], resumed.history[WHERE])
    assert broken.history[WHERE].titles == ["0", "6"]
    for name in ("grad_cam/filmstrip.jpg", "grad_cam/step_000018.jpg", "concepts/step_000018.jpg"):
        pictures = [(tmp_path / run / "cam" / "relu" / name).read_bytes() for run in ("straight", "resumed")]
        assert pictures[0] == pictures[1], name
    film = [(tmp_path / run / "cam" / "relu" / "grad_cam" / "filmstrip.jpg").read_bytes() for run in ("straight", "broken")]
    assert film[0] != film[1]


def test_a_target_that_freezes_a_reference_is_resumed_with_it(tmp_path):
    net = plain_net()
    first = watcher(net, tmp_path, target="projection")
    first.look(0)
    state = first.state_dict()
    with torch.no_grad():
        net.head.weight.add_(1)
    second, fresh = watcher(net, tmp_path, target="projection"), watcher(net, tmp_path, target="projection")
    second.load_state_dict(state)
    expected = first.look(1)[0].score
    assert torch.equal(second.look(1)[0].score, expected)
    assert not torch.equal(fresh.look(1)[0].score, expected)


def test_restarted_it_begins_anew(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, target="projection", concepts=2)
    watching.look(0)
    watching.restart()
    assert (watching.history, watching.state_dict()["concepts"], watching.looked) == ({}, {}, False)
    assert watching.target.reference is None
    (record,) = watching.look(9)
    assert record.moment.baseline
    assert watching.history[WHERE].titles == ["9"]


def test_released_it_keeps_the_run_and_loads_the_samples_anew(tmp_path):
    watching = watcher(plain_net(), tmp_path, Pictures(), layer=None)
    first = watching.look(0)[0].heat
    watching.release()
    assert watching.batch is None
    assert torch.equal(watching.look(1)[0].heat, first)
    assert watching.history[WHERE].titles == ["0", "1"]


def test_a_pickled_watcher_goes_on(tmp_path):
    watching = watcher(plain_net(), tmp_path, target={"top_k": {"k": 2}})
    expected = watching.look(0)[0].heat
    copy = pickle.loads(pickle.dumps(watching))
    assert torch.equal(copy.look(1)[0].heat, expected)
    assert copy.history[WHERE].titles == ["0", "1"]


# mistakes and failures


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="gradcam"), "Did you mean 'grad_cam'"),
        (dict(method={"grad_cam": {"sigma": 1}}), "has no option 'sigma'"),
        (dict(metrics=["energy"]), "Did you mean 'energy_inside'"),
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
    watching = watcher(net, tmp_path, method=failing({2, 3}), on_error="warn")
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
    watching = watcher(plain_net(), tmp_path, method=failing({2}), on_error="raise")
    watching.look(0)
    with pytest.raises(ArithmeticError, match="call 2"):
        watching.look(1)


# beside Lightning


@pytest.mark.parametrize("wrapped", [False, True])
def test_it_looks_in_a_fabric_run(wrapped, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fabric = Fabric(accelerator="cpu", devices=1, loggers=[logger])
    net = model = plain_net()
    layer = "relu"
    if wrapped:
        model, layer = fabric.setup(net), "_forward_module.relu"
    x, y = batch()
    watching = watcher(model, tmp_path / "files", layer=layer, loggers=fabric.loggers, metrics=[strength])
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
