"""The fixed batch in chunks, so that numbers of many samples need the memory of a few, and several processes share them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor

from lightning_cam.change.noise import Rows
from lightning_cam.data.batch import FixedBatch
from lightning_cam.model.call import ForwardOption, ModelCall
from lightning_cam.training.processes import Processes, pieces

T = TypeVar("T")
Attempt = Callable[..., Any]  # (what, function, *args) -> what the function gives, None where it failed

_FEWEST = 16  # samples of a chunk: a forward of fewer would leave most of the device idle


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some samples of the batch that are run together.

    Attributes:
        samples: which.
        batch: these alone.
        call: how the model is run on them.
        labels: of all samples of the batch.
        count: of how many samples, the first, the floor of drift is measured.
    """

    samples: slice
    batch: FixedBatch
    call: ModelCall
    labels: Tensor | None
    count: int

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def rows(self) -> Rows:
        """Which of these samples the floor of drift is measured of."""
        start, stop = (min(place, self.count) for place in (self.samples.start, self.samples.stop))
        return Rows(start, stop, self.count)

    def halves(self) -> list["Chunk"]:
        """Two chunks of half the samples each."""
        middle = (len(self) + 1) // 2
        return [self._part(slice(0, middle)), self._part(slice(middle, len(self)))]

    def _part(self, part: slice) -> "Chunk":
        samples = slice(self.samples.start + part.start, self.samples.start + part.stop)
        return Chunk(samples, self.batch.part(part), self.call.part(part), self.labels, self.count)


def chunks_of(
    batch: FixedBatch,
    pictures: int | None,
    forward: ForwardOption,
    processes: Processes,
    together: bool = False,
) -> list[Chunk]:
    """What this process looks at: its share of the batch, in chunks of as many as are shown where only some are.

    Args:
        batch: all samples.
        pictures: how many of them are shown, the first; None for all.
        forward: how the model is run.
        processes: which this one is; the first has the samples that are shown.
        together: whether those that are shown must be run together, as concepts are theirs.
    """
    shown = floor_count(len(batch), pictures)
    start, stop = _share(len(batch), shown, processes, together)
    whole = Chunk(slice(0, len(batch)), batch, ModelCall(forward, batch.inputs, batch.picture), batch.labels, shown)
    chunks = []
    for first in range(start, stop, shown):
        samples = slice(first, min(first + shown, stop))
        part = whole
        if samples != whole.samples:
            part = whole._part(samples)
        chunks.append(part)
    return chunks


def floor_count(count: int, pictures: int | None) -> int:
    """Of how many samples, the first, the floor of drift is measured: of those shown, and where these are few of some more."""
    if pictures is None:
        return count
    return min(max(pictures, _FEWEST), count)


def compute_each(chunks: Sequence[Chunk], compute: Callable[[Chunk], T], warn: Callable[[str], None]) -> list[tuple[Chunk, T]]:
    """What is computed of each chunk; where the memory is too short for one, of its halves.

    Args:
        chunks: the chunks.
        compute: what may run out of memory.
        warn: told of it.
    """
    waiting = list(chunks)
    made = []
    while waiting:
        chunk = waiting.pop(0)
        try:
            made.append((chunk, compute(chunk)))
            continue
        except Exception as error:
            if not is_short_of_memory(error) or len(chunk) == 1:
                raise
        # behind the except: the error's traceback holds every tensor of the failed attempt
        garbage_collection_cuda()
        warn(f"{len(chunk)} samples at once do not fit into the memory, so looks go on with {(len(chunk) + 1) // 2} at once.")
        waiting[:0] = chunk.halves()
    return made


def sparing_shortage(attempt: Attempt) -> Attempt:
    """The same, but what is short of memory is let out, as of fewer samples at once it may come off."""

    def spared(what: str, function: Callable[..., Any], *args: Any) -> Any:
        shortage: list[Exception] = []

        def caught() -> Any:
            try:
                return function(*args)
            except Exception as error:
                if not is_short_of_memory(error):
                    raise
                shortage.append(error)

        value = attempt(what, caught)
        if shortage:
            raise shortage.pop()
        return value

    return spared


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_oom_error(error)


def _share(count: int, shown: int, processes: Processes, together: bool) -> tuple[int, int]:
    """The first of this process's samples, and the one behind its last."""
    if not processes.splits:
        return 0, count
    share = pieces(count, processes.count)[processes.rank]
    if together and processes.count > 1 and -(-count // processes.count) < shown:
        # the first process has those that are shown, the others the rest
        share = slice(0, shown)
        if processes.rank:
            rest = pieces(count - shown, processes.count - 1)[processes.rank - 1]
            share = slice(shown + rest.start, shown + rest.stop)
    return share.start, share.stop
