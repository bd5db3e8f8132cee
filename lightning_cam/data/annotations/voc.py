"""Objects out of Pascal VOC's XML files: a file a picture."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from lightning_cam.data.annotations.shapes import Shape, Shapes


def read_voc(path: Path) -> Shapes:
    """Boxes by picture, out of one XML file or a folder of them.

    VOC counts pixels from 1 and includes both ends: (1, 1, 3, 3) is the upper left block of three by three pixels.

    Raises:
        ValueError: for a file that is no such XML, or a folder without any.
    """
    files = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: expected Pascal VOC's XML files in this folder, a file a picture; there is none.")
    return {_picture(file, root): _shapes(file, root) for file in files for root in [_root(file)]}


def _root(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{file}: expected Pascal VOC's XML; {error}.") from None
    if root.tag != "annotation":
        raise ValueError(f"{file}: expected Pascal VOC's XML, whose outermost element is <annotation>; got <{root.tag}>.")
    return root


def _picture(file: Path, root: ElementTree.Element) -> str:
    # some tools leave the name out, or write another's: the file's own is what VOC goes by
    return root.findtext("filename") or file.stem


def _shapes(file: Path, root: ElementTree.Element) -> list[Shape]:
    size = None
    if root.find("size") is not None:
        size = _number(file, root, "size/width"), _number(file, root, "size/height")
    # sizes of 0 are written where a tool did not know them
    if size is not None and min(size) <= 0:
        size = None
    shapes = []
    for thing in root.iter("object"):
        ends = [_number(file, thing, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
        box = (ends[0] - 1, ends[1] - 1, ends[2], ends[3])
        shapes.append(Shape("box", box, thing.findtext("name") or "", size))
    return shapes


def _number(file: Path, element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"{file}: expected a number in <{path.replace('/', '><')}>, got {text!r}.") from None
