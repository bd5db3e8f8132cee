"""Annotations: a file that says where objects are, and the objects of a picture by its name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from lightning_cam.data.annotations.coco import read_coco
from lightning_cam.data.annotations.csv_file import read_csv
from lightning_cam.data.annotations.shapes import Shape
from lightning_cam.data.annotations.voc import read_voc
from lightning_cam.registry import did_you_mean

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".npy", ".pt"}
_READERS = {".csv": read_csv, ".json": read_coco, ".xml": read_voc, "": read_voc}


@dataclass(frozen=True)
class Annotations:
    """Where objects are, out of a file: ``Batch(regions=Annotations("boxes.csv"))``.

    Objects are found by the pictures' file names, which the dataset must keep (as ImageFolder does), and carried through its
    own transform to the image that the model sees: any of ``torchvision.transforms.v2``, random ones too; of the first
    transforms Resize, CenterCrop and those that move nothing.

    Args:
        path: a CSV file (columns file, xmin, ymin, xmax, ymax, or x, y; class, width, height if you like), a COCO JSON, or a
            Pascal VOC XML or a folder of these.
        category: only objects of this class; by default of all.

    Raises:
        ValueError: for a file that does not exist, or is none of these, or has no such class.
    """

    path: str | Path
    category: str | None = None
    _shapes: dict[PurePosixPath, list[Shape]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        path = Path(self.path)
        if not path.exists():
            raise ValueError(f"Annotations({str(self.path)!r}): there is no such file.")
        reader = _READERS.get("" if path.is_dir() else path.suffix.lower())
        if reader is None:
            raise ValueError(
                f"Annotations({str(self.path)!r}): expected a .csv, a COCO .json, or a Pascal VOC .xml or folder of these."
            )
        shapes = reader(path)
        categories = list(dict.fromkeys(shape.category for several in shapes.values() for shape in several))
        if self.category is not None and self.category not in categories:
            raise ValueError(
                f"Annotations(..., category={self.category!r}): {path} marks none.{did_you_mean(self.category, categories)} "
                f"It marks: {', '.join(categories) or 'nothing'}."
            )
        for name, several in shapes.items():
            self._shapes[_key(name)] = [shape for shape in several if self.category in (None, shape.category)]

    def of(self, picture: str) -> Sequence[Shape] | None:
        """The objects in a picture, by the end of its path; None if it is not in the file, or several may be meant."""
        wanted = _key(picture)
        # file and dataset may write different beginnings, and pictures of the same name may lie in several folders
        alike = {name: _common_end(name, wanted) for name in self._shapes if name.name == wanted.name}
        longest = max(alike.values(), default=0)
        nearest = [name for name, parts in alike.items() if parts == longest]
        if len(nearest) != 1:
            return None
        return self._shapes[nearest[0]]

    def refuse_strangers(self, pictures: Iterable[str]) -> None:
        """Refuse where none of the pictures is in the file.

        Raises:
            ValueError: naming a picture and what the file has.
        """
        pictures = list(pictures)
        if any(self.of(picture) is not None for picture in pictures):
            return
        known = ", ".join(str(name) for name in list(self._shapes)[:3]) or "nothing"
        raise ValueError(
            f"{self.path} has none of the pictures watched: they are {', '.join(pictures[:3])}, ..., and it has {known}, ..."
        )


def _common_end(one: PurePosixPath, other: PurePosixPath) -> int:
    """How many parts, from the last on, two paths have in common."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _key(name: str) -> PurePosixPath:
    """A picture's path without what tools write differently: backslashes, and the ending."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    # a name such as "frame.12" has no ending
    if path.suffix.lower() in _ENDINGS:
        return path.with_suffix("")
    return path
