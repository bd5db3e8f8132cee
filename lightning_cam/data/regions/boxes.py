"""Which places lie inside boxes, along the axes or rotated. b batch, n boxes, s sides of the image, r numbers of a box."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def inside_boxes(boxes: Shaped[Tensor, "b n r"], size: Sequence[int]) -> Bool[Tensor, "b *s"]:
    """Where a place's centre is inside a box; nowhere for a row of NaN.

    Example:
        >>> inside_boxes(torch.tensor([[[1.0, 3.0]]]), [4]).tolist()
        [[False, True, True, False]]
    """
    lower, upper = boxes[..., None].chunk(2, 2)
    axes = "xyz"[: len(size)]
    within = []
    # x is along the last side of the image
    for i, side in enumerate(reversed(size)):
        centre = torch.arange(side, device=boxes.device) + 0.5
        # a comparison with NaN is false
        within.append(((centre >= lower[:, :, i]) & (centre < upper[:, :, i])).float())
    # how many boxes hold each place: a product over the sides, so that no mask a box of a whole volume is ever made
    boxes_there: Float[Tensor, "b *s"] = torch.einsum(f"{','.join('bn' + axis for axis in axes)}->b{axes[::-1]}", *within)
    return boxes_there > 0


def inside_quadrilaterals(corners: Float[Tensor, "b n 8"], size: Sequence[int]) -> Bool[Tensor, "b h w"]:
    """Where a pixel's centre is inside a convex quadrilateral; nowhere for a row of NaN.

    Of pixels whose centre lies on an edge those of the upper and left edges are inside, as of boxes along the axes: those that
    share an edge share no pixel.

    Args:
        corners: (x, y) of four corners, in either sense of rotation.
        size: height and width of the picture.

    Example:
        >>> inside_quadrilaterals(torch.tensor([[[0.0, 0.0, 2.0, 0.0, 2.0, 1.0, 0.0, 1.0]]]), (2, 3)).tolist()
        [[[True, True, False], [False, False, False]]]
    """
    height, width = size
    y = (torch.arange(height, device=corners.device) + 0.5)[:, None]
    x = torch.arange(width, device=corners.device) + 0.5
    inside = torch.zeros(len(corners), height, width, dtype=torch.bool, device=corners.device)
    # over the boxes of a sample, of which there are few, so that no picture a box is ever held
    for quadrilateral in corners.unflatten(2, (4, 2)).unbind(1):
        inside |= _inside(quadrilateral[..., None, None], x, y)
    return inside


def _inside(corner: Float[Tensor, "b 4 2 1 1"], x: Float[Tensor, "w"], y: Float[Tensor, "h 1"]) -> Bool[Tensor, "b h w"]:
    x0, y0 = corner.unbind(2)
    edge = corner.roll(-1, 1) - corner
    # twice the area, whose sign is the sense of rotation
    following = corner.roll(-1, 1)
    area = (x0 * following[:, :, 1] - following[:, :, 0] * y0).sum(1, keepdim=True)
    dx, dy = (edge * area.sign()[:, :, None]).unbind(2)
    beyond = dx * (y - y0) - dy * (x - x0)
    upper_or_left = (dy < 0) | ((dy == 0) & (dx > 0))
    # of a triangle one edge is a point
    no_edge = (dx == 0) & (dy == 0)
    of_edges: Bool[Tensor, "b 4 h w"] = (beyond > 0) | ((beyond == 0) & upper_or_left) | no_edge
    return of_edges.all(1) & (area[:, 0] != 0)
