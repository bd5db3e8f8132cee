"""What a dataset tells of its samples without loading them: classes, names, normalisation."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

_LABELS = ("targets", "labels", "_labels")
_DEEPEST = 6  # a transform within transforms


def labels_of(dataset: Any) -> Int[Tensor, "n"] | None:
    """Every sample's class without loading one, where the dataset or the one it is a subset of keeps them."""
    for name in _LABELS:
        labels = getattr(dataset, name, None)
        if labels is not None and numbers(labels):
            return torch.as_tensor(labels).flatten()
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        labels = labels_of(dataset.dataset)
        if labels is None:
            return None
        return labels[torch.as_tensor(list(dataset.indices))]
    return _second_tensor(dataset)


def _second_tensor(dataset: Any) -> Tensor | None:
    """The labels of a TensorDataset."""
    tensors = getattr(dataset, "tensors", None)
    if tensors is None or len(tensors) < 2:
        return None
    labels = tensors[1]
    if labels.ndim != 1 or labels.is_floating_point():
        return None
    return torch.as_tensor(labels)


def first_per_class(labels: Int[Tensor, "n"], per_class: int) -> list[int]:
    """The first ``per_class`` indices of each class, classes in order.

    Example:
        >>> first_per_class(torch.tensor([1, 0, 1, 1, 0]), 2)
        [1, 4, 0, 2]
    """
    return [int(i) for c in labels.unique() for i in (labels == c).nonzero()[:per_class, 0]]


def wrapped_datasets(dataset: Any) -> list[Any]:
    """The dataset and those it wraps (a Subset's, a wrapper's), outermost first."""
    levels: list[Any] = []
    # a wrapper may hold itself
    while dataset is not None and not any(dataset is level for level in levels):
        levels.append(dataset)
        dataset = getattr(dataset, "dataset", None)
    return levels


def normalization_of(dataset: Any) -> Normalization | None:
    """Mean and standard deviation of the dataset's own Normalize transform, found by its attributes; else None."""
    for level in wrapped_datasets(dataset):
        for name in ("transform", "transforms"):
            normalization = _normalization_in(getattr(level, name, None))
            if normalization is not None:
                return normalization
    return None


def _normalization_in(transform: Any, depth: int = 0) -> Normalization | None:
    if transform is None or depth > _DEEPEST:
        return None
    if type(transform).__name__ == "Normalize" and hasattr(transform, "mean") and hasattr(transform, "std"):
        return _floats(transform.mean), _floats(transform.std)
    # the last normalisation is the one that the model's images have
    for step in reversed(_steps(transform)):
        normalization = _normalization_in(step, depth + 1)
        if normalization is not None:
            return normalization
    return None


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(torch.as_tensor(values, dtype=torch.float64).flatten().tolist())


def _steps(transform: Any) -> Sequence[Any]:
    """The transforms of which one is made."""
    parts = getattr(transform, "transforms", None) or getattr(transform, "transform", None)
    if isinstance(parts, Sequence) and parts:
        return parts
    if parts is not None and not isinstance(parts, Sequence):
        return [parts]
    if isinstance(transform, torch.nn.Sequential):
        return list(transform)
    return []


def name_of(dataset: Any, index: int) -> str:
    """The file's stem where the dataset keeps paths (ImageFolder), else the index in the innermost dataset."""
    path, inner = _located(dataset, index)
    if path is None:
        return f"#{inner}"
    return _stem(path)


def path_of(dataset: Any, index: int) -> str | None:
    """The file of a sample where the dataset keeps paths."""
    return _located(dataset, index)[0]


def _located(dataset: Any, index: int) -> tuple[str | None, int]:
    """A sample's file, if it is known, and its index in the dataset that it comes from."""
    for level in wrapped_datasets(dataset):
        paths = _paths(level)
        if index < len(paths):
            path = paths[index]
            if isinstance(path, tuple | list):
                path = path[0]
            if isinstance(path, str):
                return path, index
        # below a Subset the sample has another index
        if hasattr(level, "indices") and hasattr(level, "dataset"):
            index = int(level.indices[index])
    return None, index


def _paths(dataset: Any) -> Sequence[Any]:
    """The paths that a dataset keeps, alone or with what belongs to them; none where it keeps none."""
    for name in ("samples", "imgs"):
        paths = getattr(dataset, name, None)
        # a table with a column of them, as anomalib's, whose truth value is an error
        column = getattr(paths, "image_path", None)
        if column is not None and hasattr(column, "tolist"):
            paths = column.tolist()
        if isinstance(paths, Sequence) and len(paths):
            return paths
    return []


def _stem(path: str) -> str:
    file = path.replace("\\", "/").rsplit("/", 1)[-1]
    return file.rsplit(".", 1)[0]


def numbers(values: Any) -> bool:
    """Whether these are integers that make a tensor: class labels."""
    if isinstance(values, Tensor):
        return not values.is_floating_point()
    try:
        # words and ragged lists make no tensor, booleans and fractions no classes
        return torch.as_tensor(values).dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
    except (TypeError, ValueError, RuntimeError):
        return False
