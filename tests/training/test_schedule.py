"""When the callback looks."""

import lightning.pytorch as L
import pytest
import torch
from events import read_events
from lightning.pytorch.loggers import TensorBoardLogger
from nets import BOXES, STRICT, Net, Quiet, cam, fit, loader, trainer
from watching import watched

from lightning_cam import Schedule

pytestmark = STRICT


def looks(folder, **options):
    schedule = options.pop("schedule", Schedule())
    callback = cam(schedule=schedule)
    moments = watched(callback)
    fit(folder, callback, **options)
    return [moment.title for moment in moments]


def test_it_looks_before_training_and_at_every_validation_end(tmp_path):
    assert looks(tmp_path, max_epochs=3) == ["before training", "epoch 1", "epoch 2", "epoch 3"]


@pytest.mark.parametrize("sanity", [0, 2, -1])
def test_the_sanity_check_is_not_a_look(sanity, tmp_path):
    assert looks(tmp_path, num_sanity_val_steps=sanity) == ["before training", "epoch 1", "epoch 2"]


def test_the_baseline_sees_the_weights_before_the_first_step(tmp_path):
    callback, net = cam(), Net()
    untouched = {k: v.clone() for k, v in net.state_dict().items()}
    seen: list = []
    callback.watcher.observers.append(lambda result: seen.append({k: v.clone() for k, v in net.state_dict().items()}))
    fit(tmp_path, callback, net)
    assert all(torch.equal(seen[0][k], v) for k, v in untouched.items())
    assert not torch.equal(seen[1]["head.weight"], untouched["head.weight"])


def test_the_baseline_is_taken_where_no_loader_exists_yet(tmp_path):
    found = looks(tmp_path, check_val_every_n_epoch=2, num_sanity_val_steps=0, max_epochs=4)
    assert found == ["before training", "epoch 2", "epoch 4"]


def test_the_baseline_can_be_left_out(tmp_path):
    assert looks(tmp_path, schedule=Schedule(baseline=False)) == ["epoch 1", "epoch 2"]


def test_every_n_epochs(tmp_path):
    found = looks(tmp_path, schedule=Schedule(every_n_epochs=2), max_epochs=5)
    assert found == ["before training", "epoch 2", "epoch 4"]


def test_two_validations_an_epoch_are_two_looks_at_their_own_steps(tmp_path):
    callback = cam()
    moments = watched(callback)
    fit(tmp_path, callback, val_check_interval=0.5)
    assert [m.title for m in moments] == ["before training", "epoch 0.5", "epoch 1", "epoch 1.5", "epoch 2"]
    assert len({m.step for m in moments}) == 5


ONE_STEP = dict(limit_train_batches=1)
BEFORE_A_STEP = dict(limit_train_batches=4, accumulate_grad_batches=4, val_check_interval=2)
# Lightning's own step of the first look is the baseline's
COLLIDING = {
    "an epoch of one step": ("auto", ONE_STEP),
    "several batches one step": ("auto", dict(limit_train_batches=4, accumulate_grad_batches=4)),
    "after every step": ("auto", dict(limit_train_batches=2, val_check_interval=1)),
    "no validation": ("auto", dict(limit_train_batches=1, limit_val_batches=0)),
    "before the first step": ("auto", BEFORE_A_STEP),
    "before the first step, by optimizer steps": ("global_step", BEFORE_A_STEP),
}


@pytest.mark.parametrize(("step", "options"), COLLIDING.values(), ids=COLLIDING)
def test_no_look_takes_the_step_of_another(step, options, tmp_path):
    callback = cam(schedule=Schedule(step=step))
    moments = watched(callback)
    fit(tmp_path, callback, **options)
    steps = [moment.step for moment in moments]
    assert moments[0].title == "before training" and len(steps) > 2
    assert steps == list(range(len(moments)))
    assert sheets(tmp_path) == [f"step_{i:06d}.jpg" for i in steps]


def sheets(folder):
    return sorted(path.name for path in folder.rglob("grad_cam/step_*.jpg"))


def test_tensorboard_has_a_step_for_each_look(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, cam(), logger=logger, **ONE_STEP)
    assert [event.step for event in read_events(logger.log_dir).Images("cam/relu/grad_cam")] == [0, 1, 2]


