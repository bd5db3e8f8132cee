"""When the callback looks, and what it leaves in the tracker, in every kind of run Lightning has."""

import csv
import importlib
import pickle
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from nets import SMALL, STRICT, Net, cam, fit, loader, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_cam import CAMCallback, Schedule

pytestmark = STRICT

BOXES = dict(samples=4, regions="box")


def boxed_fit(folder, callback, **options):
    data = dict(form="dict")
    return fit(folder, callback, train=loader(24, size=4, shuffle=True, **data), val=loader(**data), **options)


def watched(callback):
    """The moments at which a callback looks, in order."""
    moments, look = [], callback._look

    def tell(run, module, moment, folder):
        moments.append(moment)
        return look(run, module, moment, folder)

    callback._look = tell
    return moments


def events(logger):
    return EventAccumulator(logger.log_dir, {"images": 0, "scalars": 0}).Reload()


def looks(folder, **options):
    schedule = options.pop("schedule", Schedule())
    callback = cam(schedule=schedule)
    moments = watched(callback)
    fit(folder, callback, **options)
    return [moment.title for moment in moments]


# when


def test_it_looks_before_training_and_at_every_validation_end(tmp_path):
    assert looks(tmp_path, max_epochs=3) == ["before training", "epoch 1", "epoch 2", "epoch 3"]


@pytest.mark.parametrize("sanity", [0, 2, -1])
def test_the_sanity_check_is_not_a_look(sanity, tmp_path):
    assert looks(tmp_path, num_sanity_val_steps=sanity) == ["before training", "epoch 1", "epoch 2"]


def test_the_baseline_sees_the_weights_before_the_first_step(tmp_path):
    callback, net = cam(), Net()
    untouched = {k: v.clone() for k, v in net.state_dict().items()}
    seen, look = [], callback._look
    callback._look = lambda run, module, *rest: (
        seen.append({k: v.clone() for k, v in module.state_dict().items()}),
        look(run, module, *rest),
    )[1]
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


@pytest.mark.parametrize("how", ["limit", "no loader", "no step"])
def test_without_validation_it_looks_at_the_training_set_after_each_epoch(how, tmp_path):
    class NoValidation(Net):
        validation_step = L.LightningModule.validation_step

    callback = cam(on_error="raise")
    moments = watched(callback)
    origins, fetch = [], callback._fixed_batch
    callback._fixed_batch = lambda *args: (batch := fetch(*args), origins.append(batch.origin))[0]
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
    assert set(events(logger).Tags()["images"]) == {f"{tag}/trunk/grad_cam", f"{tag}/relu/grad_cam"}
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
    assert callback._histories["relu/grad_cam"].titles == ["start", "1", "2"]


def test_a_second_fit_from_scratch_begins_a_new_history(tmp_path):
    callback = cam()
    for _ in range(2):
        fit(tmp_path, callback)
        assert callback._histories["relu/grad_cam"].titles == ["start", "1", "2"]


@pytest.mark.parametrize("steps", [True, 3])
def test_fast_dev_run_is_one_look_of_two_samples_and_writes_nothing(steps, tmp_path):
    callback = cam()
    moments = watched(callback)
    sizes, fetch = [], callback._fixed_batch
    callback._fixed_batch = lambda *args: (batch := fetch(*args), sizes.append(len(batch)))[0]
    fit(tmp_path, callback, fast_dev_run=steps)
    assert len(moments) == 1 and sizes == [2]
    assert not list(tmp_path.rglob("*.*"))


def test_barebones_runs_and_looks(tmp_path):
    callback = cam()
    moments = watched(callback)
    run = trainer(tmp_path, [callback], barebones=True)
    run.fit(Quiet(), loader(24, size=4), loader())
    assert len(moments) >= 2 and run.global_step == 12


class Quiet(Net):
    """Logs nothing, as a barebones run wishes."""

    def log(self, *args, **options):
        pass


