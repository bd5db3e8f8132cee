"""The fixed batch out of a running Trainer: pinned by dataset index, through its own dataset, collate and transfer hooks."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, default_collate

from lightning_cam.data.batch import Batch, FixedBatch, is_indices
from lightning_cam.data.collated import read_batch
from lightning_cam.data.dataset import around, evenly, labels_of, name_of, normalization_of
from lightning_cam.model.layout import spatial_dims
from lightning_cam.no_trace import isolated_generators, isolated_rng

_SCAN = 2000  # samples loaded at most to find n per class in a dataset that keeps no labels


def load_fixed_batch(trainer: Any, module: Any, how: Batch) -> FixedBatch:
    """Collate the chosen samples and move them as Lightning moves a validation batch; the result is on the device.

    Randomness in the dataset is seeded, so that the same sample comes out the same at a resumed run.

    Raises:
        ValueError: for an index out of range, a loader that does not exist, or a batch that cannot be read.
    """
    sides = spatial_dims(module)
    with isolated_rng(seed=0), torch.inference_mode(False), torch.no_grad():
        if how.given:
            given = copy.deepcopy(how.samples)  # hooks may write into it, and it is read anew for every run
            batch = read_batch(_transfer(trainer, module, given), how, sides)
            return replace(batch, classes=_classes(how, trainer, module, None))
        loader, which, position = _loader(trainer, module, how.loader)
        data = getattr(loader, "dataset", None)
        if (
            data is not None
            and hasattr(data, "__getitem__")
            and hasattr(data, "__len__")
            and not isinstance(data, IterableDataset)
        ):
            with isolated_generators(data):
                indices = _indices(data, how, loader, sides)
                raw = _collate(loader)([data[i] for i in indices])
            names = tuple(name_of(data, i) for i in indices)
            origin = f"{which}, indices {', '.join(map(str, indices))}"
        else:
            with isolated_generators(data):
                raw = _head(loader, data, how)
            names, origin = (), f"the first samples of {which} (it has no index)"
            warnings.warn(
                f"CAMCallback: {which} has no samples by index, so its first samples, read once, are watched.",
                stacklevel=2,
            )
        batch = read_batch(_transfer(trainer, module, raw, position), how, sides)
        if not names:
            batch = batch.first(_count(how))
        return replace(
            batch,
            names=names or batch.names,
            classes=_classes(how, trainer, module, data),
            normalization=normalization_of(data),
            origin=origin,
        )


@contextmanager
def as_validation(trainer: Any) -> Iterator[None]:
    """Let hooks that ask ``self.trainer.training`` (to augment, say) see a validation, whatever stage it is."""
    state, before = trainer.state, trainer.state.stage
    try:
        if before is not None and before.name == "TRAINING":
            state.stage = type(before).VALIDATING
        yield
    finally:
        state.stage = before


def _transfer(trainer: Any, module: Any, batch: Any, position: int = 0) -> Any:
    with as_validation(trainer):
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=position)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=position)


def _loader(trainer: Any, module: Any, which: int | str) -> tuple[Any, str, int]:
    """The loader, what it is called, and its position among the loaders of its stage."""
    if trainer.testing:
        loaders, stage = trainer.test_dataloaders, "test"
    elif trainer.state.fn.name == "VALIDATING" or trainer.enable_validation:
        loaders, stage = trainer.val_dataloaders, "validation"
        if loaders is None:  # not loaded yet: no sanity check and no validation in the first epoch
            loaders = trainer.fit_loop.epoch_loop.val_loop._data_source.dataloader()
    else:
        loaders, stage = trainer.train_dataloader, "training"
    if isinstance(loaders, Mapping):
        keys = list(loaders)
        key = keys[which] if isinstance(which, int) and which not in loaders and which < len(keys) else which
        if key not in loaders:
            raise ValueError(f"Batch(loader={which!r}): the {stage} loaders are {', '.join(map(repr, keys))}.")
        return loaders[key], f"{stage} set {key!r}", keys.index(key)
    listed = loaders if isinstance(loaders, Sequence) else [loaders]
    if not isinstance(which, int) or not 0 <= which < len(listed):
        raise ValueError(f"Batch(loader={which!r}): the {stage} loaders are 0 to {len(listed) - 1}.")
    return listed[which], f"{stage} set {which}" if len(listed) > 1 else f"{stage} set", which


def _indices(data: Any, how: Batch, loader: Any, sides: int) -> list[int]:
    if how.per_class is not None:
        labels = labels_of(data)
        if labels is None:
            scanned = [read_batch(_collate(loader)([data[i]]), how, sides).labels for i in range(min(len(data), _SCAN))]
            if any(label is None or label.numel() != 1 for label in scanned):
                raise ValueError("Batch(per_class=...) needs one class a sample; name the labels with Batch(label=...).")
            labels = torch.cat([label.flatten().cpu() for label in scanned if label is not None])
        return evenly(labels, how.per_class)
    if not is_indices(how.samples):
        return list(range(min(how.samples, len(data))))
    wrong = [i for i in how.samples if not -len(data) <= i < len(data)]
    if wrong:
        raise ValueError(f"Sample {wrong[0]} is out of range: the dataset has {len(data)} samples, 0 to {len(data) - 1}.")
    return [i % len(data) for i in how.samples]


def _head(loader: Any, data: Any, how: Batch) -> Any:
    if is_indices(how.samples) or how.per_class is not None:
        raise ValueError("Samples can be chosen by index or class only from a dataset with indices; give a count or a batch.")
    if data is not None and getattr(loader, "batch_size", None) is not None:
        samples = list(islice(iter(data), _count(how)))
        if samples:
            return _collate(loader)(samples)
    else:
        for batch in loader if data is None else data:
            return batch
    raise ValueError("The loader gave no sample, so there is nothing to watch.")


def _count(how: Batch) -> int:
    return how.samples if isinstance(how.samples, int) else len(how.samples)


def _collate(loader: Any) -> Any:
    return getattr(loader, "collate_fn", None) or default_collate


def _classes(how: Batch, trainer: Any, module: Any, data: Any) -> tuple[str, ...]:
    holders = [*around(data), getattr(trainer, "datamodule", None), module]
    found = how.classes
    for holder in holders:
        for name in ("classes", "class_names"):
            value = getattr(holder, name, None)
            if found is None and isinstance(value, Sequence) and not isinstance(value, str) and value:
                found = value
    return tuple(map(str, found or ()))
