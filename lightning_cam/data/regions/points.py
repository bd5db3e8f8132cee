"""Points, such as landmarks, as discs around them. b batch, n points, s sides of the image, l as many numbers of a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

RADIUS = 0.05  # of a disc, by default

_NUMBERS = {1: "x", 2: "x, y", 3: "x, y, z"}


@dataclass(frozen=True)
class Points:
    """Points as regions: ``Batch(regions={"eye": Points("eye", radius=0.05)})``.

    Each point becomes a disc (of a signal an interval, of a volume a ball); several of a sample are united. They are (x, y), x
    along the width, in pixels of the image the model sees, in which the first pixel's centre is at .5, as for boxes; (x,) of
    signals and (x, y, z) of volumes, with z along d. Rows of NaN are no point.

    Args:
        key: key, position, attribute or callable that takes them out of a batch: [b 2], [b n 2], or a list with those of each
            sample, which may differ in how many they are.
        radius: of the disc, as a share of the image's longer side; what has its centre inside is inside, and the pixel that
            holds the point itself always is.

    Raises:
        ValueError: for a radius below 0 or above 1.
    """

    key: Any
    radius: float = RADIUS

    def __post_init__(self) -> None:
        if not 0 <= self.radius <= 1:
            raise ValueError(
                f"Points(radius={self.radius!r}): expected a share of the image's longer side, 0 to 1, such as radius=0.05."
            )

    def to_mask(self, points: Any, images: Shaped[Tensor, "b c *s"]) -> Bool[Tensor, "b *s"]:
        """What the key gave, as masks of the images' size.

        Raises:
            ValueError: for points of another form, or of another number of images.

        Example:
            >>> Points("r_peak", radius=0.2).to_mask(torch.tensor([[2.5]]), torch.zeros(1, 1, 5)).tolist()
            [[False, True, True, True, False]]
        """
        size = images.shape[2:]
        rows = padded_points(points, len(size)).to(images.device)
        if len(rows) != len(images):
            raise ValueError(f"The batch has {len(images)} images and points for {len(rows)}.")
        return discs(rows, self.radius, size)


def padded_points(points: Any, sides: int) -> Float[Tensor, "b n l"]:
    """The points of each sample, rows of NaN where it has fewer than others.

    Raises:
        ValueError: for anything but [b s], [b n s], or a list with those of each sample, [n s] or [s].
    """
    if isinstance(points, Tensor):
        if points.ndim not in (2, 3) or points.shape[-1] != sides:
            raise ValueError(_unreadable(str(tuple(points.shape)), sides))
        return points.as_subclass(Tensor).float().reshape(len(points), -1, sides)
    try:
        rows = [torch.as_tensor(row, dtype=torch.float32).as_subclass(Tensor) for row in points]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(_unreadable(f"a {type(points).__name__}", sides)) from None
    for row in rows:
        # an empty list has no side of so many numbers yet
        if row.ndim not in (1, 2) or (row.numel() and row.shape[-1] != sides):
            raise ValueError(_unreadable(f"a list with {tuple(row.shape)} of a sample", sides))
    if not rows:
        raise ValueError("The batch has no points: the list of them is empty; expected the points of each sample.")
    several = [row.reshape(-1, sides) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(several, batch_first=True, padding_value=torch.nan)


def discs(points: Float[Tensor, "b n l"], radius: float, size: Sequence[int]) -> Bool[Tensor, "b *s"]:
    """Where a place's centre is within a radius of a point, or the place holds the point.

    Args:
        points: (x, y), or as many as the image has sides; nothing is inside around NaN.
        radius: as a share of the image's longer side.
        size: the image's sides.
    """
    reach = radius * max(size)
    inside = torch.zeros(len(points), *size, dtype=torch.bool, device=points.device)
    # over the points of a sample, so that no picture a point is ever held
    for point in points.unbind(1):
        distance = torch.zeros((), device=points.device)
        holds = torch.ones((), dtype=torch.bool, device=points.device)
        # x is along the last side of the image
        for i, side in enumerate(reversed(size)):
            centre = torch.arange(side, device=points.device) + 0.5
            away = (centre - point[:, i, None]).reshape(len(point), *[1] * (len(size) - 1 - i), side, *[1] * i)
            distance = distance + away**2
            holds = holds & (away > -0.5) & (away <= 0.5)
        inside |= (distance <= reach**2) | holds
    return inside


def _unreadable(got: str, sides: int) -> str:
    return (
        f"Points are [b {sides}] or [b n {sides}], or a list with those of each sample; got {got}. A point is "
        f"({_NUMBERS[sides]}). Take them out of the batch by a callable, as "
        "Points(lambda batch: [sample['keypoints'] for sample in batch['target']]) does for a list of dicts."
    )
