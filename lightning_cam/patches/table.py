"""PatchTable: patches of large pictures, each at its place. n patches, p patients."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_cam.patches.columns import (
    Columns,
    Place,
    has_column,
    labels_of,
    patients_of,
    places_of,
    probabilities_of,
)
from lightning_cam.patches.order import begins, lexsort


@dataclass(frozen=True, eq=False)
class PatchTable:
    """Patches of large pictures, each at its place, all tensors on one device.

    Attributes:
        patients: their names, numbers in them in the order of their values.
        patient: whose patch it is, as a position among these.
        x: where it lies from left to right, in pixels of the large picture; whole numbers are exact to 16 million.
        y: where it lies from top to bottom.
        target: its label, 0 or 1; NaN where it has none.
        probability: the predicted probability of label 1, 0 to 1; NaN where there is no number; None of labels alone.
    """

    patients: tuple[str, ...]
    patient: Int[Tensor, "n"]
    x: Float[Tensor, "n"]
    y: Float[Tensor, "n"]
    target: Float[Tensor, "n"]
    probability: Float[Tensor, "n"] | None = None

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def of(
        cls,
        table: Any,
        columns: Columns = Columns(),  # noqa: B008 - frozen
        place: Place = "row {}".format,
    ) -> "PatchTable":
        """The table that a dict of columns or a data frame holds.

        Args:
            table: gives a column for its name, as ``table["x"]``.
            columns: the names.
            place: names a row in messages.

        Raises:
            ValueError: for a column that is missing, what is no number, a label that is neither 0 nor 1, a probability
                beyond 0 to 1, or two patches at one place.

        Example:
            >>> table = PatchTable.of({"patient_id": ["b", "a"], "x": [0, 50], "y": [0, 0], "target": [0, 1]})
            >>> table.patients, table.patient.tolist()
            (('a', 'b'), [1, 0])
        """
        names, patient = patients_of(table, columns, place)
        x, y = (places_of(table, columns, side, place) for side in ("x", "y"))
        target = labels_of(table, columns, place)
        probability = None
        # one that is named must be there
        if columns.probability != Columns.probability or has_column(table, columns.probability):
            probability = probabilities_of(table, columns, place)
        lengths = {len(column) for column in (patient, x, y, target)}
        if len(lengths) > 1 or not len(x):
            raise ValueError(f"The columns of a table have one length, of at least one row; got {sorted(lengths)}.")
        made = cls(names, patient.to(x.device), x, y, target, probability)
        _refuse_twins(made, place)
        return made

    def to(self, device: torch.device) -> "PatchTable":
        """The same table on another device."""
        tensors: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def rows(self, chosen: Shaped[Tensor, "..."]) -> "PatchTable":
        """Some of the rows, by position or mask; of the same patients."""
        tensors: dict[str, Any] = {name: value[chosen] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def of_first(self, patients: int) -> "PatchTable":
        """The rows of the first so many patients."""
        return replace(self.rows(self.patient < patients), patients=self.patients[:patients])


def first_at_place(table: PatchTable) -> Int[Tensor, "n"]:
    """For each patch the position of the first one of the same patient at the same place: its own unless it came before."""
    order = lexsort(table.patient, table.y, table.x)
    new = begins(*(key[order] for key in (table.patient, table.y, table.x)))
    first = torch.empty_like(order)
    first[order] = order[new][new.cumsum(0) - 1]
    return first


def _refuse_twins(table: PatchTable, place: Place) -> None:
    first = first_at_place(table)
    twins = (first != torch.arange(len(first), device=first.device)).nonzero()[:, 0].tolist()
    if twins:
        second = twins[0]
        at = f"({float(table.x[second]):g}, {float(table.y[second]):g})"
        patient = table.patients[int(table.patient[second])]
        raise ValueError(f"{place(second)}: patient {patient!r} has a patch at {at} already, {place(int(first[second]))}.")
