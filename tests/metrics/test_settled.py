"""Since when maps stay where they are: closed forms on earlier looks made by hand, and whole runs."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from nets import STRICT, Net, cam, fit
from plain import plain_net, watcher
from torch import nan

from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.metrics import settled_at
from lightning_cam.record import Earlier, Moment
from lightning_cam.targets import find

pytestmark = STRICT

FLOOR = 0.05


def turned(distance, b=2):
    """Maps of two cells, at this cosine distance from (1, 0)."""
    cosine = 1 - distance
    return torch.tensor([[[cosine, math.sqrt(1 - cosine**2)]]], dtype=torch.float64).expand(b, 1, 2)


def settled(distances, noise=FLOOR, epochs=None, b=2, now=None):
    """Since when, where each look is so far from the last; a list of maps is taken as it is."""
    past = [value if isinstance(value, torch.Tensor) else turned(value, b) for value in distances]
    epochs = tuple(float(i) for i in range(len(past) + 1)) if epochs is None else epochs
    noise = torch.full((b,), noise, dtype=torch.float64) if isinstance(noise, float) else noise
    now = turned(0.0, b) if now is None else now
    stacked = torch.stack(past) if past else None
    earlier = Earlier(now, looks=len(past), past=stacked, epochs=epochs, noise=noise)
    with open_session(plain_net(), ["relu"]) as session:
        forward = session.forward(torch.rand(b, 3, 8, 8), find(0))
        value = settled_at(torch.rand(b, 1, 2, dtype=torch.float64), Seen(forward, "relu", 0, earlier))
    return None if value is None else value.tolist()


def test_it_is_the_first_look_from_which_on_all_are_near():
    assert settled([0.9, 0.5, 0.2, 0.04, 0.01, 0.03]) == [3.0, 3.0]


def test_a_look_that_was_near_before_maps_moved_again_does_not_count():
    assert settled([0.9, 0.01, 0.02, 0.6, 0.01]) == [4.0, 4.0]


def test_while_maps_still_move_it_is_the_present_epoch():
    assert settled([0.01, 0.01, 0.01, 0.06]) == [4.0, 4.0]
    assert settled([0.9, 0.5, 0.2]) == [3.0, 3.0]


def test_maps_that_never_moved_settled_at_the_first_look():
    assert settled([0.01, 0.04, 0.02]) == [0.0, 0.0]
    assert settled([]) == [0.0, 0.0]


def test_at_the_floor_is_within_it():
    maps = turned(0.25)
    exact = float((1 - torch.nn.functional.cosine_similarity(maps.flatten(1), turned(0.0).flatten(1)))[0])
    assert settled([0.9, maps], exact + 1e-12) == [1.0, 1.0]
    assert settled([0.9, maps], exact - 1e-9) == [2.0, 2.0]
    same = turned(0.0)
    assert settled([0.9, same, same], 0.0) == [1.0, 1.0]


def test_it_is_told_in_epochs():
    assert settled([0.9, 0.01, 0.01], epochs=(0.0, 2.0, 4.0, 6.0)) == [2.0, 2.0]
    assert settled([0.9, 0.5], epochs=(0.0, 0.25, 0.5)) == [0.5, 0.5]
    assert settled([0.01], epochs=(3.0, 4.0)) == [3.0, 3.0]


def test_it_is_the_mean_over_samples_that_is_compared():
    apart = torch.cat([turned(0.09, 1), turned(0.0, 1)])  # 0.045 in the mean
    assert settled([0.9, apart, apart]) == [1.0, 1.0]
    assert settled([0.9, apart, apart], 0.04) == [3.0, 3.0]
    floors = torch.tensor([0.01, 0.09], dtype=torch.float64)
    assert settled([0.9, 0.04, 0.04], floors) == [1.0, 1.0]


def test_what_is_not_known_of_a_sample_is_left_out_of_the_mean():
    unknown = torch.cat([turned(0.01, 1), torch.full((1, 1, 2), nan)])
    assert settled([0.9, unknown, unknown]) == [1.0, 1.0]
    floors = torch.tensor([nan, FLOOR], dtype=torch.float64)
    assert settled([0.9, 0.01, 0.01], floors) == [1.0, 1.0]


def test_a_look_of_which_nothing_is_known_is_not_within():
    unknown = torch.full((2, 1, 2), nan)
    assert settled([0.01, 0.01, unknown, 0.01]) == [3.0, 3.0]
    assert settled([unknown, unknown]) == [2.0, 2.0]
    assert settled([0.01], now=unknown) == [1.0, 1.0]


def test_without_a_floor_or_epochs_it_is_not_measured():
    assert settled([0.01], None) is None
    assert settled([0.01], torch.full((2,), nan, dtype=torch.float64)) is None
    assert settled([0.01], epochs=()) is None
    assert settled([0.01, 0.01], epochs=(None, 1.0, 2.0)) is None  # out of an older checkpoint


def test_outside_a_run_it_is_not_measured(tmp_path):
    watching = watcher(plain_net(), tmp_path, metrics=["settled_at", "drift_floor"])
    (record,) = watching.compute(Moment(0, "test", "test", fitting=False)).records
    assert not record.values


def test_a_loop_without_a_trainer_tells_it_in_steps(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, metrics=["settled_at", "drift_floor"])
    told = []
    for step in (0, 10, 20, 30):
        if step == 10:
            with torch.no_grad():
                net.last.weight.neg_()
                net.last.bias.add_(1)
        (record,) = watching.look(step)
        told.append(record.values["settled_at"].nanmean().item())
    assert told == [0.0, 10.0, 10.0, 10.0]


def test_where_samples_have_no_evidence_it_is_not_told_of_them(tmp_path):
    def planned(seen):
        heat = seen.activation.mean(1)
        heat[1] = 0
        return heat

    (record,) = watcher(plain_net(), tmp_path, method=planned, metrics=["settled_at", "drift_floor"]).look(0)
    assert record.values["settled_at"][:, 0].tolist() == pytest.approx([0, nan, 0, 0], nan_ok=True)


def epochs_of(callback):
    """What is told at each look."""
    told = []
    callback.watcher.observers.append(lambda result: told.append(result.records[0].values["settled_at"].nanmean().item()))
    return told


class Frozen(Net):
    """Nothing is trained."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def test_of_a_net_that_is_not_trained_it_is_the_beginning(tmp_path):
    callback = cam(on_error="raise")
    told = epochs_of(callback)
    run = fit(tmp_path, callback, Frozen(), max_epochs=3)
    assert told == [0.0] * 4
    assert run.callback_metrics["cam/settled_at"] == 0


