"""The fixed batch out of a dataset: pinned by index, through the run's own dataset, collate and transfer hooks."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightning_cam.data.axes import axes_of, channels_second
from lightning_cam.data.batch import Batch, FixedBatch, is_indices
from lightning_cam.data.collated import image_batch, read_batch
from lightning_cam.data.dataset import first_per_class, labels_of, name_of, normalization_of, wrapped_datasets
from lightning_cam.model.call.entries import locate
from lightning_cam.model.call.inputs import Inputs
from lightning_cam.model.layout import image_form
from lightning_cam.no_trace import isolated_generators, isolated_rng

_SCAN = 2000  # samples loaded at most to find n per class in a dataset that keeps no labels


@dataclass(frozen=True, eq=False)
class SampleSource:
    """Where samples come from, and how a batch of them gets to where the model is.

    Attributes:
        loaders: gives a loader, or a list or dict of them, and the name of their stage; asked only where it is needed.
        transfer: ``(batch, position of its loader) -> batch`` on the device.
        class_holders: objects beside the dataset that may hold class names.
        form: how many sides the images have, and how many channels if that is known.
        owner: who speaks in warnings.
    """

    loaders: Callable[[], tuple[Any, str]]
    transfer: Callable[[Any, int], Any]
    class_holders: tuple[Any, ...]
    form: tuple[int, int | None]
    owner: str = "CAMCallback"


def load_fixed_batch(source: SampleSource, options: Batch) -> FixedBatch:
    """Collate the chosen samples and move them as a validation batch is moved; the result is on the device.

    Randomness in the dataset is seeded, so that the same sample comes out the same at a resumed run.

    Raises:
        ValueError: for an index out of range, a loader that does not exist, or a batch that cannot be read.
    """
    # tensors made in inference mode could take no part in a gradient at a look
    with isolated_rng(seed=0), torch.inference_mode(False), torch.no_grad():
        if options.is_handed_in:
            return _handed_in(source, options)
        loader, title, position = _choose_loader(source, options.loader)
        data = getattr(loader, "dataset", None)
        # a dataset and its transforms may keep generators of their own, from which training goes on to draw
        with isolated_generators(data):
            if data is not None and _has_indices(data):
                indices = _indices(data, options, loader, source.form)
                raw = _collate(loader)([data[i] for i in indices])
            else:
                indices = []
                raw = _first_samples(loader, data, options)
        batch = read_batch(source.transfer(raw, position), options, *source.form)
        if indices:
            names = tuple(name_of(data, i) for i in indices)
            origin = f"{title}, indices {', '.join(map(str, indices))}"
            batch = replace(batch, names=names, origin=origin)
        else:
            warnings.warn(
                f"{source.owner}: {title} has no samples by index, so its first samples, read once, are watched.",
                stacklevel=2,
            )
            # a batch of the loader's own may be larger than what is to be watched
            batch = batch.first(_count(options))
            batch = replace(batch, origin=f"the first samples of {title} (it has no index)")
        return replace(
            batch,
            classes=_class_names(options, source, data),
            normalization=normalization_of(data),
        )


def load_plain_batch(model: nn.Module, data: Any, options: Batch) -> FixedBatch:
    """The samples out of a dataset, a loader or a batch, on the device of the model."""
    device = _device_of(model, torch.device("cpu"))
    loader = data
    if isinstance(data, Dataset):
        loader = DataLoader(data, batch_size=16)
    elif not hasattr(data, "dataset"):
        options = replace(options, samples=data)
    source = SampleSource(
        loaders=lambda: (loader, "data"),
        transfer=lambda batch, position: move_data_to_device(batch, device),
        class_holders=(model,),
        form=image_form(model),
        owner="Watcher",
    )
    return load_fixed_batch(source, options)


def load_samples(model: nn.Module, images: Any, batch: Any = None) -> FixedBatch:
    """Images by themselves, with what else belongs to them, or a ``Batch`` handed in, on the device of the model.

    Raises:
        ValueError: for anything but images, or a batch of which nothing can be read.
    """
    if isinstance(images, Batch):
        return load_plain_batch(model, images.samples, images)
    sides, channels = image_form(model)
    several = image_batch(images, sides)
    device = _device_of(model, several.device)
    order = None
    axes = axes_of(tuple(several.shape), sides, channels)
    if axes is not None:
        several, order = channels_second(several, axes)
    moved = move_data_to_device(batch, device)
    inputs = Inputs(moved, locate(batch, images), order, len(several))
    return FixedBatch(several.to(device), inputs=inputs)


def _device_of(model: nn.Module, default: torch.device) -> torch.device:
    """Where a model is; one without parameters runs where its input is."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return default
    return parameter.device


