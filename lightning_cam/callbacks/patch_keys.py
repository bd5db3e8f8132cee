"""Where a batch of patches holds their places and labels. b batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_cam.data.batch import Key
from lightning_cam.model.call.entries import DEEPEST, describe, names, part, steps
from lightning_cam.registry import did_you_mean

_LABELS = ("target", "targets", "label", "labels", "class", "classes")


@dataclass(frozen=True, eq=False)
class PatchRows:
    """The patches of a batch: names of patients or numbers that stand for them, places, and labels, NaN for none."""

    patients: Sequence[Any] | Tensor
    x: Float[Tensor, "b"]
    y: Float[Tensor, "b"]
    target: Float[Tensor, "b"]


@dataclass(frozen=True)
class PatchKeys:
    """Key, position, attribute or callable that takes each of these out of a batch; a name is also found in its parts.

    Attributes:
        patient: words or numbers.
        x, y: the place of each patch.
        target: its label; by default under one of the usual names, or second in a tuple.
    """

    patient: Key
    x: Key
    y: Key
    target: Key = None

    def read(self, batch: Any) -> PatchRows:
        """The patches of a batch.

        Raises:
            ValueError: for an entry that is not there, or is no number a patch.
        """
        x = _numbers(_take(batch, self.x, "x"), "x")
        y = _numbers(_take(batch, self.y, "y"), "y")
        target = _numbers(self._labels(batch), "target")
        patients = _take(batch, self.patient, "patient")
        if isinstance(patients, Tensor) and patients.ndim == 1:
            patients = patients.detach().clone()
        elif isinstance(patients, Tensor) or not isinstance(patients, Sequence) or isinstance(patients, str):
            raise ValueError(
                f"PatchMap(patient={self.patient!r}): expected a name or number a patch, [b]; got {_kind(patients)}."
            )
        lengths = {"patient": len(patients), "x": len(x), "y": len(y), "target": len(target)}
        if len(set(lengths.values())) > 1:
            counted = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise ValueError(f"A batch must have as many of each: {counted}.")
        return PatchRows(patients, x, y, target)

    def _labels(self, batch: Any) -> Any:
        if self.target is not None:
            return _take(batch, self.target, "target")
        for name in _LABELS:
            for value in _named(batch, name):
                return value
        # a tuple of images and labels, then whatever tells the places
        if isinstance(batch, list | tuple) and len(batch) > 1 and not isinstance(batch[1], dict):
            return batch[1]
        raise ValueError(
            f"No labels in the batch: it is {describe(batch)}. Say where they are: PatchMap(target='label'), or a callable."
        )


def _take(batch: Any, key: Key, option: str) -> Any:
    if callable(key):
        return key(batch)
    if isinstance(key, int) and isinstance(batch, list | tuple) and -len(batch) <= key < len(batch):
        return batch[key]
    for value in _named(batch, key):
        return value
    known = [str(name) for name in _all_names(batch)]
    raise ValueError(
        f"PatchMap({option}={key!r}): the batch has no such entry; it is {describe(batch)}.{did_you_mean(str(key), known)} "
        f"Say where it is: its name, or a callable, PatchMap({option}=lambda batch: ...)."
    )


def _named(batch: Any, name: Any, depth: int = DEEPEST) -> Iterator[Any]:
    """What stands under a name, in the batch itself before its parts."""
    known = steps(batch)
    for step in known:
        if step[1] == name:
            yield part(batch, step)
    if depth > 1:
        for step in known:
            yield from _named(part(batch, step), name, depth - 1)


def _all_names(batch: Any, depth: int = DEEPEST) -> Iterator[str]:
    yield from names(batch)
    if depth > 1:
        for step in steps(batch):
            yield from _all_names(part(batch, step), depth - 1)


def _numbers(value: Any, option: str) -> Float[Tensor, "b"]:
    """A number a patch, copied: what loads batches may use their memory for the next."""
    if not isinstance(value, Tensor):
        try:
            value = torch.tensor([float(number) for number in value])
        except (TypeError, ValueError):
            raise ValueError(_no_numbers(value, option)) from None
    if value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if value.ndim != 1:
        raise ValueError(_no_numbers(value, option))
    if option != "target":
        _refuse_rough(value, option)
    copied: Tensor = value.detach().to(torch.float32, copy=True)
    return copied


def _refuse_rough(places: Shaped[Tensor, "b"], option: str) -> None:
    if places.is_floating_point() and places.element_size() < 4:
        raise ValueError(
            f"PatchMap({option}=...): places come as {places.dtype}, as Lightning makes them of numbers with a point in this "
            f"precision, and are not exact in it. Give them as whole numbers: torch.tensor({option}, dtype=torch.long)."
        )


def _no_numbers(value: Any, option: str) -> str:
    way = f"Say where they are: PatchMap({option}=lambda batch: ...)."
    return f"PatchMap({option}=...): expected a number a patch, [b]; got {_kind(value)}. {way}"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"Tensor{list(value.shape)}"
    return type(value).__name__
