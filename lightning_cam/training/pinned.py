"""The samples every look shows: loaded by the first process, the same in all of them, and this one's share in chunks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn

from lightning_cam.data.batch import Batch, FixedBatch
from lightning_cam.model.call import ForwardOption
from lightning_cam.training.chunk import Chunk, chunks_of, compute_each
from lightning_cam.training.processes import Processes, copied_buffers

T = TypeVar("T")


@dataclass(eq=False)
class PinnedBatch:
    """The fixed batch of a run.

    Attributes:
        options: which samples.
        forward: how the model is run on them.
        together: whether those that are shown must be run together.
        batch: the samples; None until they are loaded.
        chunks: what this process looks at.
        buffers: those of the first process's model, by name; none where every process looks at its own.
    """

    options: Batch
    forward: ForwardOption
    together: bool = False
    batch: FixedBatch | None = None
    chunks: list[Chunk] = field(default_factory=list)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    def settle(self, model: nn.Module, load: Callable[[], FixedBatch | None], processes: Processes) -> FixedBatch | None:
        """Have the samples and buffers of the first process here; every process has to come to this.

        Returns:
            the samples if they were loaded just now.
        """
        is_new = self.batch is None

        def told() -> tuple[FixedBatch | None, Mapping[str, Tensor]]:
            if processes.rank:
                return None, {}
            if is_new:
                self.batch = load()
            if processes.count == 1:
                return None, {}
            # what is sharded has no buffers of one process alone
            buffers = copied_buffers(model) if processes.splits else {}
            return (self.batch if is_new else None), buffers

        batch, self.buffers = processes.together(told)[0]
        if processes.rank and is_new:
            self.batch = batch
        if self.batch is None or not is_new:
            return None
        self.chunks = chunks_of(self.batch, self.options.pictures, self.forward, processes, self.together)
        return self.batch

    def compute(self, function: Callable[[Chunk], T], warn: Callable[[str], None]) -> list[T]:
        """What a function computes of each chunk; where the memory is too short for one it is halved, from now on."""
        made = compute_each(self.chunks, function, warn)
        self.chunks = [chunk for chunk, _ in made]
        return [part for _, part in made]

    def release(self) -> None:
        """Let go of everything on the device."""
        self.batch, self.chunks, self.buffers = None, [], {}
