"""Inputs: the whole batch that samples came in, and its rows for some of them. b batch, n changed samples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lightning_cam.model.call.entries import DEEPEST, Path, has_rows, mapped, with_images


@dataclass(frozen=True, eq=False)
class Inputs:
    """The batch that samples came in, from which a model may be given more than the images.

    Attributes:
        batch: the whole batch, as it was moved to the device; None where there are only images.
        path: where the images are in it; None where they are no part of it.
        order: the places of the axes of images [b c *s] in what the model is given; None where it is given [b c *s].
        count: how many samples the batch has.

    Example:
        >>> inputs = Inputs({"image": torch.zeros(4, 3, 8, 8), "place": torch.arange(4), "scale": 2}, count=4)
        >>> inputs.rows(slice(1, 2), 3)["place"].tolist()
        [1, 1, 1]
    """

    batch: Any = None
    path: Path | None = None
    order: tuple[int, ...] | None = None
    count: int = 0

    def rows(self, samples: slice, n: int) -> Any:
        """The batch of the samples in a slice, or n times that of the one sample that it holds.

        What has a row a sample, tensors and lists, is cut or repeated; the rest is passed as it is. Whatever is done to the
        result, the batch stays.
        """
        if isinstance(self.batch, Tensor):
            return _rows(self.batch, self.count, samples, n, DEEPEST)
        # the batch itself is no row of samples, also where a tuple of two holds two samples
        return mapped(self.batch, lambda value: _rows(value, self.count, samples, n, DEEPEST))

    def with_images(self, batch: Any, images: Tensor) -> Any:
        """A batch with other images, in the model's order of axes, in their place."""
        assert self.path is not None
        return with_images(batch, self.path, images)

    def to_model(self, images: Tensor) -> Tensor:
        """Images [b c *s] in the order of axes that the model takes."""
        if self.order is None:
            return images
        return images.permute(self.order)

    def part(self, samples: slice) -> "Inputs":
        """Those of the samples in a slice."""
        n = len(range(self.count)[samples])
        return replace(self, batch=self.rows(samples, n), count=n)


def _rows(value: Any, count: int, samples: slice, n: int, deepest: int) -> Any:
    if isinstance(value, Tensor):
        # copies, since a forward may change what it is given, and every look shows the same
        if not has_rows(value, count):
            return value.clone()
        chosen = value[samples]
        return chosen.expand(n, *chosen.shape[1:]).clone()
    # modalities or views are a list of tensors that have the rows themselves, also where there are as many as samples
    if isinstance(value, list | tuple) and len(value) == count and not has_rows(value, count):
        return _repeated(value, samples, n)
    if deepest == 0:
        return value
    return mapped(value, lambda inner: _rows(inner, count, samples, n, deepest - 1))


def _repeated(items: Sequence[Any], samples: slice, n: int) -> Any:
    chosen = list(items[samples])
    if len(chosen) == 1:
        chosen = chosen * n
    if isinstance(items, tuple):
        return tuple(chosen)
    return chosen
