"""A table of patches out of a CSV file."""

import csv
from pathlib import Path

from lightning_cam.patches.columns import Columns
from lightning_cam.patches.table import PatchTable

_SEPARATORS = ",;\t"


def read_csv(path: str | Path, columns: Columns = Columns()) -> PatchTable:  # noqa: B008 - frozen
    r"""Read a table of patches: a header, then a row a patch.

    Args:
        path: a text file in UTF-8, its cells separated by commas, semicolons or tabs.
        columns: the names of its columns.

    Raises:
        ValueError: for a file without rows, rows of another length than the header, and all that ``PatchTable.of`` refuses;
            with the line.
        OSError: if it cannot be read.

    Example:
        >>> path = folder / "patches.csv"
        >>> _ = path.write_text("patient_id,x,y,target,probability\n7,0,0,1,0.9\n7,50,0,0,0.2\n")
        >>> read_csv(path).probability
        tensor([0.9000, 0.2000])
    """
    name = Path(path).name
    try:
        # a mark that some programs put in front of the header is no part of its first name
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            header, rows, lines = _read(file.readlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no text in UTF-8: {error.reason} at byte {error.start}.") from None
    if not rows:
        raise ValueError(f"{name} has no rows; expected a header, then a row a patch.")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise ValueError(f"{name}, line {line}: {len(row)} cells; the header has {len(header)}.")
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    return PatchTable.of(cells, columns, lambda i: f"{name}, line {lines[i]}")


def _read(text: list[str]) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows that are not empty, and the line where each of them ends."""
    separator = max(_SEPARATORS, key=text[0].count) if text else ","
    reader = csv.reader(text, delimiter=separator)
    header = [cell.strip() for cell in next(reader, [])]
    rows = []
    lines = []
    for row in reader:
        if row:
            rows.append([cell.strip() for cell in row])
            lines.append(reader.line_num)
    return header, rows, lines
