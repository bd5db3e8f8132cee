"""A small net and a training loop as one writes them by hand, without Lightning. b batch, h w image."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from nets import SMALL, Pictures
from torch import Tensor, nn
from torch.utils.data import DataLoader
from traces import digest, model_state, modes, random_states

from lightning_cam import Watcher


class PlainNet(nn.Module):
    """Convolutions and a pooled linear head, with dropout and batch norm where asked for."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        norms = [nn.BatchNorm2d(4)] if norm else []
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *norms, nn.ReLU(), nn.Dropout2d(dropout))
        self.last = nn.Conv2d(4, 5, 3, padding=1)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.last(self.trunk(x)))
        return self.head(self.drop(x.mean((2, 3))))


def plain_net(**options: Any) -> PlainNet:
    """The same weights at every call."""
    torch.manual_seed(1)
    return PlainNet(**options)


def batch(n: int = 4) -> tuple[Tensor, Tensor]:
    """The first samples as a loader gives them."""
    data = Pictures()
    return data.images[:n].clone(), torch.tensor(data.targets[:n])


def watcher(model: nn.Module | None, folder: Any, data: Any = None, layer: Any = "relu", **options: Any) -> Watcher:
    """A Watcher that draws small and lets every error out."""
    return Watcher(
        model, batch() if data is None else data, layer, folder=folder, **{"style": SMALL, "on_error": "raise"} | options
    )


def of_pairs(model: nn.Module, batch: Any) -> Tensor:
    """The loss of images and their classes."""
    x, y = batch
    return F.cross_entropy(model(x), y)


@dataclass(frozen=True)
class Task:
    """What a loop trains on, and how.

    Attributes:
        loader: what the loop iterates once an epoch.
        loss: of the model and a batch.
        after_step: what follows a step of the optimizer, such as a teacher's.
    """

    loader: Any
    loss: Callable[[nn.Module, Any], Tensor] = of_pairs
    after_step: Callable[[nn.Module], Any] = lambda model: None


def train(
    model: nn.Module,
    look: Callable[[int], Any] = lambda step: None,
    *,
    task: Task | None = None,
    meet: Callable[[Any], Any] = lambda batch: None,
    draw: bool = False,
    fabric: Any = None,
) -> list[dict[str, Any]]:
    """Train three epochs, with a look before the first step and one after every epoch.

    Args:
        model: its parameters that ask for a gradient are trained.
        look: at a step.
        task: by default pictures in an order of their own.
        meet: is handed the first batch of the first epoch before it is trained on.
        draw: whether the loss takes numbers out of every global generator.
        fabric: sets model, optimizer and loader up.

    Returns:
        all that a look could disturb, after every look and every step.
    """
    task = task or Task(DataLoader(Pictures(24), 4, shuffle=True))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1, momentum=0.9)
    loader, plain = task.loader, model
    if fabric is not None:
        model, optimizer = fabric.setup(model, optimizer)
        loader = fabric.setup_dataloaders(loader)
    step = 0
    look(step)
    states = [training_state(model, optimizer)]
    for _ in range(3):
        for batch in loader:
            if step == 0:
                meet(batch)
            given = digest(batch)
            loss = task.loss(model, batch)
            if draw:  # training that depends on every global generator
                loss = loss * (1 + float(np.random.rand()) + random.random()) + torch.randn(()) * loss.detach()
            optimizer.zero_grad()
            if fabric is None:
                loss.backward()
            else:
                fabric.backward(loss)
            optimizer.step()
            task.after_step(plain)
            step += 1
            states.append(training_state(model, optimizer) | {"loss": digest(loss), "data": given})
        look(step)
        states.append(training_state(model, optimizer))
    return states


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything a look could disturb, as comparable values."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    of_optimizer = {
        "optimizer": digest(optimizer.state_dict()["state"]),
        "optimized": [name for name, p in model.named_parameters() if id(p) in held],
    }
    return model_state(model) | random_states() | modes() | of_optimizer


def differing(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, int]:
    """What differs between two runs, by the first state in which it does."""
    assert len(second) > 20
    found: dict[str, int] = {}
    if len(first) != len(second):
        found["how many steps"] = min(len(first), len(second))
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        for key in {**a, **b}:
            if a.get(key, "absent") != b.get(key, "absent"):
                found.setdefault(key, i)
    return found
