"""Pictures of one's own for the demo, from a folder or torchvision, and a torchvision model with a head for their classes."""

import inspect
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.transforms import v2


def torchvision_model(name: str, weights: str | None, classes: int) -> nn.Module:
    """A torchvision classifier with a new head; weights are a name, which torchvision may download, or a file."""
    if weights and Path(weights).is_file():
        model = torchvision.models.get_model(name, weights=None)
        load_what_fits(model, weights)
    else:
        model = torchvision.models.get_model(name, weights=weights)
    heads = [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not heads:
        raise SystemExit(f"{name} has no linear layer to exchange for a new head; try resnet18.")
    head = model.get_submodule(heads[-1])
    parent, _, attribute = heads[-1].rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Linear(head.in_features, classes))
    return model


def load_what_fits(model: nn.Module, path: str) -> None:
    """Load the tensors of a state dict whose names and shapes are the model's."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    expected = model.state_dict()
    fits = {key: value for key, value in state.items() if key in expected and value.shape == expected[key].shape}
    print(f"{path}: {len(fits)} of the model's {len(expected)} tensors taken")
    model.load_state_dict(fits, strict=False)


def transforms(size: int) -> tuple[v2.Compose, v2.Compose]:
    """Augmentation for training, the middle of the picture for validation."""
    first = [v2.ToImage(), v2.RGB()]
    train = [v2.RandomResizedCrop(size, (0.4, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    val = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    return v2.Compose([*first, *train, *last]), v2.Compose([*first, *val, *last])


def folders(path: str, size: int) -> tuple[Any, Any]:
    """``train`` and ``val``, a folder a class inside each."""
    augment, prepare = transforms(size)
    train = torchvision.datasets.ImageFolder(f"{path}/train", augment)
    val = torchvision.datasets.ImageFolder(f"{path}/val", prepare)
    if train.classes != val.classes:
        raise SystemExit(f"train and val differ in classes: {train.classes} and {val.classes}.")
    return train, val


def torchvision_dataset(name: str, root: str, download: bool, size: int) -> tuple[Any, Any]:
    """The training and the test part of a torchvision dataset."""
    dataset = getattr(torchvision.datasets, name, None)
    if dataset is None:
        raise SystemExit(f"torchvision has no dataset {name!r}.")
    train_part: dict[str, Any] = {"train": True}
    test_part: dict[str, Any] = {"train": False}
    if "train" not in inspect.signature(dataset).parameters:
        train_part = {"split": "train"}
        test_part = {"split": "test"}
    augment, prepare = transforms(size)
    train = dataset(root=root, download=download, transform=augment, **train_part)
    return train, dataset(root=root, download=download, transform=prepare, **test_part)


def class_names(dataset: Any) -> list[str]:
    """The names of a dataset's classes, or their numbers where it has no names."""
    names = getattr(dataset, "classes", None) or sorted(set(map(int, dataset.labels)))
    return [str(name) for name in names]
