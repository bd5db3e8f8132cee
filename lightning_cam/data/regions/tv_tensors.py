"""Boxes, masks and key points as torchvision's tensors, which know their format and the size of their picture.

b batch, n of a sample, h w picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask

from lightning_cam.data.regions.boxes import inside_quadrilaterals
from lightning_cam.data.regions.points import RADIUS, discs, padded_points

KeyPoints = getattr(tv_tensors, "KeyPoints", None)  # since torchvision 0.23, as are rotated boxes

_XYXY = BoundingBoxFormat.XYXY
_FORMATTED = (BoundingBoxes,) if KeyPoints is None else (BoundingBoxes, KeyPoints)
_UNROTATED = (_XYXY, BoundingBoxFormat.XYWH, BoundingBoxFormat.CXCYWH)


def untyped(region: Any, size: Sequence[int]) -> Any:
    """Boxes as (x0, y0, x1, y1), masks as booleans, rotated boxes and key points as the masks that they cover; else as it is.

    Args:
        region: of torchvision's tensors, one for all samples or a list with one a sample; anything else is left alone.
        size: the image's sides.

    Raises:
        ValueError: for those of a picture of another size than the image, or of several kinds.
    """
    rows = region
    if isinstance(region, Tensor):
        rows = [region]
    if not isinstance(rows, list | tuple) or not rows:
        return region
    if all(isinstance(row, Mask) for row in rows):
        return _masks(region, size)
    if all(isinstance(row, BoundingBoxes) for row in rows):
        for row in rows:
            _check_size("boxes", row.canvas_size, size)
        return _boxes(region, rows, size)
    if KeyPoints is not None and all(isinstance(row, KeyPoints) for row in rows):
        for row in rows:
            _check_size("key points", row.canvas_size, size)
        return discs(padded_points(region, 2), RADIUS, size)
    if any(isinstance(row, (*_FORMATTED, Mask)) for row in rows):
        kinds = ", ".join(dict.fromkeys(type(row).__name__ for row in rows))
        raise ValueError(
            f"The regions of the samples are of several kinds: {kinds}; expected one. A sample without any has empty ones, "
            "such as BoundingBoxes(torch.zeros(0, 4), format='XYXY', canvas_size=image.shape[-2:])."
        )
    return region


@dataclass(frozen=True, eq=False)
class Formatted:
    """The key of boxes or key points whose format the samples tell and their batch no longer does."""

    key: str | int
    sample: Tensor

    def __call__(self, batch: Any) -> Any:
        """What a batch has under the key, a list with the format of each sample's."""
        region = _part(batch, self.key)
        if type(region) is not Tensor:
            return region
        kind: Any = type(self.sample)
        return [kind.wrap(row, like=self.sample) for row in region]


def with_formats(keys: Mapping[str, Any], samples: Sequence[Any], batch: Any) -> Mapping[str, Any]:
    """Keys of regions, with the format of the samples' own boxes and key points where collating them has lost it.

    Args:
        keys: by the regions' names.
        samples: of the dataset.
        batch: the same, collated.
    """
    kept = dict(keys)
    for name, key in keys.items():
        own = _part(samples[0], key)
        collated = _part(batch, key)
        # a function of the user's that collates may have converted them
        if isinstance(own, _FORMATTED) and type(collated) is Tensor and _begins_with(collated, own):
            kept[name] = Formatted(key, own)
    return kept


def _masks(masks: Any, size: Sequence[int]) -> Any:
    """Masks of each sample united, so that none is taken for boxes because of its width."""
    for mask in [masks] if isinstance(masks, Tensor) else masks:
        _check_size("masks", mask.shape[-len(size) :], size)
    if isinstance(masks, Tensor):
        return masks.as_subclass(Tensor)
    return torch.stack([mask.as_subclass(Tensor).reshape(-1, *size).bool().any(0) for mask in masks])


def _boxes(region: Any, rows: Sequence[BoundingBoxes], size: Sequence[int]) -> Any:
    if all(row.format in _UNROTATED for row in rows):
        plain = [_converted(row, _XYXY) for row in rows]
        return plain[0] if isinstance(region, Tensor) else plain
    corners = [_corners(row) for row in rows]
    if isinstance(region, Tensor):
        return inside_quadrilaterals(corners[0].reshape(len(region), -1, 8), size)
    return inside_quadrilaterals(pad_sequence(corners, batch_first=True, padding_value=torch.nan), size)


def _corners(boxes: BoundingBoxes) -> Float[Tensor, "*n 8"]:
    """The four corners of each box, in their order around it."""
    if boxes.format in _UNROTATED:
        box: Tensor = _converted(boxes, _XYXY)
        return box[..., [0, 1, 2, 1, 2, 3, 0, 3]]
    return _converted(boxes, BoundingBoxFormat.XYXYXYXY)


def _converted(boxes: BoundingBoxes, new: BoundingBoxFormat) -> Float[Tensor, "*n r"]:
    # whole numbers would be rounded
    numbers: Tensor = boxes.as_subclass(Tensor).float()
    if boxes.format is new:
        return numbers
    flat = numbers.reshape(-1, numbers.shape[-1])
    converted: Tensor = functional.convert_bounding_box_format(flat, old_format=boxes.format, new_format=new)
    return converted.reshape(*numbers.shape[:-1], converted.shape[-1])


def _check_size(what: str, canvas: Sequence[int], size: Sequence[int]) -> None:
    if tuple(canvas) != tuple(size):
        raise ValueError(
            f"The {what} are of a picture of {tuple(canvas)} and the images are {tuple(size)}. Let the dataset's transform "
            f"change both by one call, as torchvision.transforms.v2 does with transform(image, {what.replace(' ', '_')}), or "
            "give plain tensors in pixels of the image."
        )


def _part(batch: Any, key: Any) -> Any:
    """What a sample or batch has under a key or position; None where it has none."""
    if not isinstance(key, str | int):
        return None
    try:
        if isinstance(batch, Mapping) or isinstance(key, int):
            return batch[key]
        return getattr(batch, key)
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _begins_with(collated: Tensor, sample: Tensor) -> bool:
    """Whether the first sample of a batch has these numbers, with or without rows behind them."""
    width = sample.shape[-1]
    if not collated.ndim or collated.shape[-1] != width or not len(collated):
        return False
    numbers = sample.as_subclass(Tensor).reshape(-1, width)
    first = collated[0].reshape(-1, width)[: len(numbers)]
    return torch.equal(first.nan_to_num(-1.0), numbers.to(first).nan_to_num(-1.0))
