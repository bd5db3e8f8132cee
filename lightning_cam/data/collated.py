"""Images, labels and regions out of a collated batch. b batch, c channels, s sides of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from lightning_cam.data.batch import Batch, FixedBatch, Key
from lightning_cam.data.dataset import numbers
from lightning_cam.data.regions import to_mask

_IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "input", "inputs", "data")


_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "classes")


def read_batch(batch: Any, how: Batch, sides: int = 2) -> FixedBatch:
    """Take images, labels and regions out of a collated batch that is already where the model is.

    Args:
        batch: the batch as the loader gives it.
        how: where it holds what.
        sides: how many sides the model's images have: 1 for signals, 3 for volumes and videos.

    Raises:
        ValueError: for a batch without an image, or a key it does not have.
    """
    images = _images(batch, how.image, sides)
    labels = _take(batch, how.label, "label") if how.label is not None else _find(batch, _LABEL_KEYS, 1)
    if labels is not None and not isinstance(labels, Tensor):
        labels = torch.as_tensor(labels, device=images.device) if numbers(labels) else None
    keys = how.regions if isinstance(how.regions, Mapping) else {} if how.regions is None else {"object": how.regions}
    masks = {name: to_mask(_take(batch, key, "regions"), images) for name, key in keys.items()}
    if labels is not None:
        labels = labels.to(images.device)
        if len(labels) != len(images):
            raise ValueError(f"The batch has {len(images)} images and {len(labels)} labels; name them with Batch(label=...).")
    return FixedBatch(images, labels, masks, names=tuple(f"sample {i}" for i in range(len(images))))


def _images(batch: Any, key: Key, sides: int) -> Shaped[Tensor, "b c *s"]:
    found = _take(batch, key, "image") if key is not None else _find(batch, _IMAGE_KEYS, 0)
    if isinstance(found, list | tuple) and found and all(isinstance(one, Tensor) for one in found):
        if len({one.shape for one in found}) > 1:
            raise ValueError("The images of the batch differ in size, so they cannot be shown as one batch; resize them.")
        found = torch.stack(list(found))
    if isinstance(found, Tensor) and found.ndim == sides + 1 and key is not None:
        found = found[:, None]
    if not isinstance(found, Tensor) or found.ndim != sides + 2:
        shape = ("signals [b c t]", "images [b c h w]", "volumes [b c d h w]")[sides - 1]
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(
            f"No {shape} in the batch: {describe(batch)}; found {what}. Say where they are with Batch(image=...): "
            "a key, a position or a callable."
        )
    return found


def _find(batch: Any, keys: Sequence[str], position: int) -> Any:
    if isinstance(batch, Tensor):
        return batch if position == 0 else None
    for key in keys:
        value = batch.get(key) if isinstance(batch, Mapping) else getattr(batch, key, None)
        if isinstance(value, Tensor | list | tuple):
            return value
    if isinstance(batch, list | tuple) and len(batch) > position:
        return batch[position]
    return None


def _take(batch: Any, key: Key, what: str) -> Any:
    if callable(key):
        return key(batch)
    try:
        keyed = isinstance(batch, Mapping) or isinstance(key, int)
        return batch[key] if keyed else getattr(batch, str(key))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"Batch({what}={key!r}): the batch has no such entry; it is {describe(batch)}.") from None


def describe(batch: Any) -> str:
    """A batch in a few words, for error messages."""
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(map(str, batch))}"
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of {', '.join(map(_short, batch))}"
    return _short(batch)


def _short(value: Any) -> str:
    return f"Tensor{list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
