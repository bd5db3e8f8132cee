"""Every kind of run that Lightning has: loaders, packages, compiled and late models, strategies."""

import importlib
import pickle

import pytest
import torch
from nets import BOXES, SMALL, STRICT, Net, Quiet, cam, fit, loader, trainer
from torch import nn
from watching import watched

from lightning_cam import CAMCallback

pytestmark = STRICT


def test_several_validation_loaders_in_a_list(tmp_path):
    callback = cam(batch=dict(samples=2, loader=1))
    batches: list = []
    callback.watcher.observers.append(lambda result: batches.append(result.batch))
    fit(tmp_path, callback, val=[loader(6), loader(9, classes=2)])
    assert batches[0].origin == "validation set 1, indices 0, 1" and batches[0].labels.tolist() == [0, 1]
    assert batches[0].classes == ("class_0", "class_1")


@pytest.mark.parametrize("which", ["night", 1])
def test_several_validation_loaders_in_a_dict(which, tmp_path):
    from lightning.pytorch.utilities import CombinedLoader

    callback = cam(batch=dict(samples=2, loader=which))
    batches: list = []
    callback.watcher.observers.append(lambda result: batches.append(result.batch))
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
    first, second = (c.history["trunk/grad_cam"].heats for c in (plain, compiled))
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
    from lightning_cam.training.trainer.distributed import refuse_sharded

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
