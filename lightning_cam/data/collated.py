"""Images, labels and regions out of a collated batch. b batch, c channels, s sides of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from lightning_cam.data.axes import axes_of, channels_second
from lightning_cam.data.batch import Batch, FixedBatch, Key
from lightning_cam.data.dataset import numbers
from lightning_cam.data.regions import Points, to_mask
from lightning_cam.model.call.entries import describe, in_code, locate
from lightning_cam.model.call.inputs import Inputs

_IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "input", "inputs", "data")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "classes")
_BATCH_SHAPES = {1: "signals [b c t]", 2: "images [b c h w]", 3: "volumes [b c d h w]"}
_IMAGE_SHAPES = {1: "c l", 2: "c h w", 3: "c d h w"}


def read_batch(batch: Any, options: Batch, sides: int = 2, channels: int | None = None) -> FixedBatch:
    """Take images, labels and regions out of a collated batch that is already where the model is.

    Args:
        batch: the batch as the loader gives it.
        options: where it holds what.
        sides: how many sides the model's images have: 1 for signals, 3 for volumes and videos.
        channels: how many channels the model takes, if it is known; by them images with channels elsewhere are recognised.

    Raises:
        ValueError: for a batch without an image, or a key it does not have.

    Example:
        >>> read_batch({"scan": torch.zeros(4, 3, 8, 8)}, Batch(image="scan")).names
        ('sample 0', 'sample 1', 'sample 2', 'sample 3')
    """
    entry = _entry(batch, options.image)
    order = None
    picture = None
    if options.picture is None:
        images, order = _as_pictures(entry, batch, options, (sides, channels))
    else:
        images = _model_input(entry, batch)
        picture, _ = _as_pictures(_take(batch, options.picture, "picture"), batch, options, (sides, None))
    inputs = Inputs(batch, locate(batch, entry), order, len(images))
    labels = _labels(batch, options.label, images)
    masks = {}
    for name, key in options.region_keys.items():
        masks[name] = _mask(batch, key, images if picture is None else picture)
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"The batch has {len(images)} images and {len(labels)} labels; name them with Batch(label=...).")
    names = tuple(f"sample {i}" for i in range(len(images)))
    return FixedBatch(images, labels, masks, names=names, inputs=inputs, picture=picture)


def image_batch(images: Any, sides: int) -> Shaped[Tensor, "b c *s"]:
    """Images by themselves as a batch: one image becomes a batch of one.

    Raises:
        ValueError: for anything but a tensor of one image or of several, each of so many sides.
    """
    if not isinstance(images, Tensor) or images.ndim not in (sides + 1, sides + 2):
        shape = _IMAGE_SHAPES[sides]
        kind = type(images).__name__
        if isinstance(images, Tensor):
            kind = str(tuple(images.shape))
        raise ValueError(f"explain takes images [b {shape}] or one image [{shape}] as a tensor; got {kind}.")
    if images.ndim == sides + 1:
        return images[None]
    return images


def has_images(batch: Any) -> bool:
    """Whether a batch holds something under a name that images usually have, or where they usually stand."""
    return _search(batch, _IMAGE_KEYS, 0) is not None


def _entry(batch: Any, key: Key) -> Any:
    if key is None:
        return _search(batch, _IMAGE_KEYS, 0)
    return _take(batch, key, "image")


def _stacked(images: Any) -> Any:
    """A list of images as one tensor; whatever else stays as it is."""
    if not isinstance(images, list | tuple) or not images or not all(isinstance(image, Tensor) for image in images):
        return images
    if len({image.shape for image in images}) > 1:
        raise ValueError("The images of the batch differ in size, so they cannot be shown as one batch; resize them.")
    return torch.stack(list(images))


def _as_pictures(
    entry: Any,
    batch: Any,
    options: Batch,
    form: tuple[int, int | None],
) -> tuple[Shaped[Tensor, "b c *s"], tuple[int, ...] | None]:
    """Images as [b c *s], and the order of axes that the model takes, where it is another."""
    sides, channels = form
    place = in_code(locate(batch, entry))
    images = _stacked(entry)
    if not isinstance(images, Tensor):
        raise ValueError(_no_images(batch, sides, f"a {type(images).__name__}"))
    axes = options.axes or axes_of(tuple(images.shape), sides, channels)
    if axes is not None:
        return channels_second(images, axes)
    # without a channel axis only where the user says that these are the images: they might be masks
    named = options.image is not None or options.picture is not None
    if images.ndim == sides + 1 and named:
        images = images[:, None]
    if images.ndim != sides + 2:
        text = _no_images(batch, sides, f"shape {tuple(images.shape)}")
        if images.ndim == sides + 3:
            text += f" If a sample has several of them, choose which is shown: Batch(picture=lambda batch: {place}[:, 0])."
        raise ValueError(text)
    return images, None


def _model_input(entry: Any, batch: Any) -> Shaped[Tensor, "b ..."]:
    """What the model is given beside a picture: any tensor with a row a sample."""
    entry = _stacked(entry)
    if not isinstance(entry, Tensor) or not entry.ndim:
        raise ValueError(
            f"No tensor for the model in the batch: {describe(batch)}; found a {type(entry).__name__}. "
            "Say where it is with Batch(image=...): a key, a position or a callable."
        )
    return entry


def _no_images(batch: Any, sides: int, got: str) -> str:
    return (
        f"No {_BATCH_SHAPES[sides]} in the batch: {describe(batch)}; found {got}. "
        "Say where they are with Batch(image=...): a key, a position or a callable; or in which order their axes are, with "
        "Batch(axes='b t c h w')."
    )


def _labels(batch: Any, key: Key, images: Tensor) -> Tensor | None:
    if key is None:
        labels = _search(batch, _LABEL_KEYS, 1)
    else:
        labels = _take(batch, key, "label")
    if isinstance(labels, Tensor):
        return labels.to(images.device)
    # words, as captions are, name no class
    if labels is None or not numbers(labels):
        return None
    return torch.as_tensor(labels, device=images.device)


def _mask(batch: Any, key: Any, images: Tensor) -> Bool[Tensor, "b *s"]:
    if isinstance(key, Points):
        return key.to_mask(_take(batch, key.key, "regions"), images)
    return to_mask(_take(batch, key, "regions"), images)


def _search(batch: Any, keys: Sequence[str], position: int) -> Any:
    """What stands under one of the keys, or at the position; else None."""
    if isinstance(batch, Tensor):
        batch = (batch,)
    for key in keys:
        if isinstance(batch, Mapping):
            value = batch.get(key)
        else:
            value = getattr(batch, key, None)
        # not a method or a word that happens to have this name
        if isinstance(value, Tensor | list | tuple):
            return value
    if isinstance(batch, list | tuple) and len(batch) > position:
        return batch[position]
    return None


def _take(batch: Any, key: Key, option: str) -> Any:
    if callable(key):
        return key(batch)
    try:
        # a number is a position, except where the batch has names
        if isinstance(batch, Mapping) or isinstance(key, int):
            return batch[key]
        return getattr(batch, str(key))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"Batch({option}={key!r}): the batch has no such entry; it is {describe(batch)}.") from None
