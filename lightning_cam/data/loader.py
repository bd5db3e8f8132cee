"""The fixed batch out of a running Trainer: pinned by dataset index, through its own dataset, collate and transfer hooks."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, default_collate

from lightning_cam.data.batch import Batch, FixedBatch, is_indices
from lightning_cam.data.collated import read_batch
from lightning_cam.data.dataset import first_of_each_class, labels_of, name_of, normalization_of, wrapped_datasets
from lightning_cam.model.layout import spatial_dims
from lightning_cam.no_trace import isolated_generators, isolated_rng

_SCAN = 2000  # samples loaded at most to find n per class in a dataset that keeps no labels


# The only two places in data/ that use names which Lightning keeps to itself.


def validation_loaders(trainer: Any) -> Any:
    """The validation loaders of a fit or a validation, one or several."""
    loaders = trainer.val_dataloaders
    if loaders is None:
        # not loaded yet: no sanity check and no validation in the first epoch
        loaders = trainer.fit_loop.epoch_loop.val_loop._data_source.dataloader()
    return loaders


def transfer_batch(trainer: Any, module: Any, batch: Any, position: int) -> Any:
    """Move a batch of the loader at this position to the device, through the precision plugin and the user's hooks."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=position)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=position)


@dataclass(frozen=True)
class _Source:
    """One of the loaders of a stage."""

    loader: Any
    title: str
    position: int

    @property
    def data(self) -> Any:
        return getattr(self.loader, "dataset", None)

    @property
    def indexed(self) -> bool:
        """Whether its samples can be had by index."""
        # Dataset, and so IterableDataset, has a __getitem__ that only raises
        if self.data is None or isinstance(self.data, IterableDataset):
            return False
        return hasattr(self.data, "__getitem__") and hasattr(self.data, "__len__")

    def collate(self, samples: list[Any]) -> Any:
        function = getattr(self.loader, "collate_fn", None) or default_collate
        return function(samples)


def load_fixed_batch(trainer: Any, module: Any, options: Batch) -> FixedBatch:
    """Collate the chosen samples and move them as Lightning moves a validation batch; the result is on the device.

    Randomness in the dataset is seeded, so that the same sample comes out the same at a resumed run.

    Raises:
        ValueError: for an index out of range, a loader that does not exist, or a batch that cannot be read.
    """
    with isolated_rng(seed=0), torch.inference_mode(False), torch.no_grad():
        if options.given:
            # hooks may write into it, and it is read anew for every run
            batch = _moved(trainer, module, copy.deepcopy(options.samples), options)
            return replace(batch, classes=_classes(options, trainer, module, None))
        source = _find_source(trainer, options.loader)
        read = _by_index if source.indexed else _from_start
        return replace(
            read(trainer, module, source, options),
            classes=_classes(options, trainer, module, source.data),
            normalization=normalization_of(source.data),
        )


def _by_index(trainer: Any, module: Any, source: _Source, options: Batch) -> FixedBatch:
    data = source.data
    with isolated_generators(data):
        indices = _indices(source, options, spatial_dims(module))
        collated = source.collate([data[i] for i in indices])
    names = tuple(name_of(data, i) for i in indices)
    batch = _moved(trainer, module, collated, options, source.position)
    return replace(
        batch,
        names=names or batch.names,
        origin=f"{source.title}, indices {', '.join(map(str, indices))}",
    )


def _from_start(trainer: Any, module: Any, source: _Source, options: Batch) -> FixedBatch:
    with isolated_generators(source.data):
        collated = _first_samples(source, options)
    warnings.warn(
        f"CAMCallback: {source.title} has no samples by index, so its first samples, read once, are watched.",
        stacklevel=3,
    )
    batch = _moved(trainer, module, collated, options, source.position).first(_count(options))
    return replace(batch, origin=f"the first samples of {source.title} (it has no index)")


def _moved(trainer: Any, module: Any, collated: Any, options: Batch, position: int = 0) -> FixedBatch:
    with as_validation(trainer):
        collated = transfer_batch(trainer, module, collated, position)
    return read_batch(collated, options, spatial_dims(module))


@contextmanager
def as_validation(trainer: Any) -> Iterator[None]:
    """Let hooks that ask ``self.trainer.training`` (to augment, say) see a validation, whatever stage it is."""
    state = trainer.state
    stage = state.stage
    try:
        if stage is not None and stage.name == "TRAINING":
            state.stage = type(stage).VALIDATING
        yield
    finally:
        state.stage = stage


