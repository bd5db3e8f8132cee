"""What should not move a map: a pixel's shift, a mirror, another precision. n samples, c channels, s sides, m map."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_cam.capture.forward import Forward

Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class Disturbance:
    """A change of what a look is given that should not move its maps.

    Attributes:
        name: in a word.
        images: what it makes of images.
        back: what puts their maps back, given the number of samples a cell has along the last side.
        context: what it makes of the context in which the model is run.
        applies: whether it says anything of this forward.
    """

    name: str
    images: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, float], Tensor]
    context: Callable[[Context, Tensor], Context]
    applies: Callable[[Forward], bool]


def shifted(images: Shaped[Tensor, "n c *s"]) -> Shaped[Tensor, "n c *s"]:
    """Images moved by one pixel along their last side, the first column twice.

    Example:
        >>> shifted(torch.tensor([[[1, 2, 3]]])).tolist()
        [[[1, 1, 2]]]
    """
    return torch.cat([images[..., :1], images[..., :-1]], -1)


def shifted_back(heat: Float[Tensor, "n *m"], stride: float) -> Float[Tensor, "n *m"]:
    """Maps of shifted images, moved back where a cell is a pixel; where it is several, a pixel moves none."""
    if stride > 1:
        return heat
    return torch.cat([heat[..., 1:], heat[..., -1:]], -1)


def _mirrored(heat: Tensor, stride: float = 0) -> Tensor:
    return heat.flip(-1)


def _as_it_is(value: Tensor, stride: float = 0) -> Tensor:
    return value


def _same_context(context: Context, images: Tensor) -> Context:
    return context


def other_precision(context: Context, images: Shaped[Tensor, "..."]) -> Context:
    """The same context with bfloat16 autocast where it has none, and without autocast where it has one."""
    kind = images.device.type

    @contextmanager
    def other() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(context())
            on = not torch.is_autocast_enabled(kind)
            stack.enter_context(torch.autocast(kind, torch.bfloat16, enabled=on))
            yield

    return other


def _are_pictures(forward: Forward) -> bool:
    """Whether moving the input moves the picture, and with it nothing that was chosen."""
    images = forward.images
    is_moved = images.is_floating_point() and forward.pictures is images and images.ndim > 2
    return is_moved and not forward.target_scores.choice.placed


def _have_mirrors(forward: Forward) -> bool:
    # a signal played backwards is another one
    return _are_pictures(forward) and forward.images.ndim > 3


def _are_single(forward: Forward) -> bool:
    # autocast leaves double precision as it is, and half has no other
    return forward.images.dtype == torch.float32


DISTURBANCES = (
    Disturbance("shift", shifted, shifted_back, _same_context, _are_pictures),
    Disturbance("mirror", _mirrored, _mirrored, _same_context, _have_mirrors),
    Disturbance("precision", _as_it_is, _as_it_is, other_precision, _are_single),
)
