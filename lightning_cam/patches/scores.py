"""How well predicted maps of tissue agree with the true ones, patient by patient. n patches, p patients."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.patches.order import begins, lexsort
from lightning_cam.patches.table import PatchTable


@dataclass(frozen=True, eq=False)
class PatchScores:
    """A value a patient, on the host, in double precision; NaN where it is undefined.

    Attributes:
        auc: area under the ROC curve, 0 to 1; .5 is chance.
        dice: Dice coefficient of the patches predicted positive and the positive ones, 0 to 1.
    """

    auc: Float[Tensor, "p"]
    dice: Float[Tensor, "p"]


def score_patches(table: PatchTable, threshold: float = 0.5) -> PatchScores:
    """AUC and Dice of each patient, over the patches that have a label.

    ``AUC = (R - m (m + 1) / 2) / (m (n - m))``, with R the sum of the ranks of the m positive patches among n, equal
    probabilities sharing the mean of their ranks: the share of pairs of a positive and a negative patch that are in the right
    order, ties counted half. It is exact, and NaN where a patient has patches of one label alone. Source: Hanley and McNeil
    1982, Radiology 143(1), and Mann and Whitney 1947.

    ``Dice = 2 TP / (2 TP + FP + FN)`` with patches predicted positive from the threshold on, NaN where none is positive,
    neither predicted nor true. Source: Dice 1945, Ecology 26(3).

    A patient of whom a labelled patch has no probability (NaN) has neither.

    Args:
        table: with labels and probabilities.
        threshold: the lowest probability that counts as positive.

    Raises:
        ValueError: for a table without probabilities.

    Example:
        >>> columns = {"patient_id": [1, 1, 1, 1], "x": [0, 1, 2, 3], "y": [0, 0, 0, 0], "target": [0, 0, 1, 1]}
        >>> scores = score_patches(PatchTable.of(columns | {"probability": [0.1, 0.5, 0.5, 0.9]}))
        >>> scores.auc.tolist(), scores.dice.tolist()
        ([0.875], [0.8])
    """
    if table.probability is None:
        raise ValueError("The table has labels alone; AUC and Dice need a predicted probability of each patch.")
    labelled = table.rows(~table.target.isnan())
    assert labelled.probability is not None
    patients = len(table.patients)
    positive = labelled.target == 1
    predicted = labelled.probability >= threshold
    count = _counts(labelled.patient, patients)
    positives = _counts(labelled.patient[positive], patients)
    both = _counts(labelled.patient[positive & predicted], patients)
    either = positives + _counts(labelled.patient[predicted], patients)
    ranks = torch.zeros_like(count).index_put((labelled.patient[positive],), _ranks(labelled)[positive], accumulate=True)
    silent = _counts(labelled.patient[labelled.probability.isnan()], patients) > 0
    pairs = positives * (count - positives)
    auc = (ranks - positives * (positives + 1)).cpu().double() / (2 * pairs).cpu()
    dice = 2 * both.cpu().double() / either.cpu()
    # without pairs, or without anything positive, this is 0 / 0
    return PatchScores(auc.masked_fill(silent.cpu(), torch.nan), dice.masked_fill(silent.cpu(), torch.nan))


def _counts(patient: Int[Tensor, "m"], patients: int) -> Int[Tensor, "p"]:
    zeros = torch.zeros(patients, dtype=torch.long, device=patient.device)
    return zeros.index_put((patient,), torch.ones_like(patient), accumulate=True)


def _ranks(table: PatchTable) -> Int[Tensor, "n"]:
    """Twice the rank of each patch among its patient's by probability, from 1, equal ones sharing the mean of theirs.

    Twice, so that they are whole numbers and their sum is exact.
    """
    probability = table.probability
    assert probability is not None
    order = lexsort(table.patient, probability)
    first = torch.arange(len(order), device=order.device)
    # the rows of a tie, and those of a patient, lie side by side
    tie = begins(table.patient[order], probability[order])
    begin = first[tie]
    end = torch.cat([begin[1:], begin.new_tensor([len(order)])])
    patient = begins(table.patient[order])
    before = first[patient][patient.cumsum(0) - 1]
    ranks = torch.empty_like(order)
    ranks[order] = (begin + end + 1)[tie.cumsum(0) - 1] - 2 * before
    return ranks
