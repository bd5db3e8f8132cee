"""How large a patch is, told by the places alone. n patches, p patients."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.patches.order import lexsort
from lightning_cam.patches.table import PatchTable

_RARE = 0.02  # of a patient's spacings: smaller ones may be slips of a few patches
_SPARSE = 1.5  # spacings this many times the mean one are chance: no two patches stand side by side


def patch_sizes(table: PatchTable, given: int | float | None = None) -> Float[Tensor, "p"]:
    """The side of each patient's patches, in the units of x and y.

    It is the smallest usual distance between neighbours in a row or column; where patches lie in none, the side of squares
    that would fill the patient's area, and no more than the smallest of the other patients.

    Args:
        table: the patches.
        given: the side, if it is known.

    Raises:
        ValueError: for a side that is not above 0.

    Example:
        >>> columns = {"patient_id": [1, 1, 1], "x": [0, 50, 200], "y": [0, 0, 0], "target": [0, 1, 0]}
        >>> patch_sizes(PatchTable.of(columns))
        tensor([50.])
    """
    patients = len(table.patients)
    check_size(given)
    if given is not None:
        return table.x.new_full((patients,), given)
    patient_x, gap_x = _gaps(table.patient, table.y, table.x)
    patient_y, gap_y = _gaps(table.patient, table.x, table.y)
    spacing = _usual(torch.cat([patient_x, patient_y]), torch.cat([gap_x, gap_y]), patients)
    mean = _mean(table)
    chance = spacing.isnan() | (spacing > _SPARSE * mean)
    smallest = spacing.masked_fill(chance, torch.inf).amin()
    # a single patch has no mean either, and where all are single any size is right
    estimate = torch.minimum(mean.nan_to_num(torch.inf), smallest)
    return estimate.where(estimate.isfinite(), 1).where(chance, spacing)


def check_size(given: int | float | None) -> None:
    """Refuse what is no side of a patch.

    Raises:
        ValueError: for a side that is not above 0.
    """
    if given is not None and not (given > 0 and math.isfinite(given)):
        raise ValueError(f"patch_size={given!r}: expected the side of a patch in the units of x and y, above 0.")


def _gaps(
    patient: Int[Tensor, "n"], line: Float[Tensor, "n"], along: Float[Tensor, "n"]
) -> tuple[Int[Tensor, "m"], Float[Tensor, "m"]]:
    """Distances between neighbours in a line of the same patient, and whose they are."""
    order = lexsort(patient, line, along)
    same = (patient[order].diff() == 0) & (line[order].diff() == 0)
    gap = along[order].diff()
    same = same & (gap > 0)
    return patient[order][1:][same], gap[same]


def _usual(patient: Int[Tensor, "m"], gap: Float[Tensor, "m"], patients: int) -> Float[Tensor, "p"]:
    """The smallest distance of each patient but for rare ones; NaN where there is none."""
    order = lexsort(patient, gap)
    count = torch.zeros(patients, dtype=torch.long, device=gap.device)
    count = count.index_put((patient,), torch.ones_like(patient), accumulate=True)
    first = count.cumsum(0) - count
    position = first + (_RARE * count).long()
    # a patient without any asks for the row behind the last
    padded = torch.cat([gap[order], gap.new_full((1,), torch.nan)])
    return padded[position].masked_fill(count == 0, torch.nan)


def _mean(table: PatchTable) -> Float[Tensor, "p"]:
    """The mean distance of each patient's patches; NaN of a single one.

    It is the side s of n squares that fill the area, (width + s) (height + s) = n s^2, width and height being those of places.
    """
    empty = table.x.new_zeros(len(table.patients))
    sides = []
    for values in (table.x, table.y):
        low = empty.scatter_reduce(0, table.patient, values, "amin", include_self=False)
        high = empty.scatter_reduce(0, table.patient, values, "amax", include_self=False)
        sides.append(high - low)
    others = empty.index_put((table.patient,), torch.ones_like(table.x), accumulate=True) - 1
    both = sides[0] + sides[1]
    return (both + (both.square() + 4 * others * sides[0] * sides[1]).sqrt()) / (2 * others)