def _find_source(trainer: Any, choice: int | str) -> _Source:
    """A loader of the running stage by its position or key.

    Raises:
        ValueError: if there is no such loader.
    """
    loaders, stage = _loaders(trainer)
    if isinstance(loaders, Mapping):
        return _keyed_source(loaders, stage, choice)
    several = loaders
    if not isinstance(loaders, Sequence):
        several = [loaders]
    if not isinstance(choice, int) or not 0 <= choice < len(several):
        raise ValueError(f"Batch(loader={choice!r}): the {stage} loaders are 0 to {len(several) - 1}.")
    title = f"{stage} set"
    if len(several) > 1:
        title = f"{stage} set {choice}"
    return _Source(several[choice], title, choice)


def _keyed_source(loaders: Mapping[Any, Any], stage: str, choice: int | str) -> _Source:
    keys = list(loaders)
    key = choice
    # a position, unless it is a key
    if isinstance(choice, int) and choice not in loaders and choice < len(keys):
        key = keys[choice]
    if key not in loaders:
        raise ValueError(f"Batch(loader={choice!r}): the {stage} loaders are {', '.join(map(repr, keys))}.")
    return _Source(loaders[key], f"{stage} set {key!r}", keys.index(key))


def _loaders(trainer: Any) -> tuple[Any, str]:
    """The loaders of the running stage, and what it is called."""
    if trainer.testing:
        return trainer.test_dataloaders, "test"
    if trainer.state.fn.name == "VALIDATING" or trainer.enable_validation:
        return validation_loaders(trainer), "validation"
    return trainer.train_dataloader, "training"


def _indices(source: _Source, options: Batch, sides: int) -> list[int]:
    data = source.data
    if options.per_class is not None:
        labels = labels_of(data)
        if labels is None:
            labels = _scanned_labels(source, options, sides)
        return first_of_each_class(labels, options.per_class)
    if not is_indices(options.samples):
        return list(range(min(options.samples, len(data))))
    wrong = [i for i in options.samples if not -len(data) <= i < len(data)]
    if wrong:
        raise ValueError(f"Sample {wrong[0]} is out of range: the dataset has {len(data)} samples, 0 to {len(data) - 1}.")
    # negative ones count from the end
    return [i % len(data) for i in options.samples]


def _scanned_labels(source: _Source, options: Batch, sides: int) -> torch.Tensor:
    """The classes of the first samples, each loaded alone."""
    labels = []
    for i in range(min(len(source.data), _SCAN)):
        label = read_batch(source.collate([source.data[i]]), options, sides).labels
        if label is None or label.numel() != 1:
            raise ValueError("Batch(per_class=...) needs one class a sample; name the labels with Batch(label=...).")
        labels.append(label.flatten().cpu())
    return torch.cat(labels)


def _first_samples(source: _Source, options: Batch) -> Any:
    if is_indices(options.samples) or options.per_class is not None:
        raise ValueError("Samples can be chosen by index or class only from a dataset with indices; give a count or a batch.")
    # the dataset gives samples where the loader makes the batches, else batches
    if source.data is not None and getattr(source.loader, "batch_size", None) is not None:
        samples = list(islice(iter(source.data), _count(options)))
        if samples:
            return source.collate(samples)
        raise ValueError("The loader gave no sample, so there is nothing to watch.")
    batches = source.data
    if batches is None:
        batches = source.loader
    for batch in batches:
        return batch
    raise ValueError("The loader gave no sample, so there is nothing to watch.")


def _count(options: Batch) -> int:
    if isinstance(options.samples, int):
        return options.samples
    return len(options.samples)


def _classes(options: Batch, trainer: Any, module: Any, data: Any) -> tuple[str, ...]:
    """The class names of the options, else the first that the dataset, the datamodule or the module has."""
    if options.classes is not None:
        return tuple(map(str, options.classes))
    for holder in [*wrapped_datasets(data), getattr(trainer, "datamodule", None), module]:
        for name in ("classes", "class_names"):
            classes = getattr(holder, name, None)
            if isinstance(classes, Sequence) and not isinstance(classes, str) and classes:
                return tuple(map(str, classes))
    return ()
