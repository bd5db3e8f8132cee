"""Objects out of a COCO file: one JSON file for all pictures."""

import json
from pathlib import Path
from typing import Any

from lightning_cam.data.annotations.shapes import Shape, Shapes


def read_coco(path: Path) -> Shapes:
    """Objects by picture: polygons where an annotation has a segmentation of polygons, else its box (x, y, width, height).

    Crowds, which mark an area and no object, are left out.

    Raises:
        ValueError: for a file that is no such JSON, or an annotation that has neither.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        pictures = {picture["id"]: picture for picture in data["images"]}
        annotations = data["annotations"]
        categories = {category["id"]: category["name"] for category in data.get("categories", [])}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected COCO's JSON, an object with images and annotations; {type(error).__name__}: {error}."
        ) from None
    shapes: dict[str, list[Shape]] = {str(picture["file_name"]): [] for picture in pictures.values()}
    for annotation in annotations:
        picture = pictures.get(annotation.get("image_id"))
        if picture is None or annotation.get("iscrowd"):
            continue
        category = str(categories.get(annotation.get("category_id"), ""))
        shapes[str(picture["file_name"])] += _shapes(path, annotation, category, _size(picture))
    return shapes


def _size(picture: dict[str, Any]) -> tuple[float, float] | None:
    if not picture.get("width") or not picture.get("height"):
        return None
    return float(picture["width"]), float(picture["height"])


def _shapes(path: Path, annotation: dict[str, Any], category: str, size: tuple[float, float] | None) -> list[Shape]:
    polygons = annotation.get("segmentation")
    if isinstance(polygons, list) and polygons:
        return [Shape("polygon", tuple(map(float, polygon)), category, size) for polygon in polygons]
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(
            f"{path}: the annotation {annotation.get('id')} has neither polygons nor a bbox [x, y, width, height]; run-length "
            "masks are not read: give masks out of the dataset, Batch(regions='mask')."
        )
    x, y, width, height = map(float, box)
    return [Shape("box", (x, y, x + width, y + height), category, size)]
