"""Tiny modules, data and runs shared by the tests with a Trainer. b batch, h w image."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_cam import CAMCallback, Style

SMALL = Style(tile=32)
SIDE = 8
BOXES = dict(samples=4, regions="box")  # a callback's batch

# warnings are errors, but for what Lightning and torch have to say of tiny runs on a CPU
STRICT = [
    pytest.mark.filterwarnings("error"),
    *(
        pytest.mark.filterwarnings(f"ignore:{text}")
        for text in (
            ".*does not have many workers",
            ".*number of training batches",
            ".*Checkpoint directory .* exists",
            ".*`isinstance.treespec, LeafSpec.` is deprecated",
            ".*no `.*_dataloader` .*defined",
            ".*You defined a `validation_step` but have no `val_dataloader`",
            ".*Skipping val loop",
            ".*GPU available but not used",
            ".*overflow encountered",
            ".*torch.distributed.reduce_op",
            ".*torch.jit.* is deprecated",
            ".*tensorboard.compat.*",
            ".*fork.. may lead to deadlocks",
            ".*use of fork",
            ".*pin_memory",
            ".*lr_scheduler.step",
            ".*litlogger",
            "Your `val_dataloader`.s sampler has shuffling",
            "Full backward hook is firing",
            "You have overridden `on_after_batch_transfer` in",
            "Found 1 module.s. in eval mode",
        )
    ),
]


class Pictures(Dataset):
    """Fixed noise; the label is told by one brighter quarter. ``form`` is what a sample looks like."""

    def __init__(self, n: int = 12, classes: int = 3, form: str = "tuple", augment: bool = False) -> None:
        own = torch.Generator().manual_seed(7)
        self.images = torch.rand(n, 3, SIDE, SIDE, generator=own)
        self.targets = [i % classes for i in range(n)]
        self.classes = [f"class_{c}" for c in range(classes)]
        self.form, self.augment = form, augment
        for i, c in enumerate(self.targets):
            self.images[i, :, : SIDE // 2, c : c + SIDE // 2] += 0.5
        self.images /= self.images.max()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        image = self.images[i].clone()
        if self.augment:  # draws from all three global generators
            image = image * torch.rand(()) + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        c = self.targets[i]
        if self.form == "tuple":
            return image, c
        box = torch.tensor([c, 0, c + SIDE // 2, SIDE // 2], dtype=torch.float32)
        return {"image": image, "label": c, "box": box}


class Net(L.LightningModule):
    """Convolutions, a pooled linear head, and whatever makes it easy to disturb."""

    def __init__(
        self,
        *,
        dropout: float = 0.0,
        norm: bool = False,
        norm_asleep: bool = False,
        frozen: bool = False,
        all_frozen: bool = False,
        inplace: bool = False,
        trunk_without_grad: bool = False,
        buffer: str = "",
        optimizer: str = "sgd",
        schedule: bool = False,
        draw: bool = False,
        augment_on_device: bool = False,
    ) -> None:
        super().__init__()
        own = nn.BatchNorm2d(4) if norm or norm_asleep else nn.Identity()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), own, nn.ReLU(inplace), nn.Dropout2d(dropout))
        self.last = nn.Conv2d(4, 5, 3, padding=1)
        self.relu = nn.ReLU(inplace)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(3))
        self.norm_asleep, self.trunk_without_grad, self.buffer = norm_asleep, trunk_without_grad, buffer
        self.optimizer, self.schedule, self.draw, self.augment_on_device = optimizer, schedule, draw, augment_on_device
        self.seen: list[str] = []
        if norm_asleep:
            self.trunk[1].eval()
        if frozen:
            self.trunk.requires_grad_(False)

    def train(self, mode: bool = True) -> "Net":
        super().train(mode)
        if self.norm_asleep:
            self.trunk[1].eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.buffer == "in_place":
            self.calls += 1
        elif self.buffer == "assigned":
            self.calls = self.calls + 1
        elif self.buffer == "by_data":
            self.calls.data.add_(1)
        if self.trunk_without_grad:
            with torch.no_grad():
                x = self.relu(self.last(self.trunk(x)))
        else:
            x = self.relu(self.last(self.trunk(x)))
        return self.head(self.drop(x.mean((2, 3))))

    def loss(self, batch: Any) -> Tensor:
        x, y = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch
        return F.cross_entropy(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch["image"] if isinstance(batch, dict) else batch[0]
        self.seen.append(repr(x.double().sum().item()))
        loss = self.loss(batch)
        if self.draw:  # training that depends on every global generator
            loss = loss * (1 + float(np.random.rand()) + random.random()) + torch.randn(()).to(loss) * loss.detach()
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch), batch_size=1)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("test_loss", self.loss(batch), batch_size=1)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.augment_on_device and self.trainer.training:
            x, y = batch
            return x * 0 + torch.rand_like(x), y
        return batch

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        kind = torch.optim.Adam(trained, 0.01) if self.optimizer == "adam" else torch.optim.SGD(trained, 0.1, momentum=0.9)
        return [kind], [torch.optim.lr_scheduler.StepLR(kind, 1, 0.7)] if self.schedule else []


class Quiet(Net):
    """Logs nothing, as a barebones run wishes."""

    def log(self, *args: Any, **options: Any) -> None:
        pass


def loader(n: int = 12, shuffle: bool = False, workers: int = 0, size: int = 3, **options: Any) -> DataLoader:
    return DataLoader(Pictures(n, **options), size, shuffle=shuffle, num_workers=workers)


def trainer(folder: Path, callbacks: Any = (), tree: Any = L, **options: Any) -> Any:
    """A silent Trainer of two epochs on one CPU."""
    defaults = dict(max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, default_root_dir=str(folder), log_every_n_steps=1)
    if options.get("barebones"):
        defaults, quiet = dict(max_epochs=2, accelerator="cpu"), dict(default_root_dir=str(folder))
    callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else callbacks
    return tree.Trainer(**{**defaults, **quiet, "callbacks": callbacks, **options})


def cam(layer: Any = "relu", method: Any = "grad_cam", **options: Any) -> CAMCallback:
    """A callback that draws small."""
    return CAMCallback(layer, method, **{"batch": 4, "style": SMALL, **options})


def fit(folder: Path, callback: Any = None, net: Any = None, *, train: Any = None, val: Any = None, **options: Any) -> Any:
    """Train the small net with a callback; returns the Trainer."""
    L.seed_everything(1, verbose=False)
    run = trainer(folder, [] if callback is None else callback if isinstance(callback, list) else [callback], **options)
    train = loader(24, shuffle=True, size=4) if train is None else train
    run.fit(Net() if net is None else net, train, loader() if val is None else None if val == "none" else val)
    return run


def boxed_fit(folder: Path, callback: Any = None, net: Any = None, **options: Any) -> Any:
    """The same, on samples with boxes."""
    train = loader(24, size=4, shuffle=True, form="dict")
    return fit(folder, callback, net, train=train, val=loader(form="dict"), **options)


class Diary(Logger):
    """A tracker nobody knows."""

    name, version = "diary", 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Any] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        pass

    def log_hyperparams(self, *args: Any, **options: Any) -> None:
        pass


class Recorder(L.Callback):
    """Calls ``record(trainer, module)`` at the hooks named."""

    def __init__(self, record: Callable[[Any, Any], Any], *hooks: str) -> None:
        self.kept: list[Any] = []
        for hook in hooks:
            setattr(self, hook, lambda trainer, module, *rest: self.kept.append(record(trainer, module)))
