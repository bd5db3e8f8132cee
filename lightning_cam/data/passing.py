"""Samples out of the batches that pass by, for a loader that has none by index: nothing is pulled from it. b batch."""

from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lightning_cam.data.batch import Batch, FixedBatch, is_indices
from lightning_cam.data.collated import has_images, read_batch
from lightning_cam.data.selection import ChosenLoader
from lightning_cam.model.call.entries import DEEPEST, has_rows, mapped, part, steps, with_parts
from lightning_cam.no_trace import isolated_rng

_LINES = "Write Batch(samples=16) for the first that pass by, or hand a batch in: Batch(samples=batch)."


class PassingSamples:
    """Copies of the first samples that pass by.

    Args:
        chosen: the loader that they are of.
        options: where a batch holds what.
        form: gives how many sides the images have, and how many channels if that is known.
        wanted: how many samples are taken at most.

    Attributes:
        batch: what was taken, as one batch; None before the first.
        count: how many samples that is.
        error: why nothing can be taken; for the look to raise, since here it would end one process of several.
    """

    def __init__(
        self,
        chosen: ChosenLoader,
        options: Batch,
        form: Callable[[], tuple[int, int | None]],
        wanted: int,
    ) -> None:
        self.chosen = chosen
        self.options = options
        self.form = form
        self.wanted = wanted
        self.batch: Any = None
        self.count = 0
        self.error: Exception | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a look has something to show, or to raise."""
        return self.count > 0 or self.error is not None

    @property
    def is_complete(self) -> bool:
        """Whether no further batch is of use."""
        return self.is_ready and self.count >= self.wanted

    def take(self, batch: Any) -> None:
        """Copy samples out of a batch that is where the model is, as long as there are fewer than wanted."""
        if self.count >= self.wanted or batch is None:
            return
        try:
            # a tensor made in inference mode could take no part in a gradient at a look
            with isolated_rng(), torch.inference_mode(False), torch.no_grad():
                self._add(read_batch(batch, self.options, *self.form()))
        except Exception as error:
            if not self.count:
                self.error = error
            # a later batch of other sizes: what was taken before is watched
            self.wanted = self.count

    def _add(self, samples: FixedBatch) -> None:
        samples = samples.first(self.wanted - self.count)
        if not len(samples):
            return
        # a loader may fill the same memory anew, and a step may write into its batch
        rows = copied(samples.inputs.batch)
        if self.count:
            rows = joined(self.batch, rows, (self.count, len(samples)))
        self.batch = rows
        self.count += len(samples)


def joined(first: Any, second: Any, counts: tuple[int, int]) -> Any:
    """Two batches as one: what has a row a sample, tensors and lists, one behind the other; the rest as in the first.

    Args:
        first: a batch.
        second: a batch of the same make.
        counts: how many samples each has.

    Raises:
        RuntimeError: for tensors whose rows differ in size.

    Example:
        >>> joined({"x": torch.ones(2), "name": ["a", "b"]}, {"x": torch.zeros(1), "name": ["c"]}, (2, 1))
        {'x': tensor([1., 1., 0.]), 'name': ['a', 'b', 'c']}
    """
    if isinstance(first, Tensor):
        return _joined(first, second, counts, DEEPEST)
    return _joined_parts(first, second, counts, DEEPEST)


def _joined(first: Any, second: Any, counts: tuple[int, int], deepest: int) -> Any:
    rows = has_rows(first, counts[0]) and has_rows(second, counts[1])
    if isinstance(first, Tensor):
        return torch.cat([first, second]) if rows else first
    if _is_list(first, counts[0]) and _is_list(second, counts[1]) and not rows:
        return type(first)([*first, *second])
    if deepest == 0:
        return first
    return _joined_parts(first, second, counts, deepest - 1)


def _joined_parts(first: Any, second: Any, counts: tuple[int, int], deepest: int) -> Any:
    changed = {}
    for step in steps(first):
        value = part(first, step)
        longer = _joined(value, part(second, step), counts, deepest)
        if longer is not value:
            changed[step] = longer
    if not changed:
        return first
    return with_parts(first, changed)


def _is_list(value: Any, count: int) -> bool:
    return type(value) in (list, tuple) and len(value) == count


def copied(batch: Any, deepest: int = DEEPEST) -> Any:
    """A batch whose tensors have memory of their own."""
    if isinstance(batch, Tensor):
        return batch.detach().clone()
    if deepest == 0:
        return batch
    return mapped(batch, lambda value: copied(value, deepest - 1))


def refuse_choice(options: Batch, title: str) -> None:
    """Refuse samples by index or class where there is neither.

    Raises:
        ValueError: for anything but a count.
    """
    if options.per_class is not None:
        given = f"per_class={options.per_class}"
    elif is_indices(options.samples):
        given = f"samples={options.samples!r}"
    else:
        return
    raise ValueError(f"Batch({given}): the {title} has no samples by index. {_LINES}")


def is_stream(data: Any) -> bool:
    """Whether data can only be iterated, by which samples are taken from whoever iterates it: no batch, and no list of them.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> is_stream(iter([1])), is_stream(DataLoader([1])), is_stream({"image": torch.rand(1, 3, 8, 8)})
        (True, True, False)
    """
    if isinstance(data, IterableDataset) or hasattr(data, "__next__"):
        return True
    if hasattr(data, "__getitem__") or not hasattr(data, "__iter__"):
        return False
    # a batch may be iterated and know its size, as anomalib's dataclasses do
    is_loader = hasattr(data, "batch_size") and not is_dataclass(data)
    return is_loader or not has_images(data)
