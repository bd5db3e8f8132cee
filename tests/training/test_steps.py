"""Looks by optimizer steps: when, at which step of the axis, what is logged, and no trace."""

import itertools
import math

import lightning.pytorch as L
import pytest
import torch
from events import read_events
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from nets import STRICT, Net, cam, fit, loader, trainer
from watching import watched

from lightning_cam import Schedule

pytestmark = STRICT

BY_STEPS = Schedule(every_n_epochs=0, every_n_steps=4)


def looks(folder, schedule, **options):
    """When a run of two epochs of six batches looked."""
    callback = cam(schedule=schedule, on_error="raise")
    moments = watched(callback)
    run = fit(folder, callback, num_sanity_val_steps=0, **{"max_epochs": 2} | options)
    return [(moment.step, moment.title) for moment in moments], run, callback


def test_a_look_after_every_nth_step(tmp_path):
    told, _, callback = looks(tmp_path, BY_STEPS)
    # the step of Lightning's own training scalars of that batch, which counts from 0
    assert told == [(0, "before training"), (3, "epoch 0.67"), (7, "epoch 1.33"), (11, "epoch 2")]
    assert [look.title for look in callback.history["relu/grad_cam"].looks] == ["start", "0.67", "1.33", "2"]


def test_epochs_are_looked_at_too_unless_they_are_left_out(tmp_path):
    told, _, _ = looks(tmp_path, Schedule(every_n_steps=4))
    titles = [title for _, title in told]
    assert titles == ["before training", "epoch 0.67", "epoch 1", "epoch 1.33", "epoch 2", "epoch 2"]
    assert len({step for step, _ in told}) == len(told)


def test_steps_are_optimizer_steps_and_not_batches(tmp_path):
    told, run, _ = looks(tmp_path, Schedule(every_n_epochs=0, every_n_steps=2), accumulate_grad_batches=2)
    assert run.global_step == 6
    assert [title for _, title in told] == ["before training", "epoch 0.67", "epoch 1.33", "epoch 2"]