# where the numbers and pictures are


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory):
    """Three epochs with boxes under TensorBoard: the Trainer and its event file."""
    folder = tmp_path_factory.mktemp("tensorboard")
    logger = TensorBoardLogger(folder)
    run = boxed_fit(folder, cam("trunk", "activation_mean", batch=BOXES), logger=logger, max_epochs=3)
    return run, events(logger)


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
    found = events(logger)
    own = [e.step for e in found.Scalars("val_loss")]
    assert len(own) >= 2 and [e.step for e in found.Images("cam/relu/grad_cam")] == own


def test_without_validation_pictures_stand_at_the_steps_of_training_epoch_scalars(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, cam(schedule=Schedule(baseline=False)), logger=logger, limit_val_batches=0)
    found = events(logger)
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
    assert [(e.step, e.value) for e in events(logger).Scalars("cam/counted")] == [(0, 1.0), (5, 2.0), (11, 3.0)]


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
    assert [len(events(one).Images("cam/relu/grad_cam")) for one in (first, second)] == [3, 3]
    assert len(list((tmp_path / "c").rglob("grad_cam/step_*.jpg"))) == 3


# other shapes of runs


def test_several_validation_loaders_in_a_list(tmp_path):
    callback = cam(batch=dict(samples=2, loader=1))
    batches, fetch = [], callback._fixed_batch
    callback._fixed_batch = lambda *args: (batch := fetch(*args), batches.append(batch))[0]
    fit(tmp_path, callback, val=[loader(6), loader(9, classes=2)])
    assert batches[0].origin == "validation set 1, indices 0, 1" and batches[0].labels.tolist() == [0, 1]
    assert batches[0].classes == ("class_0", "class_1")


@pytest.mark.parametrize("which", ["night", 1])
def test_several_validation_loaders_in_a_dict(which, tmp_path):
    from lightning.pytorch.utilities import CombinedLoader

    callback = cam(batch=dict(samples=2, loader=which))
    batches, fetch = [], callback._fixed_batch
    callback._fixed_batch = lambda *args: (batch := fetch(*args), batches.append(batch))[0]
    loaders = {"day": loader(6), "night": loader(9)}
    fit(tmp_path, callback, val=CombinedLoader(loaders, "sequential") if which == 1 else loaders)
    assert batches[0].origin == "validation set 'night', indices 0, 1"


def test_transfer_hooks_are_told_which_loader_the_batch_is_of(tmp_path):
    class Told(Net):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            told.append((len(batch[0]), dataloader_idx))
            return batch

    told: list = []
    fit(tmp_path, cam(batch=dict(samples=5, loader=1)), Told(), val=[loader(6), loader(9)])
    assert {idx for size, idx in told if size == 5} == {1}


class Stream(IterableDataset):
    def __iter__(self):
        yield from (loader().dataset[i] for i in range(12))


def test_an_iterable_dataset_is_one_warning_and_its_first_samples_are_watched(tmp_path):
    callback = cam(batch=5)
    batches, fetch = [], callback._fixed_batch
    callback._fixed_batch = lambda *args: (batch := fetch(*args), batches.append(batch))[0]
    with pytest.warns(UserWarning, match="has no samples by index") as told:
        fit(tmp_path, callback, train=DataLoader(Stream(), 4), val=DataLoader(Stream(), 3), max_epochs=3)
    assert sum("no samples by index" in str(w.message) for w in told) == 1
    assert all(torch.equal(batch.images, loader().dataset.images[:5]) for batch in batches)