class Stopping(Callback):
    """No step changes the weights any more, from the end of the second epoch on."""

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 1:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 0.0


def test_of_a_net_whose_training_stops_it_is_no_later_than_that(tmp_path):
    callback = cam(on_error="raise", metrics=["drift", "drift_floor", "settled_at"])
    told = epochs_of(callback)
    run = fit(tmp_path, [Stopping(), callback], max_epochs=5)
    assert len(told) == 6 and told[-1] <= 2
    assert run.callback_metrics["cam/settled_at"] == told[-1]


def test_a_net_with_a_large_rate_is_still_moving(tmp_path):
    net = Net()
    callback = cam(on_error="raise", metrics=["drift_floor", "settled_at"])
    told = epochs_of(callback)

    class Turning(Callback):
        def on_train_epoch_end(self, trainer, module):
            with torch.no_grad():
                module.head.weight.neg_()

    fit(tmp_path, [Turning(), callback], net, max_epochs=3)
    assert told == [0.0, 1.0, 2.0, 3.0]


def test_early_stopping_and_checkpoints_read_it(tmp_path):
    stopping = EarlyStopping("cam/settled_at", patience=2, mode="max", min_delta=0.5)
    saving = ModelCheckpoint(tmp_path, "{epoch}-{cam/settled_at:.1f}", monitor="cam/settled_at", mode="min")
    callback = cam(on_error="raise", metrics=["drift_floor", "settled_at"])
    told = epochs_of(callback)
    run = fit(tmp_path, [callback, Stopping(), stopping, saving], max_epochs=12, enable_checkpointing=True)
    assert run.current_epoch < 12  # for it stays behind
    assert stopping.best_score == max(told[1:])
    assert saving.best_model_score == min(told[1:])


def test_it_goes_on_after_a_break(tmp_path):
    net = plain_net()
    whole = watcher(net, tmp_path, metrics=["settled_at", "drift_floor"])
    for step in range(3):
        whole.look(step)
        if step < 2:
            with torch.no_grad():
                net.head.weight.neg_()
    resumed = watcher(net, tmp_path, metrics=["settled_at", "drift_floor"])
    resumed.load_state_dict(whole.state_dict())
    for step in (3, 4):
        (record,) = resumed.look(step)
        assert record.values["settled_at"].nanmean() == 2
