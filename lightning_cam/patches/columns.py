"""Columns of a table as tensors: which are which, and what no cell may be. n patches."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.registry import did_you_mean

_NUMBER = re.compile(r"([0-9]+)")
_EMPTY = (None, "")
_NO_LABEL = (
    "the label is {:g}; expected 0 or 1, and a negative number or nothing where there is none. Of more than two classes name "
    "the one that counts as 1: positive=1."
)

Place = Callable[[int], str]  # names a row in messages


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what.

    Args:
        patient: whose patch it is, a word or a number.
        x: where it lies from left to right, in pixels of the large picture; of its corner or its middle, but of all the same.
        y: where it lies from top to bottom.
        target: its label: 0 or 1; a negative number, NaN or nothing where it has none.
        probability: the predicted probability of label 1, 0 to 1. A table need not have it.
        positive: the class that counts as 1, all others as 0, where there are more than two.
    """

    patient: str = "patient_id"
    x: str = "x"
    y: str = "y"
    target: str = "target"
    probability: str = "probability"
    positive: int | None = None


def has_column(table: Any, name: str) -> bool:
    """Whether a dict of columns, or a data frame, has one of this name."""
    return name in _names(table)


def patients_of(table: Any, columns: Columns, place: Place) -> tuple[tuple[str, ...], Int[Tensor, "n"]]:
    """The patients, and whose each patch is."""
    column = _column(table, columns, "patient")
    names = [str(cell) for cell in (column.tolist() if isinstance(column, Tensor) else column)]
    if "" in names:
        raise ValueError(f"{place(names.index(''))}: {columns.patient} is empty; expected whose patch it is.")
    return coded(names)


def places_of(table: Any, columns: Columns, side: str, place: Place) -> Float[Tensor, "n"]:
    """Where each patch lies along ``x`` or ``y``."""
    name = getattr(columns, side)
    values = _numbers(_column(table, columns, side), name, place)
    _refuse(~values.isfinite(), values, f"{name} is {{:g}}; expected a place, in pixels", place)
    return values


def labels_of(table: Any, columns: Columns, place: Place) -> Float[Tensor, "n"]:
    """The label of each patch."""
    return labels(_numbers(_column(table, columns, "target"), columns.target, place), columns.positive, place)


def probabilities_of(table: Any, columns: Columns, place: Place) -> Float[Tensor, "n"]:
    """The predicted probability of each patch."""
    values = _numbers(_column(table, columns, "probability"), columns.probability, place)
    _refuse((values < 0) | (values > 1), values, f"{columns.probability} is {{:g}}; expected a probability, 0 to 1", place)
    return values


def coded(names: Iterable[str]) -> tuple[tuple[str, ...], Int[Tensor, "n"]]:
    """The different names in order, 3 before 11, and each name's position among them.

    Example:
        >>> coded(["11", "3", "11"])[0]
        ('3', '11')
    """
    listed = list(names)
    ordered = sorted(set(listed), key=_natural)
    position = {name: i for i, name in enumerate(ordered)}
    return tuple(ordered), torch.tensor([position[name] for name in listed], dtype=torch.long)


def labels(classes: Float[Tensor, "n"], positive: int | None, place: Place | None = None) -> Float[Tensor, "n"]:
    """Classes as 0 or 1, NaN for none.

    Raises:
        ValueError: for classes beyond 0 and 1 where nobody says which of them is positive.
    """
    absent = classes.isnan() | (classes < 0)
    if positive is None:
        _refuse(~absent & (classes != 0) & (classes != 1), classes, _NO_LABEL, place)
        positive = 1
    return (classes == positive).to(classes).masked_fill(absent, torch.nan)


def _names(table: Any) -> list[str]:
    return [str(name) for name in getattr(table, "columns", table)]


def _column(table: Any, columns: Columns, part: str) -> Any:
    name = getattr(columns, part)
    known = _names(table)
    if name not in known:
        raise ValueError(
            f"The table has no column {name!r}.{did_you_mean(name, known)} It has: {', '.join(known)}. "
            f"Name the one that holds this: Columns({part}=...), on the command line --{part}."
        )
    return table[name]


def _numbers(column: Any, name: str, place: Place) -> Float[Tensor, "n"]:
    """A column as numbers, NaN where a cell is empty."""
    if isinstance(column, Tensor):
        return column.float()
    values = []
    for i, cell in enumerate(column):
        try:
            values.append(torch.nan if cell in _EMPTY else float(cell))
        except (TypeError, ValueError):
            raise ValueError(f"{place(i)}: {name} is {cell!r}; expected a number.") from None
    return torch.tensor(values, dtype=torch.float32)


def _refuse(wrong: Bool[Tensor, "n"], values: Float[Tensor, "n"], text: str, place: Place | None) -> None:
    """Refuse the first wrong cell, where there is one."""
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        where = "" if place is None else f"{place(i)}: "
        raise ValueError(where + text.format(float(values[i])))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Words and numbers in turn, numbers by their value; the name itself tells apart 3 and 03."""
    keys = []
    for part in filter(None, _NUMBER.split(name)):
        if _NUMBER.fullmatch(part):
            keys.append((0, int(part), ""))
        else:
            keys.append((1, 0, part.casefold()))
    return [*keys, (-1, 0, name)]
