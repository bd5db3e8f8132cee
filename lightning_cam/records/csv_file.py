"""A CSV file that only grows, and is whole again after a writer was killed in the middle of a row.

As RFC 4180 has it: rows end in a carriage return and a newline, and what holds either, a comma or a quote is quoted.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_WIDER = ".wider"  # ends the name of the file that is written to take another's place


def append(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Add rows to a file in one write, so that they are there together or, if the writer is killed, not at all but a part.

    Raises:
        OSError: for a disk that is full or not to be written to; the file may then end within a row.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(text.getvalue().encode())


def mend(path: Path) -> list[str]:
    """Take off a last row that was cut short; the file's header, empty where there is no file or nothing whole in it.

    Raises:
        OSError: for a file that cannot be read or written to.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    end = _end_of_rows(data)
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
    return next(_rows(data[:end]), [])


def widen(path: Path, columns: Sequence[str]) -> None:
    """Give a file a longer header that begins with its own, and every row of it empty cells in the new columns.

    The wider file takes the place of the other when it is whole.

    Raises:
        OSError: for a disk that is full or not to be written to; the file is as it was then.
    """
    rows = _rows(path.read_bytes())
    next(rows)
    wider = path.with_name(path.name + _WIDER)
    wider.unlink(missing_ok=True)
    try:
        append(wider, [columns, *(_padded(row, columns) for row in rows)])
        wider.replace(path)
    finally:
        wider.unlink(missing_ok=True)


def read(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a file by their columns; a last one that is cut short is none, and cells that it lacks are empty.

    Raises:
        OSError: for a file that cannot be read.
    """
    data = path.read_bytes()
    rows = _rows(data[: _end_of_rows(data)])
    columns = next(rows, [])
    for row in rows:
        yield dict(zip(columns, _padded(row, columns), strict=True))


def _rows(data: bytes) -> Iterator[list[str]]:
    # left to the reader, what ends a row is told from the same within quotes
    return csv.reader(io.StringIO(data.decode(), newline=""))


def _padded(row: Sequence[str], columns: Sequence[str]) -> list[str]:
    return [*row, *[""] * (len(columns) - len(row))]


def _end_of_rows(data: bytes) -> int:
    """Where the last whole row ends: behind the last newline that has an even number of quotes before it."""
    quotes = data.count(b'"')
    end = len(data)
    while end:
        end = data.rfind(b"\n", 0, end) + 1
        # within quotes a newline belongs to a cell
        if (quotes - data.count(b'"', end)) % 2 == 0:
            return end
        end -= 1
    return 0