@pytest.mark.parametrize("given", ["alone", "list"])
@pytest.mark.parametrize("tree", ["lightning.pytorch", "pytorch_lightning"])
def test_it_runs_in_a_trainer_of_either_package(tree, given, tmp_path):
    package = importlib.import_module(tree)

    class Small(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    callback = cam(layer="body", batch=BOXES, on_error="raise")
    moments = watched(callback)
    run = trainer(tmp_path, callback if given == "alone" else [callback], tree=package)
    run.fit(Small(), loader(form="dict"), loader(form="dict"))
    assert len(moments) == 3 and "cam/energy_inside" in run.callback_metrics
    assert list(tmp_path.rglob("grad_cam/step_*.jpg"))


class Compiled(Net):
    """Its trunk and last part are compiled, as users do it in configure_model."""

    def configure_model(self):
        if not hasattr(self, "ready"):
            self.trunk = torch.compile(self.trunk, backend="eager")
            self.ready = True


@pytest.mark.parametrize("layer", ["trunk", "trunk.0", "trunk._orig_mod.0", "relu", None])
def test_a_model_with_a_compiled_part_works(layer, tmp_path):
    callback = cam(layer=layer, on_error="raise")
    moments = watched(callback)
    fit(tmp_path, callback, Compiled())
    assert len(moments) == 3 and list(tmp_path.rglob("grad_cam/step_*.jpg"))


def test_a_compiled_lightning_module_works(tmp_path):
    callback = cam(on_error="raise")
    moments = watched(callback)
    fit(tmp_path, callback, torch.compile(Quiet(dropout=0.1), backend="eager"))
    assert len(moments) == 3


def test_a_compiled_module_gives_the_maps_of_the_one_it_was_made_of(tmp_path):
    plain, compiled = cam(layer="trunk"), cam(layer="trunk")
    net, twin = Net(), Compiled()
    twin.load_state_dict(net.state_dict())
    fit(tmp_path / "a", plain, net)
    fit(tmp_path / "b", compiled, twin)
    first, second = (c._histories["trunk/grad_cam"].heats for c in (plain, compiled))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))


def test_layers_born_in_configure_model_are_found(tmp_path):
    class Late(Net):
        def __init__(self):
            super().__init__()
            self.born = None

        def configure_model(self):
            if self.born is None:
                self.born = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return super().forward(self.born(x))

    callback = cam(layer="born")
    moments = watched(callback)
    fit(tmp_path, callback, Late())
    assert len(moments) == 3


def test_two_callbacks_side_by_side(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    pair = [cam("relu", batch=2), cam("trunk", ["grad_cam", "activation_mean"], tag="early", batch=[5, 7, 9])]
    fit(tmp_path, pair, logger=logger, enable_checkpointing=True)
    tags = {"cam/relu/grad_cam", "early/trunk/grad_cam", "early/trunk/activation_mean"}
    assert set(events(logger).Tags()["images"]) == tags | {f"{tag}/filmstrip" for tag in tags}


def test_averaged_weights_are_watched_where_the_callback_comes_first(tmp_path):
    from lightning.pytorch.callbacks import EMAWeightAveraging

    moments = watched(first := cam())
    fit(tmp_path, [first, EMAWeightAveraging(decay=0.5)])
    assert len(moments) == 3


@pytest.mark.parametrize("target", ["label", 1, ["label", 1], {"top_k": {"k": 2}}, torch.tensor([0, 1, 2, 0])])
def test_it_can_be_pickled_as_strategies_that_spawn_do(target, tmp_path):
    callback = pickle.loads(pickle.dumps(cam(target=target, on_error="raise")))
    assert fit(tmp_path, callback).global_step == 12


def test_sharded_strategies_are_refused_in_words():
    from lightning_cam.training.distributed import refuse_sharded

    class FSDPStrategy:
        pass

    class DeepSpeedStrategy:
        config = {"zero_optimization": {"stage": 3}}  # noqa: RUF012

    for strategy in (FSDPStrategy(), DeepSpeedStrategy()):
        run = type("Run", (), {"strategy": strategy})()
        with pytest.raises(ValueError, match=rf"{type(strategy).__name__}.*Train with DDP.*lightning_cam\.explain"):
            refuse_sharded(run)
    DeepSpeedStrategy.config["zero_optimization"]["stage"] = 2
    refuse_sharded(type("Run", (), {"strategy": DeepSpeedStrategy()})())


def test_the_one_line_of_the_readme_works(tmp_path):
    callback = CAMCallback(style=SMALL)
    moments = watched(callback)
    fit(tmp_path, callback)
    assert len(moments) == 3 and list(tmp_path.rglob("cam/relu/grad_cam/step_*.jpg"))
