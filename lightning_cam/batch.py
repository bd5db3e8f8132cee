"""FixedBatch: which samples are watched, pinned by dataset index, and how a batch is read.

b batch, c channels, h w image, n boxes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from lightning_cam.dataset import numbers
from lightning_cam.family import nearest
from lightning_cam.region import to_mask

Key = int | str | Callable[[Any], Any] | None

_IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "input", "inputs", "data")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "classes")


@dataclass(frozen=True)
class Batch:
    """Which samples are watched and where a batch holds what.

    Args:
        samples: the first n of the dataset, a list of dataset indices, or a batch handed in as the loader would give it.
        per_class: take this many of each class instead of the first n, classes in order.
        loader: which of several validation loaders, by position or key.
        image: key, position, attribute or callable that takes the images [b c h w] out of a batch; signals [b c t] or volumes
            [b c d h w] for a model that begins with a convolution of one or three dimensions.
        label: the same for the labels [b]; may be absent.
        regions: the same for boxes (x0, y0, x1, y1; [b 4] or [b n 4], pixels of the image the model sees, ends excluded,
            rows of NaN ignored) or masks [b h w]; a dict names several regions.
        classes: class names; by default the dataset's or datamodule's own ``classes``.
    """

    samples: Any = 16
    per_class: int | None = None
    loader: int | str = 0
    image: Key = None
    label: Key = None
    regions: Key | Mapping[str, Key] = None
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or (isinstance(self.samples, int) and self.samples < 1):
            raise ValueError(f"Batch(samples={self.samples!r}): expected a count of at least 1, indices, or a batch.")
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"Batch(per_class={self.per_class!r}): expected at least 1.")

    @classmethod
    def of(cls, spec: Any) -> "Batch":
        """A Batch from what a callback accepts: itself, its fields as a dict, a count, indices, or a batch handed in."""
        if isinstance(spec, cls):
            return spec
        fields = list(cls.__dataclass_fields__)
        if not isinstance(spec, Mapping) or not spec or any(isinstance(value, Tensor) for value in spec.values()):
            return cls(samples=spec)
        unknown = [key for key in spec if key not in fields]
        if not unknown:
            return cls(**spec)
        if _plain(spec):
            hint = nearest(str(unknown[0]), fields)
            raise ValueError(f"Batch has no option {unknown[0]!r}.{hint} It takes: {', '.join(fields)}.")
        return cls(samples=spec)

    @property
    def given(self) -> bool:
        """Whether the samples are a batch handed in rather than a choice from a dataset."""
        return not isinstance(self.samples, int) and not is_indices(self.samples)


@dataclass(frozen=True, eq=False)
class FixedBatch:
    """The samples every look shows, on the model's device."""

    images: Shaped[Tensor, "b c *s"]
    labels: Shaped[Tensor, "b ..."] | None = None
    regions: Mapping[str, Bool[Tensor, "b h w"]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    origin: str = "given"

    def __len__(self) -> int:
        return len(self.images)

    def first(self, n: int) -> "FixedBatch":
        """The first n samples."""
        return replace(
            self,
            images=self.images[:n],
            labels=None if self.labels is None else self.labels[:n],
            regions={name: mask[:n] for name, mask in self.regions.items()},
            names=self.names[:n],
        )

    def class_name(self, index: int) -> str:
        """The class's name where names are known, else its number."""
        return self.classes[index] if 0 <= index < len(self.classes) else f"class {index}"


def is_indices(samples: Any) -> bool:
    """Whether this is a list of dataset indices."""
    return isinstance(samples, Sequence) and len(samples) > 0 and all(type(i) is int for i in samples)


def read(batch: Any, how: Batch, sides: int = 2) -> FixedBatch:
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


def _plain(value: Any) -> bool:
    """Whether these are options, as a YAML file holds them, rather than a batch."""
    if isinstance(value, Mapping | list | tuple):
        return all(map(_plain, value.values() if isinstance(value, Mapping) else value))
    return value is None or isinstance(value, int | float | str) or callable(value)
