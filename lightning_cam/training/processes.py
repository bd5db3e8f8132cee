"""The processes of a run, which look together: what one of them found is told to all, also that it failed."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_cam.training.notices import Held, Notices

T = TypeVar("T")


@dataclass(frozen=True)
class Alone:
    """One process, which tells nobody."""

    rank: int = 0
    count: int = 1
    splits: bool = True

    def together(self, function: Callable[[], T]) -> list[T]:
        """What the function gives."""
        return [function()]


@dataclass(frozen=True)
class Group:
    """The processes of a run, of which every one comes to all that is done together.

    Attributes:
        rank: which this one is.
        count: how many there are.
        device: where this one's model is.
        splits: whether each looks at samples of its own.
        group: torch's group in which they tell each other; None for its default one.
    """

    rank: int
    count: int
    device: torch.device
    splits: bool = True
    group: Any = None

    def together(self, function: Callable[[], T]) -> list[T]:
        """What a function gives in each process, in all of them, on this one's device.

        Raises:
            Exception: its own where it failed here, else a RuntimeError with the words of the first where it failed.
        """
        error: Exception | None = None
        try:
            data = _packed((function(), ""))
        except Exception as raised:
            error = raised
            data = _packed((None, f"{type(error).__name__}: {error}"))
        # nothing stands between what may fail and this, or the others would wait for ever
        packed: list[Any] = [None] * self.count
        dist.all_gather_object(packed, data, group=self.group)
        if error is not None:
            raise error
        answers = [_unpacked(part, self.device) for part in packed]
        for rank, (_, failure) in enumerate(answers):
            if failure:
                raise RuntimeError(f"on {_name(rank)}: {failure}")
        return [value for value, _ in answers]


Processes = Alone | Group


def pieces(count: int, processes: int) -> list[slice]:
    """So many samples in a piece a process, which differ by one at most.

    Example:
        >>> pieces(5, 2)
        [slice(0, 3, None), slice(3, 5, None)]
    """
    bounds = [-(-count * i // processes) for i in range(processes + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def copied_buffers(model: nn.Module) -> dict[str, Tensor]:
    """A model's buffers: running statistics are of each process's own samples, and a checkpoint holds the first one's."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def put_buffers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write such values into a model's buffers; whoever looks puts the model's own back."""
    # buffers made in inference mode, as in a validation before, can be written to in that mode alone
    with torch.inference_mode():
        for name, buffer in model.named_buffers():
            if name in values and not torch.equal(buffer, values[name].to(buffer)):
                buffer.data.copy_(values[name])


def _name(rank: int) -> str:
    if rank == 0:
        return "the first process"
    return f"process {rank}"


def _packed(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _unpacked(data: bytes, device: torch.device) -> Any:
    def place(storage: Any, location: str) -> Any:
        # what is on the host stays there; what was on another's accelerator comes to this one's
        where = "cpu" if location == "cpu" else str(device)
        return torch.serialization.default_restore_location(storage, where)

    # of another process of this very run, and so no less to be trusted than this one
    return torch.load(io.BytesIO(data), map_location=place, weights_only=False)


def everywhere(processes: Processes, function: Callable[[], T]) -> T:
    """What a function gives here, if it comes off in every process; else those where it did would wait for the others."""
    values: list[T] = []
    processes.together(lambda: values.append(function()))
    return values[0]


def gather(processes: Processes, here: Callable[[], list[T]], notices: Notices) -> list[T]:
    """What all processes found, in each of them; the first one tells what the others have to say.

    Args:
        processes: all of which come to this.
        here: finds what this one does.
        notices: of this one.
    """

    def told() -> tuple[list[T], list[Held]]:
        with notices.held(processes.rank > 0) as warnings:
            found = here()
        return found, warnings

    answers = processes.together(told)
    if not processes.splits:
        return answers[processes.rank][0]
    for _, warnings in answers:
        notices.pass_on(warnings)
    return [part for parts, _ in answers for part in parts]