class TwoSteps(Net):
    """Two optimizer steps a batch, by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            optimizer.step()


def test_a_batch_of_several_steps_is_looked_at_once(tmp_path):
    callback = cam(schedule=Schedule(every_n_epochs=0, every_n_steps=3), on_error="raise")
    moments = watched(callback)
    run = fit(tmp_path, callback, TwoSteps(), num_sanity_val_steps=0, max_epochs=1)
    assert run.global_step == 12
    # behind steps 4, 6, 10 and 12, where 3, 6, 9 and 12 are passed
    assert [moment.title for moment in moments] == ["before training", "epoch 0.33", "epoch 0.5", "epoch 0.83", "epoch 1"]


def test_pictures_and_numbers_stand_at_the_steps_of_lightnings_own_training_scalars(tmp_path):
    class Telling(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("told", loss)
            return loss

    logger = TensorBoardLogger(tmp_path)
    callback = cam(schedule=BY_STEPS, metrics=["strength"], on_error="raise")
    # of Lightning's own numbers only every fourth batch is written; those of a look all are
    fit(tmp_path, callback, Telling(), logger=logger, num_sanity_val_steps=0, max_epochs=2, log_every_n_steps=4)
    events = read_events(logger.log_dir)
    own = [event.step for event in events.Scalars("told")]
    assert [event.step for event in events.Images("cam/relu/grad_cam")] == [0, *own] == [0, 3, 7, 11]
    assert [event.step for event in events.Scalars("cam/strength")] == [0, *own]


def test_numbers_are_written_whatever_lightning_leaves_out(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    callback = cam(schedule=BY_STEPS, metrics=["strength"])
    fit(tmp_path, callback, logger=logger, num_sanity_val_steps=0, max_epochs=2, log_every_n_steps=50)
    points = read_events(logger.log_dir).Scalars("cam/strength")
    assert [event.step for event in points] == [0, 3, 7, 11]
    told = [look.heat.flatten(1).float().amax(1).mean() for look in callback.history["relu/grad_cam"].looks]
    assert [event.value for event in points] == pytest.approx([float(value) for value in told], rel=2e-2)


def test_a_checkpoint_by_steps_is_chosen_by_the_value_of_its_step(tmp_path):
    values = []

    def counted(heat, seen):
        values.append(float(len(values)))
        return torch.full((len(heat),), values[-1])

    best = ModelCheckpoint(tmp_path, monitor="cam/counted", mode="max", every_n_train_steps=4, save_top_k=1, filename="{step}")
    callback = cam(schedule=BY_STEPS, metrics=[counted], on_error="raise")
    run = fit(tmp_path, [callback, best], num_sanity_val_steps=0, max_epochs=2, enable_checkpointing=True)
    assert run.callback_metrics["cam/counted"] == values[-1] == 3
    assert float(best.best_model_score) == 3 and "step=12" in best.best_model_path


def test_a_resumed_run_goes_on_counting(tmp_path):
    first = cam(schedule=BY_STEPS, on_error="raise")
    run = fit(tmp_path, first, num_sanity_val_steps=0, max_epochs=1)
    run.save_checkpoint(tmp_path / "half.ckpt")
    second = cam(schedule=BY_STEPS, on_error="raise")
    moments = watched(second)
    whole = trainer(tmp_path, [second], max_epochs=2, num_sanity_val_steps=0)
    whole.fit(Net(), loader(24, size=4, shuffle=True), loader(), ckpt_path=tmp_path / "half.ckpt")
    assert [moment.title for moment in moments] == ["epoch 1.33", "epoch 2"]
    assert [look.title for look in second.history["relu/grad_cam"].looks] == ["start", "0.67", "1.33", "2"]


def test_without_validation_there_are_looks_by_steps(tmp_path):
    told, _, _ = looks(tmp_path, BY_STEPS, limit_val_batches=0)
    assert [title for _, title in told] == ["before training", "epoch 0.67", "epoch 1.33", "epoch 2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(every_n_steps=-1), r"every_n_steps=-1\): expected at least 1, or 0"),
        (dict(every_n_epochs=0), r"every_n_epochs=0\): expected at least 1; for looks by steps alone write Schedule\("),
        (dict(every_n_epochs=-1, every_n_steps=5), r"every_n_epochs=-1\): expected at least 1"),
    ],
)
def test_what_is_no_schedule_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**options)
    assert Schedule(every_n_epochs=0, every_n_steps=500).every_n_steps == 500


@pytest.mark.parametrize("n", [1, 3, 7])
def test_each_multiple_is_passed_once(n):
    plan, counts = Schedule(every_n_steps=n), [0, 0, 2, 3, 3, 7, 8, 14, 21]
    due = [plan.due_by_steps(before, now) for before, now in itertools.pairwise(counts)]
    assert due == [math.floor(now / n) > math.floor(before / n) for before, now in itertools.pairwise(counts)]
    assert not Schedule().due_by_steps(0, 10**6)


def test_a_look_by_steps_leaves_the_training_as_it_is(tmp_path):
    """The module is in training mode again, and gradients that are gathered are still there."""
    modes = []

    class Watching(Net):
        def on_before_optimizer_step(self, optimizer):
            modes.append((self.training, self.head.weight.grad.clone()))

    runs = []
    for callback in (cam(schedule=Schedule(every_n_steps=1), on_error="raise"), None):
        modes.clear()
        L.seed_everything(0, verbose=False)
        fit(tmp_path, callback, Watching(norm=True, dropout=0.2), max_epochs=1, accumulate_grad_batches=2)
        runs.append(list(modes))
    assert len(runs[0]) == len(runs[1]) == 3
    for (training, grad), (_, expected) in zip(*runs, strict=True):
        assert training and torch.equal(grad, expected)
