"""Methods made from methods, by looking at changed images: noisy, mirrored, or cut into windows.

In Python ``smooth("grad_cam", n=16)``, by name ``{"smooth": {"method": "grad_cam", "n": 16}}``; a wrapper can wrap another.
Smooth Grad-CAM++ stands beside them for its noise. b batch, c channels, m map, h w image, y x enlarged image.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_cam.capture.gradient import at_least_float
from lightning_cam.capture.seen import Seen
from lightning_cam.heat import resize, share_of_maximum
from lightning_cam.methods.gradient import weighted
from lightning_cam.registry import METHODS

Method = Callable[[Seen], Tensor]

# as in grad_cam_pp: the share of D2 below which a denominator is none
_POLE = 1e-3


@METHODS.wrapper
def smooth(method: Method, *, n: int = 8, sigma: float = 0.05, seed: int = 0) -> Method:
    """SmoothGrad of any method: the mean of its map over noisy images.

    ``mean_i M(x + noise_i)``, signed, in the method's units. The noise is normal, its standard deviation ``sigma`` times the
    range (maximum - minimum) of each image as the model is given it; classes stay those of the clean image. With sigma 0
    it is the method. The same seed draws the same noise at every look, on every device and for every sample; global random
    states stay as they are.

    Cost: n times the method's, and n forwards. Source: Smilkov et al. 2017, arXiv 1706.03825, there for
    gradients by the image.

    Args:
        method: what is averaged.
        n: noisy images.
        sigma: standard deviation of the noise, as a share of the image's range. The paper finds 0.1 to 0.2 best for gradients
            by the image; maps of activations are torn apart by it where a net bears little noise (SqueezeNet), hence less.
        seed: which noise.

    Raises:
        ValueError: for n below 1, sigma below 0, or images that are no floating point numbers.
    """

    def smoothed(seen: Seen) -> Float[Tensor, "b *m"]:
        heats = [method(seen.with_image(image)).detach() for image in _noisy(seen.image, n, sigma, seed)]
        return torch.stack(heats).mean(0)

    return smoothed


@METHODS.wrapper
def flip_average(method: Method) -> Method:
    """The mean of a method's map and of the map of the mirrored image, mirrored back.

    ``(M(x) + flip(M(flip(x)))) / 2``, signed, in the method's units; left and right are exchanged, of signals start and end.
    Places match where the layer's cells lie symmetrically in the image; a stride that starts at one edge shifts the
    mirrored map by less than a cell. Classes stay those of the image as it is.

    Cost: twice the method's, and a forward. Source: test-time augmentation, general practice.

    Args:
        method: what is averaged.

    Raises:
        ValueError: for a target that is a place in the picture, such as a box.
    """

    def averaged(seen: Seen) -> Float[Tensor, "b *m"]:
        mirrored = method(_moved(seen, seen.image.flip(-1), "flip_average"))
        return (method(seen) + mirrored.flip(-1)) / 2

    return averaged


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

    def assembled(seen: Seen) -> Float[Tensor, "b h w"]:
        if seen.image.ndim != 4:
            raise ValueError(f"sess slides over pictures [b c h w]; these are {tuple(seen.image.shape)}.")
        h, w = seen.image.shape[2:]
        total = seen.score.new_zeros(len(seen.image), h, w)
        shown = torch.zeros_like(total)
        for i in range(scales):
            large = _enlarged(seen.image, 1 + i * step)
            for y, x in _windows(large.shape[2:], (h, w)):
                window = _moved(seen, large[..., y : y + h, x : x + w], "sess")
                share = resize(share_of_maximum(method(window)), (h, w))
                canvas = total.new_zeros(len(total), *large.shape[2:])
                canvas[:, y : y + h, x : x + w] = share * _confidence(window)[:, None, None]
                placed = resize(canvas, (h, w))
                total = total + placed
                shown = shown + (placed > 0)
        return total / shown.clamp(min=1)

    return assembled


@METHODS.register
def smooth_grad_cam_pp(seen: Seen, *, n: int = 8, sigma: float = 0.15, seed: int = 0) -> Float[Tensor, "b *m"]:
    """Smooth Grad-CAM++: the derivatives of Grad-CAM++ averaged over noisy images, the activation that of the clean one.

    ``sum_k w_k A_k`` with ``w_k = sum_m alpha ReLU(D1)`` and ``alpha = D2 / (2 D2 + sum_m(A_k) D3)``, ``Dp = mean_i g_i^p`` at
    ``x + noise_i`` and A at x; >= 0 where activations are. As in Grad-CAM++ powers of the gradient stand for higher
    derivatives and the factor exp(S) is left out. The paper prints alpha with D1 above the bar, unlike Grad-CAM++,
    from which it is derived; D2 is taken. It is not ``smooth`` of ``grad_cam_pp``, which averages finished maps; with sigma 0
    both are ``grad_cam_pp``. Noise as in ``smooth``. Places whose denominator is within 1e-3 D2 of 0 count nothing.

    Cost: n forwards and backwards. Source: Omeiza et al. 2019, arXiv 1908.01224.

    Args:
        seen: what one forward showed.
        n: noisy images.
        sigma: standard deviation of the noise, as a share of the image's range.
        seed: which noise.

    Raises:
        ValueError: for n below 1, sigma below 0, or images that are no floating point numbers.
    """
    a = seen.activation
    total = a.flatten(2).sum(2).reshape(*a.shape[:2], *[1] * (a.ndim - 2))
    d1 = torch.zeros_like(a)
    d2 = torch.zeros_like(a)
    d3 = torch.zeros_like(a)
    for image in _noisy(seen.image, n, sigma, seed):
        g = seen.with_image(image).gradient
        d1 = d1 + g / n
        d2 = d2 + g**2 / n
        d3 = d3 + g**3 / n
    below = 2 * d2 + total * d3
    regular = (d2 > 0) & (below.abs() > _POLE * d2)
    alpha = (d2 / below.where(regular, 1)).where(regular, 0)
    w = (alpha * d1.relu()).flatten(2).sum(2)
    return weighted(w, a, seen.eps)


def _moved(seen: Seen, images: Shaped[Tensor, "b ..."], name: str) -> Seen:
    """The same look at pictures mirrored or cut.

    Raises:
        ValueError: if what is explained is a place of the picture, which is elsewhere then.
    """
    if seen.forward.target_scores.choice.placed:
        raise ValueError(
            f"{name} moves the picture, and the target is a place in it (a box, a region), which it would miss. "
            "Use smooth, or a target that is a class."
        )
    return seen.with_image(images)


def _noisy(images: Shaped[Tensor, "b ..."], n: int, sigma: float, seed: int) -> Iterator[Shaped[Tensor, "b ..."]]:
    """The images with noise, n times over, the same for each sample but for its size."""
    if n < 1:
        raise ValueError(f"n={n!r}: expected how many noisy images are averaged, 1 or more.")
    if sigma < 0:
        raise ValueError(f"sigma={sigma!r}: expected a standard deviation, 0 or more.")
    if not images.is_floating_point():
        raise ValueError(f"Noise can be added to images of floating point numbers; these are {images.dtype}.")
    flat = images.flatten(1)
    deviation = sigma * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (images.ndim - 1))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        # drawn on the CPU in double precision, so that it is the same on every device and in every precision
        noise = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
        yield images + deviation * noise.to(images)


def _enlarged(images: Shaped[Tensor, "b c h w"], factor: float) -> Shaped[Tensor, "b c y x"]:
    if factor == 1:
        return images
    size = [round(side * factor) for side in images.shape[2:]]
    large = F.interpolate(at_least_float(images), size, mode="bilinear", align_corners=False, antialias=True)
    return large.to(images.dtype)


def _windows(size: torch.Size, window: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Upper left corners, row by row."""
    tops = _starts(size[0], window[0])
    lefts = _starts(size[1], window[1])
    return ((y, x) for y in tops for x in lefts)


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin along a side; the last is moved in to fit."""
    return [min(start, length - window) for start in range(0, length, window)]


def _confidence(seen: Seen) -> Float[Tensor, "b"]:
    if seen.classes is None:
        return seen.score.clamp(min=0)
    p = seen.logits.to(seen.score.dtype).softmax(1)
    confidence: Tensor = p.gather(1, seen.classes[:, None])[:, 0]
    return confidence
