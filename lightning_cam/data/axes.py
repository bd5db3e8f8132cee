"""The order of an image's axes, as named or as the model's first convolution tells it. b batch, c channels, s sides."""

from jaxtyping import Shaped
from torch import Tensor

_FEW = 4  # channels of pictures and videos; a side may well be as long as a later layer's channels are many


def parse_axes(axes: str) -> list[str]:
    """The axes' names in their order, of which ``b`` is the batch and ``c`` the channels; the others are sides.

    Raises:
        ValueError: for an axis named twice, no ``b``, no ``c``, or no side.

    Example:
        >>> parse_axes("b t c h w")
        ['b', 't', 'c', 'h', 'w']
    """
    names = axes.split()
    if len(names) == 1:
        names = list(axes)
    complete = {"b", "c"} <= set(names) and len(names) > 2
    if not complete or len(set(names)) < len(names):
        raise ValueError(
            f"Batch(axes={axes!r}): expected the names of all axes in their order, 'b' the batch and 'c' the channels, "
            "such as 'b t c h w' or 'b h w c'."
        )
    return names


def channels_second(
    images: Shaped[Tensor, "..."],
    axes: str,
) -> tuple[Shaped[Tensor, "b c *s"], tuple[int, ...] | None]:
    """Images as [b c *s], and where their axes stood, by which ``permute`` puts them back; None if nothing moved.

    Raises:
        ValueError: for images of another number of axes.
    """
    names = parse_axes(axes)
    if images.ndim != len(names):
        raise ValueError(f"Batch(axes={axes!r}) names {len(names)} axes; the images are {tuple(images.shape)}.")
    ordered = ["b", "c", *(name for name in names if name not in ("b", "c"))]
    if ordered == names:
        return images, None
    moved = images.permute([names.index(name) for name in ordered])
    return moved, tuple(ordered.index(name) for name in names)


def axes_of(shape: tuple[int, ...], sides: int, channels: int | None) -> str | None:
    """The order in which the channels are where the model's first convolution has them; None for [b c *s], or if unsure.

    Example:
        >>> axes_of((2, 16, 3, 224, 224), 3, 3)
        'b t c h w'
    """
    if channels is None or channels > _FEW or len(shape) < 2 or shape[1] == channels:
        return None
    if sides == 3 and len(shape) == 5 and shape[2] == channels:
        return "b t c h w"
    if sides == 2 and len(shape) == 4 and shape[3] == channels:
        return "b h w c"
    return None
