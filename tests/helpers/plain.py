"""A small net and a training loop as one writes them by hand, without Lightning. b batch, h w image."""

import random
from collections.abc import Callable
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


def train(
    model: nn.Module,
    look: Callable[[int], Any] = lambda step: None,
    *,
    epochs: int = 3,
    draw: bool = False,
    fabric: Any = None,
) -> list[dict[str, Any]]:
    """Train, with a look before the first step and one after every epoch; all that a look could disturb, after every step."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    loader = DataLoader(Pictures(24), 4, shuffle=True)
    if fabric is not None:
        model, optimizer = fabric.setup(model, optimizer)
        loader = fabric.setup_dataloaders(loader)
    states = []
    step = 0
    look(step)
    for _ in range(epochs):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            if draw:  # training that depends on every global generator
                loss = loss * (1 + float(np.random.rand()) + random.random()) + torch.randn(()) * loss.detach()
            optimizer.zero_grad()
            if fabric is None:
                loss.backward()
            else:
                fabric.backward(loss)
            optimizer.step()
            step += 1
            states.append(training_state(model, optimizer) | {"loss": digest(loss)})
        look(step)
        states.append(training_state(model, optimizer))
    return states


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything a look could disturb, as comparable values."""
    return model_state(model) | random_states() | modes() | {"optimizer": digest(optimizer.state_dict()["state"])}
