"""Objects out of a CSV file: a row an object."""

import csv
from pathlib import Path

from lightning_cam.data.annotations.shapes import Shape, Shapes
from lightning_cam.registry import did_you_mean

_PICTURE = ("file", "filename", "file_name", "image", "path", "name")
_CATEGORY = ("class", "category", "label", "region")
_BOX = (("xmin", "ymin", "xmax", "ymax"), ("x0", "y0", "x1", "y1"), ("x1", "y1", "x2", "y2"))
_POINT = ("x", "y")
_SIZE = ("width", "height")


def read_csv(path: Path) -> Shapes:
    """Boxes or points by picture.

    Columns are the picture's name (file, filename, image or path), and of a box xmin, ymin, xmax, ymax (upper ends excluded),
    or of a point x, y; class, and the picture's width and height, are optional.

    Raises:
        ValueError: for a file without these columns, or a row that is not numbers.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = [column.strip() for column in rows.fieldnames or []]
        rows.fieldnames = columns
        picture = _first(_PICTURE, columns)
        numbers = next((names for names in (*_BOX, _POINT) if set(names) <= set(columns)), None)
        if picture is None or numbers is None:
            raise ValueError(_unreadable(path, columns))
        category = _first(_CATEGORY, columns)
        shapes: dict[str, list[Shape]] = {}
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            shape = Shape(
                kind="point" if numbers == _POINT else "box",
                numbers=_floats(row, numbers, place),
                category=row[category] if category else "",
                size=_size(row, columns, place),
            )
            shapes.setdefault(row[picture], []).append(shape)
    return shapes


def _first(names: tuple[str, ...], columns: list[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _floats(row: dict[str, str], names: tuple[str, ...], place: str) -> tuple[float, ...]:
    try:
        return tuple(float(row[name]) for name in names)
    except (TypeError, ValueError):
        got = ", ".join(repr(row[name]) for name in names)
        raise ValueError(f"{place}: expected numbers for {', '.join(names)}, got {got}.") from None


def _size(row: dict[str, str], columns: list[str], place: str) -> tuple[float, float] | None:
    if not set(_SIZE) <= set(columns):
        return None
    width, height = _floats(row, _SIZE, place)
    return width, height


def _unreadable(path: Path, columns: list[str]) -> str:
    known = [*_PICTURE, *_BOX[0]]
    hints = dict.fromkeys(did_you_mean(column, known) for column in columns if column not in known)
    return (
        f"{path}: expected the columns file, xmin, ymin, xmax, ymax (or x, y), and if you like class, width, height; got "
        f"{', '.join(columns) or 'none'}.{''.join(hints)}"
    )
