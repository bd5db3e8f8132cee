"""The fixed batch in chunks, so that numbers of many samples need the memory of a few."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_cam.data.batch import FixedBatch
from lightning_cam.model.call import ForwardOption, ModelCall

_FEWEST = 16  # samples of a chunk: a forward of fewer would leave most of the device idle


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some samples of the batch that are run together.

    Attributes:
        samples: which.
        batch: these alone.
        call: how the model is run on them.
    """

    samples: slice
    batch: FixedBatch
    call: ModelCall


def chunks_of(batch: FixedBatch, pictures: int | None, forward: ForwardOption) -> Sequence[Chunk]:
    """The whole batch as one, or where only some samples are shown, chunks of as many: the first are those that are shown."""
    size = len(batch)
    if pictures is not None:
        size = max(pictures, _FEWEST)
    chunks = []
    for start in range(0, len(batch), size):
        samples = slice(start, min(start + size, len(batch)))
        part = batch
        if samples != slice(0, len(batch)):
            part = batch.part(samples)
        chunks.append(Chunk(samples, part, ModelCall(forward, part.inputs, part.picture)))
    return chunks
