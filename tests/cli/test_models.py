"""Models and weights from names, import paths, checkpoints and files."""

import sys
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from lightning_cam.cli.models import load_model
from lightning_cam.cli.weights import read_weights

MODULES = """
import lightning
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes=3):
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))

class Lit(lightning.LightningModule):
    def __init__(self, classes, width=1):
        super().__init__()
        self.save_hyperparameters()
        self.model, self.loss = Net(classes), nn.CrossEntropyLoss(torch.ones(classes))
    def forward(self, x):
        return self.model(x)
    def training_step(self, batch, i):
        return self(batch).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.rand(4, 3, 8, 8))

class Forgetful(Lit):
    def save_hyperparameters(self):
        pass
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A module of models, standing in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "lit_nets.py").write_text(MODULES)
    import lit_nets

    yield lit_nets
    del sys.modules["lit_nets"]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def checkpoint(module, path="run.ckpt"):
    trainer = lightning.Trainer(
        max_epochs=0, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize(
    "form", ["bare", "state_dict", "model", "prefix", "deep prefix", "compiled", "half", "npz", "safetensors"]
)
def test_weights_are_read_in_every_form(source, form, monkeypatch, tmp_path):
    net = source.Net().half().float() if form in ("half", "npz") else source.Net()
    state, path = net.state_dict(), tmp_path / "w.pth"
    prefix = {"prefix": "model.", "deep prefix": "module.net.", "compiled": "_orig_mod."}.get(form, "")
    kept = {prefix + key: value for key, value in state.items()}
    if form == "half":
        kept = {key: value.half() if value.is_floating_point() else value for key, value in kept.items()}
    if form == "deep prefix":
        kept["module.loss.weight"] = torch.ones(3)
    if form == "npz":
        path = path.with_suffix(".npz")
        np.savez(path, **{k: v.half().numpy() if v.is_floating_point() else v.numpy() for k, v in kept.items()})
    elif form == "safetensors":
        path = path.with_suffix(".safetensors")
        path.touch()
        fake = type(sys)("safetensors.torch")
        fake.load_file = lambda given: kept
        monkeypatch.setitem(sys.modules, "safetensors.torch", fake)
    else:
        torch.save({form: kept, "epoch": 3} if form in ("state_dict", "model") else kept, path)
    loaded = load_model("lit_nets.Net", str(path))
    assert same(loaded.model, net)
    assert loaded.origin == f"weights: {path}" + (f", keys under '{prefix}'" if "prefix" in form else "")


def test_the_head_of_torchvisions_models_is_as_wide_as_the_weights(tmp_path):
    for name in ("squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"):
        net = torchvision.models.get_model(name, weights=None, num_classes=7)
        torch.save(net.state_dict(), tmp_path / "w.pt")
        assert same(load_model(f"torchvision:{name}", str(tmp_path / "w.pt")).model, net)


def test_torchvisions_weights_by_name_bring_names_and_preparation(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    stored = tmp_path / "hub" / "checkpoints" / entry.url.rpartition("/")[2]
    stored.parent.mkdir(parents=True)
    net = torchvision.models.squeezenet1_1()
    torch.save(net.state_dict(), stored)
    for name in ("DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"):
        loaded = load_model("torchvision:squeezenet1_1", name)
        assert loaded.entry is entry and same(loaded.model, net)


def test_weights_that_cannot_be_downloaded_are_told(monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(OSError, match="could not be downloaded from https"):
        load_model("torchvision:alexnet", "DEFAULT")


def test_weights_that_do_not_fit_name_the_keys(source):
    state = source.Net().state_dict()
    state["4.weight"], state["extra"] = torch.ones(3, 9), state.pop("0.bias")
    torch.save(state, "w.pt")
    with pytest.raises(
        ValueError, match=r"1 missing \(0.bias\); 1 of another shape \(4.weight 3x9 in .* 3x8 in the model\); 1 unknown \(extra"
    ):
        load_model("lit_nets.Net", "w.pt")
    with pytest.raises(
        ValueError, match=r"do not fit SqueezeNet, keys: 52 missing \(features.0.weight, .*, \.\.\.\); 9 unknown"
    ):
        load_model("torchvision:squeezenet1_1", "w.pt")


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (b"no weights", "cannot be read as weights"),
        (nn.Linear(2, 2), r"more than tensors and plain values \(torch.nn.modules.linear.Linear\)"),
        ([torch.ones(2)], "holds no state dict, .* it holds: list"),
        ({"epoch": 3, "lr": 0.1}, "it holds: epoch, lr"),
        ({}, "it holds: nothing"),
    ],
)
def test_files_without_weights_are_told(source, held, told):
    if isinstance(held, bytes):
        Path("w.pt").write_bytes(held)
    else:
        torch.save(held, "w.pt")
    with pytest.raises(ValueError, match=told):
        load_model("lit_nets.Net", "w.pt")


def test_safetensors_without_the_package_are_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "w.safetensors").touch()
    with pytest.raises(ValueError, match="pip install safetensors"):
        read_weights(tmp_path / "w.safetensors")


def test_a_lightning_module_comes_back_with_its_arguments(source):
    module = source.Lit(classes=5)
    path = checkpoint(module)
    assert same(load_model("lit_nets:Lit", path).model, module)
    with pytest.raises(ValueError, match=r"run.ckpt does not name its class: give --model pkg.Class --weights run.ckpt"):
        load_model(path)
    with pytest.raises(ValueError, match=r"brings its own weights: give --model pkg.Class --weights w.pt"):
        load_model(path, "w.pt")
    checkpoint(source.Forgetful(5))
    with pytest.raises(ValueError, match=r"'classes'. Does it call self.save_hyperparameters"):
        load_model("lit_nets.Forgetful", path)


def test_a_plain_class_takes_its_part_of_a_lightning_checkpoint(source):
    module = source.Lit(classes=3)
    loaded = load_model("lit_nets.Net", checkpoint(module))
    assert same(loaded.model, module.model) and loaded.origin == "weights: run.ckpt, keys under 'model.'"


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightning_cli_names_its_class(source):
    from lightning.pytorch.cli import LightningCLI

    trainer = {
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    arguments = ["fit", "--model=lit_nets.Lit", "--model.classes=4", "--trainer.enable_checkpointing=false"]
    cli = LightningCLI(
        lightning.LightningModule, subclass_mode_model=True, save_config_callback=None, trainer_defaults=trainer, args=arguments
    )
    cli.trainer.save_checkpoint("cli.ckpt")
    loaded = load_model("cli.ckpt")
    assert isinstance(loaded.model, source.Lit) and same(loaded.model, cli.model)
