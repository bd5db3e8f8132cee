"""The maps some batches before a look: how far they move is noise, of the same class, and leaves nothing behind."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from nets import STRICT, cam, fit
from plain import plain_net, watcher
from traces import model_state

from lightning_cam import Batch, Numbers, Parts, Schedule, explain
from lightning_cam.change.noise import NoiseFloor, Rows
from lightning_cam.record import Moment
from lightning_cam.training.look import glance

pytestmark = STRICT

TAG = "relu/grad_cam"


class Weights(Callback):
    """The net before each training batch, and after the last of each epoch."""

    def __init__(self):
        self.before, self.after = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.before.append((batch_idx, copy.deepcopy(module)))

    def on_validation_epoch_end(self, trainer, module):
        self.after.append(copy.deepcopy(module))


def heats(net, images, labels):
    """A look of its own at some weights."""
    net = net.eval()
    net.trainer = None
    return explain(net, images, layer="relu", target=labels).heat.double()


@pytest.mark.parametrize("count", [1, 3])
def test_it_is_the_distance_between_the_maps_then_and_now(count, tmp_path):
    weights, batches = Weights(), []
    callback = cam("relu", numbers=Numbers(batches_before=count), batch=Batch(samples=4), on_error="raise")
    callback.watcher.observers.append(lambda result: batches.append(result.batch))
    fit(tmp_path, [weights, callback], num_sanity_val_steps=0, max_epochs=2)
    last = len(weights.before) // 2  # batches an epoch
    index, then = weights.before[len(weights.before) - count]
    assert index == last - count
    maps = [heats(net, batches[-1].images, batches[-1].labels).flatten(1) for net in (then, weights.after[-1])]
    expected = 1 - F.cosine_similarity(*maps)
    assert expected.max() > 1e-4
    measured = callback.watcher.memory.noise.moved[TAG]["batches"][:, 0]
    torch.testing.assert_close(measured.double(), expected, rtol=1e-4, atol=1e-6)
    assert callback.watcher.memory.noise.before == {}


def test_the_floor_is_the_median_with_it():
    values = {"shift": 0.1, "mirror": 0.3, "precision": 0.0}
    floor = NoiseFloor({TAG: {kind: torch.tensor([[value]]) for kind, value in values.items()}})
    assert floor.of(TAG)[0, 0] == pytest.approx(0.1)
    floor.moved[TAG]["batches"] = torch.tensor([[0.5]])
    assert floor.of(TAG)[0, 0] == pytest.approx(0.2)


def test_of_another_class_the_floor_stays_as_it_is(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, method="activation_mean", target="predicted", metrics=["drift_floor"])
    watching.look(0)
    noise = watching.memory.noise
    tag = next(iter(noise.moved))
    known = noise.of(tag)
    glance(watching)
    heat, classes = noise.before[tag]
    classes[0] += 1
    noise.before[tag] = heat.flip(-1), classes
    watching.look(1)
    measured = noise.moved[tag]["batches"]
    torch.testing.assert_close(measured[0], known[0])
    assert ((measured[1:] - known[1:]).abs() > 1e-3).all()


def test_a_glance_keeps_nothing_but_maps(tmp_path):
    net = plain_net()
    told = []
    watching = watcher(net, tmp_path, target={"contrast": {}}, metrics=["drift_floor"])
    watching.observers.append(told.append)
    watching.look(0)
    files = sorted(tmp_path.rglob("*"))
    state, before = watching.state_dict(), model_state(net)
    glance(watching)
    after = watching.state_dict()
    assert len(told) == 1 and sorted(tmp_path.rglob("*")) == files
    assert list(after) == list(state) and model_state(net) == before
    assert len(watching.history[TAG].looks) == 1
    assert watching.memory.noise.before[TAG][0].shape == (4, 1, *watching.history[TAG].looks[0].heat.shape[-2:])


def test_a_glance_that_fails_costs_no_look(tmp_path, monkeypatch):
    from lightning_cam import callback as module

    def broken(watcher):
        raise ArithmeticError("on purpose")

    monkeypatch.setattr(module, "glance", broken)
    logger = CSVLogger(tmp_path)
    with pytest.warns(UserWarning, match="how maps move between batches failed and is left out.*on purpose"):
        run = fit(tmp_path, cam("relu", numbers=Numbers(batches_before=1)), logger=logger, max_epochs=2)
    assert run.callback_metrics["cam/drift_floor"].isfinite()


def test_a_model_that_is_another_in_the_glance_is_said(tmp_path):
    other = NoiseFloor()
    net = plain_net()
    watching = watcher(net, tmp_path, method="activation_mean")
    record = watching.look(0)[0]
    other.keep({record.tag: (record.heat, record.predictions.classes)}, 0)
    other.compare({}, Rows(0, 4, 4))  # no such map now
    other.join([], (), {})
    assert other.moved == {} and other.before == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0: 6, 5: 1}),
        (dict(val_check_interval=2), {0: 2, 1: 1, 2: 2, 5: 1}),
        (dict(val_check_interval=4, check_val_every_n_epoch=None), {0: 4, 3: 1, 4: 4}),
    ],
)
def test_how_many_batches_are_left_until_a_look(options, expected, tmp_path):
    left, looks = {}, []

    class Left(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            left[len(left)] = Schedule().batches_left(trainer, batch_idx)

        def on_validation_epoch_end(self, trainer, module):
            looks.append(len(left))

    fit(tmp_path, [Left()], num_sanity_val_steps=0, max_epochs=2, **options)
    assert {at: left[at] for at in expected} == expected
    for at, count in left.items():  # against what came to pass
        following = [look for look in looks if look > at]
        assert not following or following[0] - at == count, at


def test_in_an_epoch_without_a_look_there_is_none(tmp_path):
    left = []

    class Left(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            left.append([plan.batches_left(trainer, batch_idx) for plan in (Schedule(every_n_epochs=2), Schedule())])

    fit(tmp_path, [Left()], num_sanity_val_steps=0, max_epochs=2, check_val_every_n_epoch=2)
    half = len(left) // 2
    assert left[:half] == [[None, None]] * half
    assert [count for _, count in left[half:]] == list(range(half, 0, -1))


def test_a_negative_number_of_batches_is_refused():
    with pytest.raises(ValueError, match=r"Numbers\(batches_before=-1\): expected at least 0, as Numbers\(batches_before=5\)"):
        Numbers(batches_before=-1)
    assert Numbers(batches_before=5, parts=Parts({"head": "head"})).batches_before == 5


def test_after_a_glance_the_next_look_is_the_runs(tmp_path):
    """Parts, concepts and history go on as without it."""
    nets = [plain_net(), plain_net()]
    nets[1].load_state_dict(nets[0].state_dict())
    runs = [watcher(net, tmp_path / str(i), concepts=2) for i, net in enumerate(nets)]
    for i, watching in enumerate(runs):
        watching.look(0)
        if i:
            glance(watching)
        watching.compute(Moment(1, "one", "1", epoch=1.0))
    first, second = (watching.history[TAG].looks for watching in runs)
    assert len(first) == len(second) == 2
    assert all(torch.equal(a.heat, b.heat) for a, b in zip(first, second, strict=True))
