"""A method over windows of the enlarged image. b batch, c channels, m map, h w image."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_cam.family import METHODS
from lightning_cam.heat import resize
from lightning_cam.methods.wrap import moved
from lightning_cam.seen import Seen, at_least_float

Method = Callable[[Seen], Tensor]


@METHODS.wrapper
def sess(method: Method, *, scales: int = 4, step: float = 2 / 7) -> Method:
    """SESS: a method's maps of windows over the image at several scales, each weighed by what the window alone scores.

    The image is enlarged by ``1 + i step``, i below ``scales``, and cut into windows of its own size, side by side, the last
    of a row moved in to fit. Each window's map, positive part over its maximum, is multiplied by the window's confidence and
    put back where it was; a place has the mean over the windows that show evidence there. At the image's size, in [0, 1].
    The confidence is the class's softmax probability, of a target that is no class the score where it is positive. Finds small
    and several objects that one look misses. The authors also drop the weakest windows and smooth what comes out.

    Cost: the method's, and a forward, for each window: 13 at four scales; the paper has twelve scales. Source: Tursun et al.
    2022, arXiv 2207.01769.

    Args:
        method: whose maps are put together.
        scales: how many scales, the image's own included.
        step: by how much each is larger than the one before, as a share of the image's size.

    Raises:
        ValueError: for scales below 1, a step not above 0, images of other than two sides, or a target that is a place.
    """
    if scales < 1 or step <= 0:
        raise ValueError(f"sess(scales={scales!r}, step={step!r}): expected 1 scale or more, and a step above 0.")

    def slid(seen: Seen) -> Float[Tensor, "b h w"]:
        if seen.image.ndim != 4:
            raise ValueError(f"sess slides over pictures [b c h w]; these are {tuple(seen.image.shape)}.")
        h, w = seen.image.shape[2:]
        total, shown = (seen.score.new_zeros(len(seen.image), h, w) for _ in range(2))
        for i in range(scales):
            large = _enlarged(seen.image, 1 + i * step)
            for y, x in _windows(large.shape[2:], (h, w)):
                window = moved(seen, large[..., y : y + h, x : x + w], "sess")
                canvas = total.new_zeros(len(total), *large.shape[2:])
                canvas[:, y : y + h, x : x + w] = resize(_share(method(window)), (h, w)) * _confidence(window)[:, None, None]
                placed = resize(canvas, (h, w))
                total, shown = total + placed, shown + (placed > 0)
        return total / shown.clamp(min=1)

    return slid


def _enlarged(images: Shaped[Tensor, "b c h w"], factor: float) -> Shaped[Tensor, "b c y x"]:
    if factor == 1:
        return images
    size = [round(side * factor) for side in images.shape[2:]]
    large = F.interpolate(at_least_float(images), size, mode="bilinear", align_corners=False, antialias=True)
    return large.to(images.dtype)


def _windows(size: torch.Size, window: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Upper left corners, row by row."""
    tops, lefts = ([min(at, length - w) for at in range(0, length, w)] for length, w in zip(size, window, strict=True))
    return ((y, x) for y in tops for x in lefts)


def _share(heat: Float[Tensor, "b *m"]) -> Float[Tensor, "b *m"]:
    """The positive part over its maximum, 0 where there is none."""
    positive = heat.relu()
    most = positive.flatten(1).amax(1).reshape(-1, *[1] * (heat.ndim - 1))
    return positive / most.where(most > 0, 1)


def _confidence(seen: Seen) -> Float[Tensor, "b"]:
    if seen.classes is None:
        return seen.score.clamp(min=0)
    p: Tensor = seen.logits.to(seen.score.dtype).softmax(1).gather(1, seen.classes[:, None])[:, 0]
    return p
