"""PatchMap in a run: the numbers of this very validation, its picture in the tracker, and no trace in the training."""

import csv
import functools
import math
import warnings
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from events import read_events
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from nets import STRICT, Diary, trainer
from slides import Grader, Slides, by_hand, cells, fit, patch_map, slides
from torch.utils.data import DataLoader
from traces import differences, traced

from lightning_cam import Schedule
from lightning_cam.patches import score_patches

pytestmark = STRICT


def test_the_numbers_are_those_of_the_validation_of_this_epoch(tmp_path):
    callback, net = patch_map(), Grader()
    run = fit(tmp_path, [callback], net)
    expected = by_hand(net)
    scores = score_patches(expected)
    assert callback.table.patients == ("s9", "s10", "s11") == expected.patients
    assert float(run.callback_metrics["patches/auc"]) == pytest.approx(float(scores.auc.mean()), abs=1e-6)
    assert float(run.callback_metrics["patches/dice"]) == pytest.approx(float(scores.dice.mean()), abs=1e-6)
    assert float(run.callback_metrics["patches/auc_defined"]) == 1


def test_every_patch_is_in_the_table_once_with_its_own_probability(tmp_path):
    callback, net = patch_map(), Grader()
    fit(tmp_path, [callback], net, val=slides(size=7))
    expected = by_hand(net)
    assert cells(callback.table) == cells(expected) and len(callback.table) == len(Slides())


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches")
    logger = TensorBoardLogger(folder)
    run = fit(folder, [patch_map(per_patient=True)], logger=logger, max_epochs=3)
    return run, read_events(logger.log_dir)


def test_pictures_stand_at_the_steps_of_lightnings_own_validation_scalars(tensorboard):
    _, found = tensorboard
    steps = [event.step for event in found.Scalars("val_loss")]
    assert len(steps) == 3
    for events in (found.Images("patches/map"), found.Scalars("patches/auc"), found.Scalars("patches/dice/s9")):
        assert [event.step for event in events] == steps
    metadata = found.SummaryMetadata("patches/map").summary_description
    assert "| white | no patch |" in metadata and "probability of positive" in metadata