def test_a_resumed_run_and_a_validation_take_no_step_of_the_run_before(tmp_path):
    fit(tmp_path, cam(), **ONE_STEP).save_checkpoint(tmp_path / "two.ckpt")
    resumed = cam()
    moments = watched(resumed)
    run = trainer(tmp_path, [resumed], max_epochs=3, **ONE_STEP)
    run.fit(Net(), loader(24, size=4), loader(), ckpt_path=tmp_path / "two.ckpt")
    run.validate(Net(), loader(), verbose=False)
    assert [(moment.step, moment.title) for moment in moments] == [(3, "epoch 3"), (4, "validate")]
    assert sheets(tmp_path) == [f"step_{i:06d}.jpg" for i in range(5)]


def test_by_epoch_the_last_look_of_each_stays(tmp_path):
    callback = cam(schedule=Schedule(step="epoch"))
    moments = watched(callback)
    fit(tmp_path, callback, val_check_interval=0.5)
    assert [moment.step for moment in moments] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("how", ["limit", "no loader", "no step"])
def test_without_validation_it_looks_at_the_training_set_after_each_epoch(how, tmp_path):
    class NoValidation(Net):
        validation_step = L.LightningModule.validation_step

    callback = cam(on_error="raise")
    moments = watched(callback)
    origins: list = []
    callback.watcher.observers.append(lambda result: origins.append(result.batch.origin))
    net, options = (NoValidation() if how == "no step" else Net()), dict(limit_val_batches=0) if how == "limit" else {}
    fit(tmp_path, callback, net, val="none" if how == "no loader" else loader(), **options)
    assert [m.title for m in moments] == ["before training", "epoch 1", "epoch 2"]
    assert set(origins) == {"training set, indices 0, 1, 2, 3"}


@pytest.mark.parametrize("entry", ["validate", "test"])
@pytest.mark.parametrize("inference", [True, False])
def test_validate_and_test_look_once(entry, inference, tmp_path):
    callback, logger = cam(layer=["trunk", "relu"], batch=BOXES), TensorBoardLogger(tmp_path)
    moments = watched(callback)
    run = trainer(tmp_path, [callback], inference_mode=inference, logger=logger)
    getattr(run, entry)(Net(), loader(form="dict"), verbose=False)
    assert [m.title for m in moments] == [entry]
    tag = "cam_test" if entry == "test" else "cam"
    assert set(read_events(logger.log_dir).Tags()["images"]) == {f"{tag}/trunk/grad_cam", f"{tag}/relu/grad_cam"}
    assert f"{tag}/trunk/grad_cam/energy_inside" in run.callback_metrics


def test_predict_is_left_alone(tmp_path):
    class Predicts(Net):
        def predict_step(self, batch, batch_idx):
            return self(batch[0])

    callback = cam()
    moments = watched(callback)
    trainer(tmp_path, [callback]).predict(Predicts(), loader())
    assert moments == [] and not list(tmp_path.rglob("*.jpg"))


def test_a_fit_then_validate_then_test_with_one_trainer(tmp_path):
    callback = cam(batch=BOXES)
    moments = watched(callback)
    run, data = trainer(tmp_path, [callback]), loader(form="dict")
    net = Net()
    run.fit(net, data, data)
    run.validate(net, data, verbose=False)
    run.test(net, data, verbose=False)
    assert [m.title for m in moments] == ["before training", "epoch 1", "epoch 2", "validate", "test"]
    assert callback.history["relu/grad_cam"].titles == ["start", "1", "2"]


def test_a_second_fit_from_scratch_begins_a_new_history(tmp_path):
    callback = cam()
    for _ in range(2):
        fit(tmp_path, callback)
        assert callback.history["relu/grad_cam"].titles == ["start", "1", "2"]


@pytest.mark.parametrize("steps", [True, 3])
def test_fast_dev_run_is_one_look_of_two_samples_and_writes_nothing(steps, tmp_path):
    callback = cam()
    moments = watched(callback)
    sizes: list = []
    callback.watcher.observers.append(lambda result: sizes.append(len(result.batch)))
    fit(tmp_path, callback, fast_dev_run=steps)
    assert len(moments) == 1 and sizes == [2]
    assert not list(tmp_path.rglob("*.*"))


def test_barebones_runs_and_looks(tmp_path):
    callback = cam()
    moments = watched(callback)
    run = trainer(tmp_path, [callback], barebones=True)
    run.fit(Quiet(), loader(24, size=4), loader())
    assert len(moments) >= 2 and run.global_step == 12
