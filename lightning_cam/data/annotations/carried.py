"""Marked objects carried through a dataset's own transform, by the very call that transforms the picture. h w image."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, Mask

from lightning_cam.data.annotations.shapes import Shape
from lightning_cam.data.dataset import wrapped_datasets

# of the first transforms those that leave every pixel in its place, and those whose geometry the second ones share
_IN_PLACE = {
    "ToTensor",
    "PILToTensor",
    "ConvertImageDtype",
    "Normalize",
    "Grayscale",
    "ColorJitter",
    "GaussianBlur",
    "ToPILImage",
}
_SAME: Mapping[str, Callable[[Any], v2.Transform]] = {
    "Resize": lambda first: v2.Resize(first.size, max_size=first.max_size),
    "CenterCrop": lambda first: v2.CenterCrop(first.size),
}
_INSTEAD = (
    "Use torchvision.transforms.v2 in the dataset, which takes boxes along, or give the regions out of the batch, "
    "Batch(regions='mask')."
)


@dataclass(eq=False)
class Carrier:
    """Stands in for a dataset's transform while samples are loaded: what it does to a picture it does to the objects in it.

    Attributes:
        shapes: the objects of the picture that is loaded next, by region.
        masks: of the pictures loaded, in order, the objects by region at the size of the transformed picture.
    """

    shapes: Mapping[str, Sequence[Shape]] = field(default_factory=dict)
    masks: list[Mapping[str, Bool[Tensor, "h w"]]] = field(default_factory=list)

    def through(self, transform: Callable[..., Any]) -> Callable[..., Any]:
        """The transform, by which the objects are carried too."""

        def carrying(*inputs: Any) -> Any:
            width, height = _size_of(inputs[0])
            marked = {name: _marked(shapes, width, height) for name, shapes in self.shapes.items()}
            if isinstance(transform, v2.Transform):
                # by one call, so that what is drawn at random is the same
                outputs = transform(*inputs, marked)
                carried = outputs[-1]
                output = outputs[0] if len(inputs) == 1 else outputs[:-1]
            else:
                output = transform(*inputs)
                carried = _by_first(transform, marked)
            self.masks.append({name: _mask(objects) for name, objects in carried.items()})
            return output

        return carrying


@contextmanager
def carrying(dataset: Any) -> Iterator[Carrier]:
    """A dataset whose transform carries objects along; its own again when the block ends.

    Raises:
        ValueError: for a dataset that keeps no transform.
    """
    carrier = Carrier()
    places = list(_transforms(dataset))
    if not places:
        raise ValueError(
            f"{type(dataset).__name__} keeps no transform under .transform or .transforms, so where objects go in the image "
            "that the model sees is not known. Give the regions out of the batch, Batch(regions='mask')."
        )
    try:
        for holder, name, transform in places:
            setattr(holder, name, carrier.through(transform))
        yield carrier
    finally:
        for holder, name, transform in places:
            setattr(holder, name, transform)


def _transforms(dataset: Any) -> Iterator[tuple[Any, str, Any]]:
    """Where the transform of the pictures is kept: by the innermost dataset that has one, since that one knows the files."""
    for level in reversed(wrapped_datasets(dataset)):
        joint: Any = getattr(level, "transforms", None)
        single: Any = getattr(level, "transform", None)
        if callable(single):
            yield level, "transform", single
            # torchvision keeps it a second time, for datasets whose samples are pairs
            if getattr(joint, "transform", None) is single:
                yield joint, "transform", single
            return
        if callable(joint):
            yield level, "transforms", joint
            return


def _size_of(picture: Any) -> tuple[int, int]:
    if isinstance(picture, Tensor):
        return int(picture.shape[-1]), int(picture.shape[-2])
    if isinstance(picture, np.ndarray):
        return int(picture.shape[1]), int(picture.shape[0])
    width, height = picture.size
    return int(width), int(height)


def _marked(shapes: Sequence[Shape], width: int, height: int) -> list[BoundingBoxes | Mask]:
    """The objects of a picture as tensors that transforms know."""
    marked: list[BoundingBoxes | Mask] = []
    canvas = (height, width)
    for shape in (shape.scaled(width, height) for shape in shapes):
        if shape.kind == "polygon":
            corners = np.rint(np.array(shape.numbers).reshape(-1, 2)).astype(np.int32)
            filled = cv2.fillPoly(np.zeros(canvas, np.uint8), [corners], 1)
            marked.append(Mask(torch.from_numpy(filled).bool()))
            continue
        x, y, *ends = shape.numbers
        # a point is its pixel
        box = torch.tensor([[x, y, *(ends or (x + 1, y + 1))]])
        marked.append(BoundingBoxes(box, format="XYXY", canvas_size=canvas))
    # so that the size of the result is known also where nothing is marked
    return [*marked, Mask(torch.zeros(canvas, dtype=torch.bool))]


def _by_first(transform: Any, marked: Mapping[str, list[Any]]) -> Mapping[str, list[Any]]:
    """The objects through a transform of the first kind, step by step.

    Raises:
        ValueError: for a step that may move pixels in a way that is not known.
    """
    for step in getattr(transform, "transforms", [transform]):
        kind = type(step).__name__
        if isinstance(step, v2.Transform):
            marked = step(marked)
        elif type(step).__module__.startswith("torchvision.") and kind in _SAME:
            marked = _SAME[kind](step)(marked)
        elif not (type(step).__module__.startswith("torchvision.") and kind in _IN_PLACE):
            name = getattr(step, "__name__", kind)
            raise ValueError(f"Where {name} of the dataset's transform moves objects is not known. {_INSTEAD}")
    return marked


def _mask(objects: Sequence[BoundingBoxes | Mask]) -> Bool[Tensor, "h w"]:
    """Where any of the objects is."""
    mask = torch.zeros(objects[-1].shape[-2:], dtype=torch.bool)
    for marked in objects:
        if isinstance(marked, Mask):
            mask |= marked.as_subclass(Tensor)
            continue
        x0, y0, x1, y1 = marked.as_subclass(Tensor)[0].tolist()
        # as everywhere: a pixel is inside if its centre is; of a box without one, a point, it is the pixel of its middle
        rows, columns = _within(y0, y1, len(mask)), _within(x0, x1, mask.shape[1])
        mask[rows, columns] = True
    return mask


def _within(low: float, high: float, length: int) -> slice:
    """The pixels whose centres lie between two ends; of ends that hold none, the one of their middle."""
    if high <= low:  # cropped away
        return slice(0)
    first = max(0, math.ceil(low - 0.5))
    last = math.ceil(high - 0.5)
    if last <= first:
        first = min(int((low + high) / 2), length - 1)
        last = first + 1
    return slice(first, last)