def test_files_are_written_where_no_logger_takes_pictures(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(tmp_path, [patch_map()], logger=logger)
    assert len(list(tmp_path.rglob("patches/map/step_*.jpg"))) == 2
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        told = [row["patches/dice"] for row in csv.DictReader(file) if row["patches/dice"]]
    assert len(told) == 2


def test_checkpoints_and_early_stopping_monitor_this_very_epoch(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", monitor="patches/auc", mode="max", save_top_k=-1)
    stopping = EarlyStopping("patches/auc", mode="max", patience=1, min_delta=2.0)
    run = fit(tmp_path, [patch_map(), checkpoint, stopping], max_epochs=5, enable_checkpointing=True)
    assert run.current_epoch == 2  # nothing gains by two
    (last,) = tmp_path.glob("epoch=1.ckpt")
    net = Grader()
    net.load_state_dict(torch.load(last, weights_only=False)["state_dict"])
    assert float(checkpoint.best_k_models[str(last)]) == pytest.approx(float(score_patches(by_hand(net)).auc.mean()), abs=1e-6)


TRACES = {
    "plain": (dict(), dict(), dict()),
    "parts": (dict(), dict(call="parts"), dict()),
    "output": (dict(output="logits"), dict(returns="dict"), dict()),
    "no_sanity_check": (dict(per_patient=True), dict(), dict(num_sanity_val_steps=0)),
    "accumulation": (dict(), dict(classes=1), dict(accumulate_grad_batches=2, val_check_interval=2)),
    "bf16": (dict(), dict(), dict(precision="bf16-mixed")),
}


class Gambler(Diary):
    """A tracker that draws."""

    def log_image(self, key, images, step=None):
        torch.rand(3)
        np.random.rand()


@pytest.mark.parametrize("case", TRACES)
def test_training_is_bit_identical(case, tmp_path):
    options, net, more = TRACES[case]
    runs = []
    for name, callbacks in (("with", [patch_map(**options)]), ("without", [])):
        made = functools.partial(Grader, **net), functools.partial(slides, shuffle=True), slides
        runs.append(traced(tmp_path / name, callbacks, *made, logger=Gambler(), **more))
    for run in runs:
        for i, (_, state) in enumerate(run.states):
            for kind in ("metrics", "logged"):
                run.states[i][1][kind] = {k: v for k, v in state[kind].items() if not k.startswith("patches")}
    found = differences(*runs)
    # while a step runs there are hooks in, which only read; they are out when it has
    assert all(line.startswith("hooks ") and "on_validation_batch_start" in line for line in found), found
    assert {k: v for k, v in runs[0].states[-1][1].items() if k.startswith("hooks")} == {
        k: v for k, v in runs[1].states[-1][1].items() if k.startswith("hooks")
    }


def hooks(net):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


def test_hooks_are_out_after_an_exception_in_the_step(tmp_path):
    class Fails(Grader):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            assert hooks(self) > 0
            raise RuntimeError("its own")

    net = Fails()
    with pytest.raises(RuntimeError, match="its own"):
        fit(tmp_path, [patch_map()], net)
    assert hooks(net) == 0


def test_nothing_is_collected_where_it_is_not_due(tmp_path):
    tables = []

    class Watch(L.Callback):
        def on_validation_epoch_end(self, run, module):
            tables.append((run.sanity_checking, callback.table is not None, hooks(module)))

    callback = patch_map(schedule=Schedule(every_n_epochs=2))
    fit(tmp_path, [callback, Watch()], max_epochs=2)
    assert tables == [(True, False, 0), (False, False, 0), (False, True, 0)]


def test_validate_and_test_by_themselves(tmp_path):
    callback, net = patch_map(), Grader()
    run = trainer(tmp_path, [callback])
    (numbers,) = run.validate(net, slides(), verbose=False)
    assert numbers["patches/auc"] == pytest.approx(float(score_patches(by_hand(net)).auc.mean()), abs=1e-6)
    (numbers,) = run.test(net, slides(), verbose=False)
    assert set(numbers) >= {"patches_test/auc", "patches_test/dice"}
    assert {path.parent.parent.name for path in tmp_path.rglob("step_*.jpg")} == {"patches", "patches_test"}


def test_one_of_several_loaders_is_read(tmp_path):
    callback = patch_map(loader=1)
    other = DataLoader([{"image": torch.rand(3, 8, 8), "target": 0}] * 4, 2)
    fit(tmp_path, [callback], val=[other, slides()])
    assert len(callback.table) == len(Slides())
    with pytest.raises(ValueError, match=r"no batch of validation loader 2 passed by; name another: PatchMap\(loader=0\)"):
        fit(tmp_path, [patch_map(loader=2)])


def test_a_mistake_raises_in_the_sanity_check_before_any_step(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'patient_id'"):
        fit(tmp_path, [patch_map(patient="patient")])
    net = Grader()
    with pytest.raises(ValueError, match="has no such entry; it is a dict of loss, logits, mine, losses"):
        fit(tmp_path, [patch_map(output="logit")], Grader(returns="dict"))
    assert hooks(net) == 0


def test_a_mistake_that_shows_after_training_began_is_one_warning_and_the_run_goes_on(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fit(tmp_path, [patch_map(patient="patient")], num_sanity_val_steps=0, max_epochs=3)
    own = [str(one.message) for one in caught if "PatchMap" in str(one.message)]
    assert len(own) == 1 and "the map of patches failed and is left out, training goes on" in own[0]
    assert run.current_epoch == 3 and "patches/auc" not in run.callback_metrics
    with pytest.raises(ValueError, match="Did you mean"):
        fit(tmp_path, [patch_map(patient="patient", on_error="raise")], num_sanity_val_steps=0)


def test_a_picture_that_fails_costs_only_itself(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("no ink")

    monkeypatch.setattr("lightning_cam.callbacks.patch_map.patch_map", broken)
    with pytest.warns(UserWarning, match="the picture failed and is left out, training goes on: RuntimeError: no ink"):
        run = fit(tmp_path, [patch_map()])
    assert 0 <= float(run.callback_metrics["patches/auc"]) <= 1


def test_a_patch_that_comes_twice_counts_once(tmp_path):
    data = Slides()
    callback = patch_map()
    fit(tmp_path, [callback], val=DataLoader(torch.utils.data.Subset(data, [*range(len(data)), 0, 1, 2]), 16))
    assert len(callback.table) == len(data)


def test_fast_dev_run_computes_and_writes_nothing(tmp_path):
    callback = patch_map()
    fit(tmp_path, [callback], fast_dev_run=2)
    assert callback.table is not None and not list(tmp_path.rglob("*.jpg"))


def test_where_nobody_has_a_label_the_numbers_are_nan_and_the_run_goes_on(tmp_path):
    callback = patch_map(target=lambda batch: batch["target"] * 0 - 1)
    run = fit(tmp_path, [callback])
    assert math.isnan(float(run.callback_metrics["patches/auc"])) and float(run.callback_metrics["patches/auc_defined"]) == 0


def test_a_new_run_begins_anew_and_two_callbacks_stand_side_by_side(tmp_path):
    first, second = patch_map(), patch_map(tag="mine", output="mine")
    run = fit(tmp_path, [first, second], Grader(returns="dict"))
    assert float(run.callback_metrics["patches/auc"]) == float(run.callback_metrics["mine/auc"])
    with pytest.raises(ValueError, match="tag='/x': expected a name such as 'patches'"):
        patch_map(tag="/x")
