"""What a dataset tells of its samples without loading them: classes, names, normalisation."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


def labels_of(dataset: Any) -> Int[Tensor, "n"] | None:
    """Every sample's class without loading one, where the dataset or the one it is a subset of keeps them."""
    for name in ("targets", "labels", "_labels"):
        if (kept := getattr(dataset, name, None)) is not None and numbers(kept):
            return torch.as_tensor(kept).flatten()
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        inner = labels_of(dataset.dataset)
        return None if inner is None else inner[torch.as_tensor(list(dataset.indices))]
    tensors = getattr(dataset, "tensors", None)
    if tensors is not None and len(tensors) > 1 and tensors[1].ndim == 1 and not tensors[1].is_floating_point():
        return torch.as_tensor(tensors[1])
    return None


def evenly(labels: Int[Tensor, "n"], per_class: int) -> list[int]:
    """The first ``per_class`` indices of each class, classes in order."""
    return [int(i) for c in labels.unique() for i in (labels == c).nonzero()[:per_class, 0]]


def around(dataset: Any) -> Iterable[Any]:
    """The dataset and those it wraps (a Subset's, a wrapper's), outermost first."""
    seen: list[Any] = []
    while dataset is not None and not any(dataset is one for one in seen):
        seen.append(dataset)
        dataset = getattr(dataset, "dataset", None)
    return seen


def normalization_of(dataset: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of the dataset's own Normalize transform, found by its attributes; else None."""
    for level in around(dataset):
        for name in ("transform", "transforms"):
            if found := _normalize_in(getattr(level, name, None)):
                return found
    return None


def _normalize_in(transform: Any, depth: int = 0) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if transform is None or depth > 6:
        return None
    if type(transform).__name__ == "Normalize" and hasattr(transform, "mean") and hasattr(transform, "std"):
        mean, std = (torch.as_tensor(v, dtype=torch.float64).flatten().tolist() for v in (transform.mean, transform.std))
        return tuple(mean), tuple(std)
    inner = getattr(transform, "transforms", None) or getattr(transform, "transform", None)
    steps = inner if isinstance(inner, Sequence) else [inner] if inner is not None else []
    if not steps and isinstance(transform, torch.nn.Sequential):
        steps = list(transform)
    for step in reversed(steps):
        if found := _normalize_in(step, depth + 1):
            return found
    return None


def name_of(dataset: Any, index: int) -> str:
    """The file's stem where the dataset keeps paths (ImageFolder), else the index."""
    for level in around(dataset):
        paths = getattr(level, "samples", None) or getattr(level, "imgs", None)
        if isinstance(paths, Sequence) and index < len(paths):
            path = paths[index][0] if isinstance(paths[index], tuple | list) else paths[index]
            if isinstance(path, str):
                return path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if hasattr(level, "indices") and hasattr(level, "dataset"):
            index = int(level.indices[index])
    return f"#{index}"


def numbers(values: Any) -> bool:
    """Whether these are integers that make a tensor: class labels."""
    if isinstance(values, Tensor):
        return not values.is_floating_point()
    try:
        return torch.as_tensor(values).dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
    except (TypeError, ValueError, RuntimeError):
        return False
