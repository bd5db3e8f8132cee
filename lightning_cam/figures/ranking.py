"""Which samples a sheet shows first: those that deserve a look, each with a word that says why. b batch, t targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.data.batch import FixedBatch
from lightning_cam.record import Record

MISPLACED = "right, heat elsewhere"
JUMPED = "jumped"


@dataclass(frozen=True)
class Ranking:
    """The samples in the order in which they are shown.

    Attributes:
        samples: their places in the batch.
        words: why a sample stands in front, by its place; of the others none.
    """

    samples: Sequence[int]
    words: Mapping[int, str]

    def positions(self, shown: Sequence[int], targets: int) -> list[int]:
        """Positions over samples and targets in this order, the targets of a sample together."""
        rank = {sample: i for i, sample in enumerate(self.samples)}
        return sorted(shown, key=lambda position: (rank[position // targets], position))


def rank(record: Record, batch: FixedBatch, jumped: Bool[Tensor, "b t"] | None = None) -> Ranking:
    """First what is right with its heat in the wrong place, then what jumped, then all others, each in the batch's order.

    Args:
        record: what a look found.
        batch: its samples.
        jumped: which maps jumped at this look.
    """
    wrong_reason = misplaced(record, batch).any(1)
    leapt = torch.zeros(len(wrong_reason), dtype=torch.bool)
    if jumped is not None:
        leapt = jumped.cpu().any(1)
    words = dict.fromkeys(leapt.nonzero()[:, 0].tolist(), JUMPED)
    words |= dict.fromkeys(wrong_reason.nonzero()[:, 0].tolist(), MISPLACED)
    urgency = {MISPLACED: 0, JUMPED: 1}
    samples = sorted(range(len(wrong_reason)), key=lambda i: urgency.get(words.get(i, ""), 2))
    return Ranking(samples, words)


def misplaced(record: Record, batch: FixedBatch) -> Bool[Tensor, "b t"]:
    """Right for the wrong reason: the predicted class is the label, and the label's map holds less in the regions than chance.

    That is an ``enrichment`` below 1, or ``energy_inside`` below the regions' share of the image, whichever the record has;
    nothing is known to be misplaced where it has neither, and where the number is NaN.
    """
    said = record.predictions
    right = (said.predicted == said.labels) & (said.labels >= 0)
    of_label = said.classes == said.labels[:, None]
    return _below_chance(record, batch) & of_label & right[:, None]


def knows_places(record: Record) -> bool:
    """Whether a record has the numbers that tell heat in the wrong place."""
    return "enrichment" in record.values or "energy_inside" in record.values


def _below_chance(record: Record, batch: FixedBatch) -> Bool[Tensor, "b t"]:
    if batch.regions and "enrichment" in record.values:
        return record.values["enrichment"] < 1
    if batch.regions and "energy_inside" in record.values:
        return record.values["energy_inside"] < _area(batch)[:, None]
    return torch.zeros_like(record.score, dtype=torch.bool)


def _area(batch: FixedBatch) -> Float[Tensor, "b"]:
    """The regions' share of each image."""
    inside = torch.stack(list(batch.regions.values())).any(0)
    return inside.flatten(1).float().mean(1).cpu()
