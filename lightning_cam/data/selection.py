"""Which of several loaders is watched, and which of its samples by index."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from lightning_cam.data.batch import Batch, is_indices
from lightning_cam.data.collated import read_batch
from lightning_cam.data.dataset import first_per_class, labels_of

_SCAN = 2000  # samples loaded at most to find n per class in a dataset that keeps no labels


@dataclass(frozen=True, eq=False)
class ChosenLoader:
    """One loader out of those of its stage.

    Attributes:
        loader: the loader.
        title: what it is called in messages.
        position: its place among the loaders of its stage.
        key: under which it stands there.
        alone: whether there is no other.
    """

    loader: Any
    title: str
    position: int = 0
    key: Any = 0
    alone: bool = True

    @property
    def dataset(self) -> Any:
        """What it loads from; None where it keeps none."""
        return getattr(self.loader, "dataset", None)

    @property
    def collate(self) -> Callable[[Any], Any]:
        """What makes a batch of samples."""
        return getattr(self.loader, "collate_fn", None) or default_collate

    @property
    def has_indices(self) -> bool:
        """Whether a sample can be had by its index, without iterating."""
        data = self.dataset
        if data is None or isinstance(data, IterableDataset):
            return False
        return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def choose_loader(loaders: Any, stage: str, which: int | str) -> ChosenLoader:
    """The loader that a ``Batch`` names, out of one, a list or a dict.

    Raises:
        ValueError: for one that does not exist.
    """
    if isinstance(loaders, Mapping):
        return _by_key(loaders, stage, which)
    if not isinstance(loaders, Sequence):
        loaders = [loaders]
    if not isinstance(which, int) or not 0 <= which < len(loaders):
        raise ValueError(f"Batch(loader={which!r}): the {stage} loaders are 0 to {len(loaders) - 1}.")
    if len(loaders) == 1:
        return ChosenLoader(loaders[0], f"{stage} set")
    return ChosenLoader(loaders[which], f"{stage} set {which}", which, which, alone=False)


def _by_key(loaders: Mapping[Any, Any], stage: str, which: int | str) -> ChosenLoader:
    keys = list(loaders)
    key = which
    # a number is a position, unless the loaders have numbers for keys
    if isinstance(which, int) and which not in loaders and which < len(keys):
        key = keys[which]
    if key not in loaders:
        raise ValueError(f"Batch(loader={which!r}): the {stage} loaders are {', '.join(map(repr, keys))}.")
    return ChosenLoader(loaders[key], f"{stage} set {key!r}", keys.index(key), key, alone=False)


def chosen_indices(chosen: ChosenLoader, options: Batch, form: tuple[int, int | None]) -> list[int]:
    """The indices of the samples that are watched.

    Raises:
        ValueError: for an index out of range, or samples of which a class is asked for that they do not have.
    """
    data = chosen.dataset
    if options.per_class is not None:
        labels = labels_of(data)
        if labels is None:
            labels = _scanned_labels(chosen, options, form)
        return first_per_class(labels, options.per_class)
    if not is_indices(options.samples):
        return list(range(min(options.samples, len(data))))
    wrong = [i for i in options.samples if not -len(data) <= i < len(data)]
    if wrong:
        raise ValueError(f"Sample {wrong[0]} is out of range: the dataset has {len(data)} samples, 0 to {len(data) - 1}.")
    # negative indices count from the end, and captions name the position
    return [i % len(data) for i in options.samples]


def _scanned_labels(chosen: ChosenLoader, options: Batch, form: tuple[int, int | None]) -> Int[Tensor, "n"]:
    """The first samples' classes, each sample loaded and collated."""
    data = chosen.dataset
    labels = []
    for i in range(min(len(data), _SCAN)):
        label = read_batch(chosen.collate([data[i]]), options, *form).labels
        if label is None or label.numel() != 1:
            raise ValueError("Batch(per_class=...) needs one class a sample; name the labels with Batch(label=...).")
        labels.append(label.flatten().cpu())
    return torch.cat(labels)
