"""FixedBatch: which samples are watched, pinned by dataset index, and how a batch is read.

b batch, c channels, h w image, n boxes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Shaped
from torch import Tensor

from lightning_cam.data.annotations import Annotations
from lightning_cam.data.axes import parse_axes
from lightning_cam.data.fingerprints import fingerprints
from lightning_cam.data.regions import Points
from lightning_cam.model.call import Inputs
from lightning_cam.registry import did_you_mean

Key = int | str | Callable[[Any], Any] | None


@dataclass(frozen=True)
class Batch:
    """Which samples are watched and where a batch holds what.

    Args:
        samples: the first n of the dataset, a list of dataset indices, or a batch handed in as the loader would give it. Of a
            loader without samples by index (DALI, FFCV, streaming and iterable sets) the first n that pass by in the run.
        pictures: how many of them are shown, the first; by default all. Numbers are of all samples, in chunks of so many.
        per_class: take this many of each class instead of the first n, classes in order.
        loader: which of several validation loaders, by position or key.
        image: key, position, attribute or callable that takes the images [b c h w] out of a batch; signals [b c t] or volumes
            [b c d h w] for a model that begins with a convolution of one or three dimensions.
        axes: the order of the axes of these, ``"b t c h w"`` for instance, if it is another; ``b`` is the batch and ``c`` the
            channels. Videos in this order, and pictures with channels last, are recognised where the model's first convolution
            has one to four channels.
        picture: key, position, attribute or callable that takes what is shown out of a batch, [b c h w], where the model is
            given something else, such as packed patches; maps and regions are those of the picture.
        label: the same for the labels [b]; may be absent.
        regions: the same for boxes or masks; a dict names several regions. Boxes are (x0, y0, x1, y1), [b 4] or [b n 4], in
            pixels of the image the model sees, ends excluded, rows of NaN ignored; of signals (x0, x1), of volumes
            (x0, y0, z0, x1, y1, z1) with z along d. Masks are of the image's size, [b h w], and so for one side or three.
            Torchvision's tensors tell their format, a list with those of each sample or collated by default. In place of a key
            ``lightning_cam.Points(key)`` makes discs of points, and ``lightning_cam.Annotations`` takes boxes, polygons or
            points out of a CSV, COCO or Pascal VOC file.
        classes: class names; by default the dataset's or datamodule's own ``classes``.

    Raises:
        ValueError: for a count below 1, or axes without a batch or channels.
    """

    samples: Any = 16
    per_class: int | None = None
    loader: int | str = 0
    image: Key = None
    axes: str | None = None
    picture: Key = None
    label: Key = None
    regions: Key | Points | Annotations | Mapping[str, Key | Points | Annotations] = None
    classes: Sequence[str] | None = None
    pictures: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or (isinstance(self.samples, int) and self.samples < 1):
            raise ValueError(f"Batch(samples={self.samples!r}): expected a count of at least 1, indices, or a batch.")
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"Batch(per_class={self.per_class!r}): expected at least 1.")
        # exactly int: True is no count
        if self.pictures is not None and (type(self.pictures) is not int or self.pictures < 1):
            raise ValueError(
                f"Batch(pictures={self.pictures!r}): expected how many of the samples are shown, at least 1, "
                "such as Batch(samples=256, pictures=16)."
            )
        if self.axes is not None:
            parse_axes(self.axes)

    @classmethod
    def of(cls, spec: Any) -> "Batch":
        """A Batch from what a callback accepts: itself, its fields as a dict, a count, indices, or a batch handed in.

        Raises:
            ValueError: for a field it does not have.

        Example:
            >>> Batch.of({"per_class": 2}).per_class
            2
        """
        if isinstance(spec, cls):
            return spec
        fields = list(cls.__dataclass_fields__)
        if not isinstance(spec, Mapping) or not spec:
            return cls(samples=spec)
        if any(isinstance(value, Tensor) for value in spec.values()):
            return cls(samples=spec)
        unknown = [key for key in spec if key not in fields]
        if not unknown:
            return cls(**spec)
        # a mistyped option, or a batch that is a dict of other things than tensors
        if _plain(spec):
            hint = did_you_mean(str(unknown[0]), fields)
            raise ValueError(f"Batch has no option {unknown[0]!r}.{hint} It takes: {', '.join(fields)}.")
        return cls(samples=spec)

    @property
    def annotations(self) -> Mapping[str, Annotations]:
        """The regions that are in files."""
        return {name: key for name, key in self._regions.items() if isinstance(key, Annotations)}

    @property
    def region_keys(self) -> Mapping[str, Any]:
        """The regions that are in the batch itself, by name."""
        return {name: key for name, key in self._regions.items() if not isinstance(key, Annotations)}

    @property
    def _regions(self) -> Mapping[str, Any]:
        if self.regions is None:
            return {}
        if isinstance(self.regions, Mapping):
            return self.regions
        return {"object": self.regions}

    @property
    def is_handed_in(self) -> bool:
        """Whether the samples are a batch handed in rather than a choice from a dataset."""
        return not isinstance(self.samples, int) and not is_indices(self.samples)


@dataclass(frozen=True, eq=False)
class FixedBatch:
    """The samples every look shows, on the model's device.

    Attributes:
        images: the model's input, [b c *s] if it is a picture.
        labels: their classes, [b], or what the batch holds in their place.
        regions: masks by name.
        names: the samples' names.
        classes: the classes' names.
        normalization: mean and standard deviation by which the dataset normalised the images.
        origin: where the samples come from, in words.
        inputs: the whole batch, from which the model may be given more.
        picture: what is shown, where the model's input is no picture.
    """

    images: Shaped[Tensor, "b ..."]
    labels: Shaped[Tensor, "b ..."] | None = None
    regions: Mapping[str, Bool[Tensor, "b *s"]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    origin: str = "given"
    inputs: Inputs = field(default_factory=Inputs)
    picture: Shaped[Tensor, "b c *s"] | None = None

    @property
    def pictures(self) -> Shaped[Tensor, "b c *s"]:
        """What is shown: the model's input, unless it is no picture."""
        if self.picture is None:
            return self.images
        return self.picture

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """A hash of each sample's values; taken once, as it is taken on the host."""
        return fingerprints(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def first(self, n: int | None) -> "FixedBatch":
        """The first n samples; all without a number."""
        if n is None or n >= len(self):
            return self
        return self.part(slice(n))

    def part(self, samples: slice) -> "FixedBatch":
        """The samples in a slice."""
        labels = self.labels
        if labels is not None:
            labels = labels[samples]
        picture = self.picture
        if picture is not None:
            picture = picture[samples]
        return replace(
            self,
            images=self.images[samples],
            labels=labels,
            inputs=self.inputs.part(samples),
            picture=picture,
            regions={name: mask[samples] for name, mask in self.regions.items()},
            names=self.names[samples],
        )

    def class_name(self, index: int) -> str:
        """The class's name where names are known, else its number."""
        if 0 <= index < len(self.classes):
            return self.classes[index]
        return f"class {index}"


def is_indices(samples: Any) -> bool:
    """Whether this is a list of dataset indices."""
    # exactly int: True is no index
    return isinstance(samples, Sequence) and len(samples) > 0 and all(type(i) is int for i in samples)


def _plain(value: Any) -> bool:
    """Whether these are options, as a YAML file holds them, rather than a batch."""
    if isinstance(value, Mapping):
        return all(map(_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, int | float | str) or callable(value)
