"""Shape: one object that a file marks in a picture, in pixels of that picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Shape:
    """One object that a file marks in a picture.

    Attributes:
        kind: what the numbers are: a ``box`` (x0, y0, x1, y1) with excluded upper ends, a ``polygon`` (x, y, x, y, ...), or a
            ``point`` (x, y).
        numbers: in pixels from the picture's upper left corner.
        category: the object's class, empty where the file names none.
        size: (width, height) of the picture that the numbers refer to, where the file tells it.
    """

    kind: Literal["box", "polygon", "point"]
    numbers: tuple[float, ...]
    category: str = ""
    size: tuple[float, float] | None = None

    def scaled(self, width: int, height: int) -> "Shape":
        """The same object in a picture of this size, which may be a smaller copy of the one that was marked."""
        if self.size is None or self.size == (width, height):
            return self
        along_x, along_y = width / self.size[0], height / self.size[1]
        numbers = tuple(number * (along_y if i % 2 else along_x) for i, number in enumerate(self.numbers))
        return replace(self, numbers=numbers, size=(float(width), float(height)))


Shapes = Mapping[str, Sequence[Shape]]  # by the picture's path as the file writes it, or what of it the file has