def _handed_in(source: SampleSource, options: Batch) -> FixedBatch:
    # hooks may write into it, and it is read anew for every run
    raw = copy.deepcopy(options.samples)
    batch = read_batch(source.transfer(raw, 0), options, *source.form)
    return replace(batch, classes=_class_names(options, source, None))


def _choose_loader(source: SampleSource, which: int | str) -> tuple[Any, str, int]:
    """The loader, what it is called, and its position among the loaders of its stage."""
    loaders, stage = source.loaders()
    if isinstance(loaders, Mapping):
        return _loader_by_key(loaders, stage, which)
    if not isinstance(loaders, Sequence):
        loaders = [loaders]
    if not isinstance(which, int) or not 0 <= which < len(loaders):
        raise ValueError(f"Batch(loader={which!r}): the {stage} loaders are 0 to {len(loaders) - 1}.")
    title = f"{stage} set"
    if len(loaders) > 1:
        title = f"{stage} set {which}"
    return loaders[which], title, which


def _loader_by_key(loaders: Mapping[Any, Any], stage: str, which: int | str) -> tuple[Any, str, int]:
    keys = list(loaders)
    key = which
    # a number is a position, unless the loaders have numbers for keys
    if isinstance(which, int) and which not in loaders and which < len(keys):
        key = keys[which]
    if key not in loaders:
        raise ValueError(f"Batch(loader={which!r}): the {stage} loaders are {', '.join(map(repr, keys))}.")
    return loaders[key], f"{stage} set {key!r}", keys.index(key)


def _has_indices(data: Any) -> bool:
    if data is None or isinstance(data, IterableDataset):
        return False
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _indices(data: Any, options: Batch, loader: Any, form: tuple[int, int | None]) -> list[int]:
    if options.per_class is not None:
        labels = labels_of(data)
        if labels is None:
            labels = _scanned_labels(data, options, loader, form)
        return first_per_class(labels, options.per_class)
    if not is_indices(options.samples):
        return list(range(min(options.samples, len(data))))
    wrong = [i for i in options.samples if not -len(data) <= i < len(data)]
    if wrong:
        raise ValueError(f"Sample {wrong[0]} is out of range: the dataset has {len(data)} samples, 0 to {len(data) - 1}.")
    # negative indices count from the end, and captions name the position
    return [i % len(data) for i in options.samples]


def _scanned_labels(data: Any, options: Batch, loader: Any, form: tuple[int, int | None]) -> Int[Tensor, "n"]:
    """The first samples' classes, each sample loaded and collated."""
    collate = _collate(loader)
    labels = []
    for i in range(min(len(data), _SCAN)):
        label = read_batch(collate([data[i]]), options, *form).labels
        if label is None or label.numel() != 1:
            raise ValueError("Batch(per_class=...) needs one class a sample; name the labels with Batch(label=...).")
        labels.append(label.flatten().cpu())
    return torch.cat(labels)


def _first_samples(loader: Any, data: Any, options: Batch) -> Any:
    """The first samples of data without indices, as a batch."""
    if is_indices(options.samples) or options.per_class is not None:
        raise ValueError("Samples can be chosen by index or class only from a dataset with indices; give a count or a batch.")
    if data is not None and getattr(loader, "batch_size", None) is not None:
        # from the dataset itself: the loader would start workers and draw a whole batch
        samples = list(islice(iter(data), _count(options)))
        if samples:
            return _collate(loader)(samples)
    elif data is not None:
        # a dataset without a batch size gives batches itself
        for batch in data:
            return batch
    else:
        for batch in loader:
            return batch
    raise ValueError("The loader gave no sample, so there is nothing to watch.")


def _count(options: Batch) -> int:
    if isinstance(options.samples, int):
        return options.samples
    return len(options.samples)


def _collate(loader: Any) -> Callable[[Any], Any]:
    return getattr(loader, "collate_fn", None) or default_collate


def _class_names(options: Batch, source: SampleSource, data: Any) -> tuple[str, ...]:
    """The names given, else the first found in the dataset, those that it wraps, and the other holders."""
    if options.classes is not None:
        return tuple(map(str, options.classes))
    for holder in (*wrapped_datasets(data), *source.class_holders):
        for attribute in ("classes", "class_names"):
            names = getattr(holder, attribute, None)
            if isinstance(names, Sequence) and not isinstance(names, str) and names:
                return tuple(map(str, names))
    return ()
