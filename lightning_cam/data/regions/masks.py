"""Boxes and masks of signals, pictures and volumes as masks. b batch, n boxes, s sides of the image, r numbers of a box."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from lightning_cam.data.regions.boxes import inside_boxes
from lightning_cam.data.regions.tv_tensors import untyped

_CORNERS = {1: "x0, x1", 2: "x0, y0, x1, y1", 3: "x0, y0, z0, x1, y1, z1"}


def to_mask(region: Any, images: Shaped[Tensor, "b c *s"]) -> Bool[Tensor, "b *s"]:
    """Boxes or masks as masks; several boxes, and several masks of a sample, are united.

    A box has two numbers a side, all its lower ends before all its upper ones: (x0, x1) of a signal [b c t], x along t;
    (x0, y0, x1, y1) of a picture [b c h w], x along w; (x0, y0, z0, x1, y1, z1) of a volume [b c d h w], x along w, y along h
    and z along d. They are counted in samples, pixels or voxels, upper ends excluded: what has its centre inside is inside.
    Rows of NaN are no box. Of a mask every value but 0 is inside. Torchvision's tensors tell their format: boxes, rotated ones
    too, masks, and key points, which become discs as ``Points`` do.

    Args:
        region: boxes [b r] or [b n r]; masks [b *s] or [b m *s]; or a list with the boxes [n r], or the masks, of each sample.
        images: the images they belong to.

    Raises:
        ValueError: for regions of another shape, of another number of images, of pictures of another size (``canvas_size``), or
            that may be boxes as well as masks.

    Example:
        >>> to_mask(torch.tensor([[0, 0, 2, 1]]), torch.zeros(1, 3, 2, 2)).tolist()
        [[[True, True], [False, False]]]
        >>> to_mask(torch.tensor([[1, 3]]), torch.zeros(1, 1, 4)).tolist()
        [[False, True, True, False]]
        >>> to_mask(torch.tensor([[0, 0, 0, 2, 2, 1]]), torch.zeros(1, 1, 3, 2, 2)).sum((2, 3)).tolist()
        [[4, 0, 0]]
    """
    size = images.shape[2:]
    r = 2 * len(size)
    region = untyped(region, size)
    if not isinstance(region, Tensor):
        region = _masks_of_list(region, size)
    region = region.to(images.device)
    if region.ndim and len(region) != len(images):
        raise ValueError(f"The batch has {len(images)} images and regions for {len(region)}.")
    is_mask = region.shape[-len(size) :] == size and region.ndim in (len(size) + 1, len(size) + 2)
    is_boxes = region.shape[-1:] == (r,) and region.ndim in (2, 3)
    if is_mask and is_boxes and len(size) == 1 and region.dtype != torch.bool:
        raise ValueError(
            f"Regions {tuple(region.shape)} of signals of 2 samples are boxes as well as masks. "
            "Give masks as booleans, Batch(regions=lambda batch: batch['mask'].bool()), "
            "boxes as lists, Batch(regions=lambda batch: batch['box'].tolist())."
        )
    if is_mask:
        masks: Tensor = region.reshape(len(images), -1, *size)
        return masks.bool().any(1)
    if is_boxes:
        return inside_boxes(region.reshape(len(images), -1, r), size)
    raise ValueError(_unreadable(f"{tuple(region.shape)}", size))


def _masks_of_list(regions: Any, size: Sequence[int]) -> Bool[Tensor, "b *s"]:
    """The boxes or masks of each sample as masks; samples may differ in how many they have."""
    try:
        rows = [torch.as_tensor(row) for row in regions]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(_unreadable(_kind(regions), size)) from None
    if not rows:
        raise ValueError("The batch has no regions: the list of them is empty; expected the boxes or masks of each sample.")
    r = 2 * len(size)
    # an empty list has no side of so many numbers yet
    if all(row.ndim in (1, 2) and (row.shape[-1] == r or not row.numel()) for row in rows):
        boxes = [row.to(torch.float32).reshape(-1, r) for row in rows]
        return inside_boxes(torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True, padding_value=torch.nan), size)
    for row in rows:
        if row.shape[-len(size) :] != tuple(size) or row.ndim not in (len(size), len(size) + 1):
            raise ValueError(_unreadable(f"a list with {tuple(row.shape)} of a sample", size))
    return torch.stack([row.reshape(-1, *size).bool().any(0) for row in rows])


def _kind(regions: Any) -> str:
    if isinstance(regions, list | tuple):
        return f"a {type(regions).__name__} of {', '.join(dict.fromkeys(type(row).__name__ for row in regions))}"
    return f"a {type(regions).__name__}"


def _unreadable(got: str, size: Sequence[int]) -> str:
    r = 2 * len(size)
    return (
        f"Regions are boxes [b {r}] or [b n {r}], or masks [b {' '.join(map(str, size))}]; got {got}. "
        f"A box is ({_CORNERS[len(size)]}). Take them out of the batch by a callable, "
        "as Batch(regions=lambda batch: [sample['boxes'] for sample in batch['target']]) does for a list of dicts."
    )
