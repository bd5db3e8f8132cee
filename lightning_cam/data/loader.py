"""The fixed batch: pinned by index, through the run's own dataset, collate and transfer hooks; or out of what passed by."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_cam.data.annotations.annotated import load_annotated, refuse_annotations, with_masks
from lightning_cam.data.axes import axes_of, channels_second
from lightning_cam.data.batch import Batch, FixedBatch
from lightning_cam.data.collated import image_batch, read_batch
from lightning_cam.data.dataset import name_of, normalization_of, wrapped_datasets
from lightning_cam.data.passing import PassingSamples, is_stream
from lightning_cam.data.regions import with_formats
from lightning_cam.data.selection import ChosenLoader, choose_loader, chosen_indices
from lightning_cam.model.call.entries import locate
from lightning_cam.model.call.inputs import Inputs
from lightning_cam.model.layout import image_form
from lightning_cam.no_trace import isolated_generators, isolated_rng


@dataclass(frozen=True, eq=False)
class SampleSource:
    """Where samples come from, and how a batch of them gets to where the model is.

    Attributes:
        loaders: gives a loader, or a list or dict of them, and the name of their stage; asked only where it is needed.
        transfer: ``(batch, position of its loader) -> batch`` on the device.
        class_holders: objects beside the dataset that may hold class names.
        form: how many sides the images have, and how many channels if that is known; asked only where it is needed.
    """

    loaders: Callable[[], tuple[Any, str]]
    transfer: Callable[[Any, int], Any]
    class_holders: tuple[Any, ...]
    form: Callable[[], tuple[int, int | None]]

    def chosen(self, options: Batch) -> ChosenLoader:
        """The loader that is watched.

        Raises:
            ValueError: for one that does not exist.
        """
        # a hook of the user's may make it, and draw
        with isolated_rng(seed=0):
            return choose_loader(*self.loaders(), options.loader)


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
        chosen = source.chosen(options)
        data = chosen.dataset
        # a dataset and its transforms may keep generators of their own, from which training goes on to draw
        with isolated_generators(data):
            form = source.form()
            indices = chosen_indices(chosen, options, form)
            samples, masks = load_annotated(data, indices, options.annotations)
            raw = chosen.collate(samples)
            formatted = replace(options, regions={**options.annotations, **with_formats(options.region_keys, samples, raw)})
            batch = read_batch(source.transfer(raw, chosen.position), formatted, *form)
        batch = replace(
            with_masks(batch, masks),
            names=tuple(name_of(data, i) for i in indices),
            origin=f"{chosen.title}, indices {', '.join(map(str, indices))}",
        )
        return _described(batch, source, options, data)


def load_passed(passing: PassingSamples, source: SampleSource) -> FixedBatch:
    """The samples that passed by, which are on the device already.

    Raises:
        ValueError: for a batch that cannot be read.
    """
    if passing.error is not None:
        raise passing.error
    refuse_annotations(passing.options.annotations, f"the {passing.chosen.title}, whose samples have no index,")
    with isolated_rng(seed=0), torch.inference_mode(False), torch.no_grad():
        batch = read_batch(passing.batch, passing.options, *passing.form())
        batch = replace(batch, origin=f"the first of the {passing.chosen.title} that passed by (it has no index)")
        return _described(batch, source, passing.options, passing.chosen.dataset)


def load_plain_batch(model: nn.Module, data: Any, options: Batch) -> FixedBatch:
    """The samples out of a dataset, a loader or a batch, on the device of the model.

    Raises:
        ValueError: for data without samples by index, of which a loop may have taken some already.
    """
    device = _device_of(model, torch.device("cpu"))
    loader = data
    if isinstance(data, Dataset):
        loader = DataLoader(data, batch_size=16)
    if hasattr(loader, "dataset"):
        only_iterated = not ChosenLoader(loader, "data").has_indices
    else:
        only_iterated = is_stream(data)
        options = replace(options, samples=data)
    if only_iterated:
        raise ValueError(
            f"The {type(data).__name__} has no samples by index, and iterating it would take samples from your loop. Hand in a "
            "batch in its place, Watcher(model, batch): one that your loop was given, or next(iter(loader)) of another loader."
        )
    source = SampleSource(
        loaders=lambda: (loader, "data"),
        transfer=lambda batch, position: move_data_to_device(batch, device),
        class_holders=(model,),
        form=lambda: image_form(model),
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
    if is_stream(options.samples):
        raise ValueError(
            f"Batch(samples=...) was given a {type(options.samples).__name__}; expected how many samples, their indices, or a "
            "batch, such as Batch(samples=16) or Batch(samples=next(iter(loader)))."
        )
    refuse_annotations(options.annotations, "a batch handed in")
    # hooks may write into it, and it is read anew for every run
    raw = copy.deepcopy(options.samples)
    batch = read_batch(source.transfer(raw, 0), options, *source.form())
    return replace(batch, classes=_class_names(options, source, None))


def _described(batch: FixedBatch, source: SampleSource, options: Batch, data: Any) -> FixedBatch:
    return replace(
        batch,
        classes=_class_names(options, source, data),
        normalization=normalization_of(data),
    )


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
