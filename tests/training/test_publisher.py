"""What a run leaves in the tracker: where pictures and numbers stand, and what follows from the numbers."""

import csv
from pathlib import Path

import pytest
import torch
from events import read_events
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from nets import BOXES, STRICT, boxed_fit, cam, fit
from watching import watched

from lightning_cam import Schedule

pytestmark = STRICT


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory):
    """Three epochs with boxes under TensorBoard: the Trainer and its event file."""
    folder = tmp_path_factory.mktemp("tensorboard")
    logger = TensorBoardLogger(folder)
    run = boxed_fit(folder, cam("trunk", "activation_mean", batch=BOXES), logger=logger, max_epochs=3)
    return run, read_events(logger.log_dir)


def test_pictures_stand_at_the_steps_of_lightnings_own_validation_scalars(tensorboard):
    _, found = tensorboard
    own = [e.step for e in found.Scalars("val_loss")]
    assert len(own) == 3
    for tag in ("cam/trunk/activation_mean", "cam/trunk/activation_mean/filmstrip"):
        assert [e.step for e in found.Images(tag)] == [0, *own]
    assert [e.step for e in found.Scalars("cam/energy_inside")] == [0, *own]


@pytest.mark.parametrize(
    "options", [dict(val_check_interval=0.5), dict(accumulate_grad_batches=4), dict(check_val_every_n_epoch=2, max_epochs=4)]
)
def test_pictures_stand_at_lightnings_steps_in_other_rhythms_too(options, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, cam(schedule=Schedule(baseline=False)), logger=logger, **options)
    found = read_events(logger.log_dir)
    own = [e.step for e in found.Scalars("val_loss")]
    assert len(own) >= 2 and [e.step for e in found.Images("cam/relu/grad_cam")] == own


def test_without_validation_pictures_stand_at_the_steps_of_training_epoch_scalars(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, cam(schedule=Schedule(baseline=False)), logger=logger, limit_val_batches=0)
    found = read_events(logger.log_dir)
    own = [e.step for e in found.Scalars("train_loss_epoch")]
    assert len(own) == 2 and [e.step for e in found.Images("cam/relu/grad_cam")] == own


@pytest.mark.parametrize(("step", "expected"), [("epoch", [0, 1, 2]), ("global_step", [0, 6, 12])])
def test_the_step_can_be_the_epoch_or_the_global_step(step, expected, tmp_path):
    callback = cam(schedule=Schedule(step=step))
    moments = watched(callback)
    fit(tmp_path, callback)
    assert [m.step for m in moments] == expected


def test_pictures_are_jpegs_with_a_description(tensorboard):
    _, found = tensorboard
    image = found.Images("cam/trunk/activation_mean")[0]
    assert image.encoded_image_string[:3] == b"\xff\xd8\xff" and image.width > 32 and image.height > 32
    about = found.SummaryMetadata("cam/trunk/activation_mean").summary_description
    for said in ("`trunk`", "`activation_mean`", "`label`", "4 samples, validation set, indices 0, 1, 2, 3"):
        assert said in about
    assert found.SummaryMetadata("cam/trunk/activation_mean/filmstrip").summary_description


def test_the_baselines_number_is_in_the_tracker_and_not_in_the_first_epochs_mean(tmp_path):
    def counted(heat, seen):
        counted.calls += 1
        return torch.full((len(heat),), float(counted.calls))

    counted.calls, logger = 0, TensorBoardLogger(tmp_path)
    fit(tmp_path, cam(metrics=[counted]), logger=logger)
    assert [(e.step, e.value) for e in read_events(logger.log_dir).Scalars("cam/counted")] == [(0, 1.0), (5, 2.0), (11, 3.0)]


def test_tags_name_layer_and_method_where_there_are_several(tmp_path):
    methods = ["activation_mean", {"activation_mean": {"channels": [0, 2]}}]
    run = boxed_fit(tmp_path, cam(layer=["trunk.0", "last"], method=methods, batch=BOXES, tag="gaze"))
    expected = {f"gaze/{layer}/{m}" for layer in ("trunk.0", "last") for m in ("activation_mean", "activation_mean_0_2")}
    assert {k.rpartition("/")[0] for k in run.callback_metrics if k.endswith("energy_inside")} == expected
    assert all((tmp_path / tag).is_dir() for tag in expected)


def test_a_metric_can_be_monitored_for_the_best_checkpoint(tmp_path):
    scores = iter([9.0, 0.1, 0.7, 0.3])

    def planned(heat, seen):
        return torch.full((len(heat),), next(scores))

    best = ModelCheckpoint(tmp_path, "{epoch}", monitor="cam/planned", mode="max")
    fit(tmp_path, [cam(metrics=[planned]), best], max_epochs=3, enable_checkpointing=True)
    assert best.best_model_path.endswith("epoch=1.ckpt") and best.best_model_score == pytest.approx(0.7)


def test_a_metric_can_stop_the_run_early(tmp_path):
    scores = iter([9.0, 0.5, 0.4, 0.3, 0.2, 0.1])

    def planned(heat, seen):
        return torch.full((len(heat),), next(scores))

    run = fit(tmp_path, [cam(metrics=[planned]), EarlyStopping("cam/planned", mode="max", patience=2)], max_epochs=9)
    assert run.current_epoch == 3


def test_without_a_logger_files_are_written_below_the_run(tmp_path):
    fit(tmp_path, cam())
    folder = tmp_path / "cam" / "relu"
    sheets = sorted(p.name for p in (folder / "grad_cam").glob("*.jpg"))
    assert sheets == ["filmstrip.jpg", "step_000000.jpg", "step_000005.jpg", "step_000011.jpg"]
    overlays = sorted(p.name for p in (folder / "grad_cam" / "step_000005").iterdir())
    assert overlays == [f"{i}_grad_cam.jpg" for i in range(4)]


def test_a_csv_logger_has_its_pictures_beside_its_numbers(tmp_path):
    logger = CSVLogger(tmp_path)
    boxed_fit(tmp_path, cam("trunk", "activation_mean", batch=BOXES), logger=logger)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["cam/energy_inside"]]
    assert [row["step"] for row in rows] == ["0", "5", "11"]
    assert len(list(tmp_path.rglob("activation_mean/step_*.jpg"))) == 3
    assert all(logger.log_dir in str(p) for p in tmp_path.rglob("*.jpg"))


def test_every_logger_is_served(tmp_path):
    first, second = TensorBoardLogger(tmp_path / "a"), TensorBoardLogger(tmp_path / "b")
    fit(tmp_path, cam(), logger=[first, CSVLogger(tmp_path / "c"), second])
    assert [len(read_events(one.log_dir).Images("cam/relu/grad_cam")) for one in (first, second)] == [3, 3]
    assert len(list((tmp_path / "c").rglob("grad_cam/step_*.jpg"))) == 3


def test_two_callbacks_side_by_side(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    pair = [cam("relu", batch=2), cam("trunk", ["grad_cam", "activation_mean"], tag="early", batch=[5, 7, 9])]
    fit(tmp_path, pair, logger=logger, enable_checkpointing=True)
    tags = {"cam/relu/grad_cam", "early/trunk/grad_cam", "early/trunk/activation_mean"}
    assert set(read_events(logger.log_dir).Tags()["images"]) == tags | {f"{tag}/filmstrip" for tag in tags}
