"""Slow references of the methods that change images or activations, written from the papers.

One image, one channel, one place at a time, the net run anew for each.
"""

import math

import torch
from reference import Case, replicates
from torch import Tensor


def score(case: Case, image: Tensor, c: int) -> float:
    """The whole net on one image."""
    with torch.no_grad():
        return float(case.tail(case.trunk(image[None]))[0, c])


def tail(case: Case, a: Tensor, c: int) -> float:
    with torch.no_grad():
        return float(case.tail(a[None])[0, c])


def enlarged(channel: Tensor, h: int, w: int) -> Tensor:
    """Bilinear, half-pixel centres, edges repeated."""
    large = torch.zeros(h, w, dtype=channel.dtype)
    for y in range(h):
        for x in range(w):
            v = max((y + 0.5) * channel.shape[0] / h - 0.5, 0.0)
            u = max((x + 0.5) * channel.shape[1] / w - 0.5, 0.0)
            v0, u0 = int(v), int(u)
            v1, u1 = min(v0 + 1, channel.shape[0] - 1), min(u0 + 1, channel.shape[1] - 1)
            top = channel[v0, u0] * (1 - (u - u0)) + channel[v0, u1] * (u - u0)
            low = channel[v1, u0] * (1 - (u - u0)) + channel[v1, u1] * (u - u0)
            large[y, x] = top * (1 - (v - v0)) + low * (v - v0)
    return large


def unit(channel: Tensor) -> Tensor:
    return (channel - channel.min()) / (channel.max() - channel.min())


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def summed(a: Tensor, w: list[float]) -> Tensor:
    heat = torch.zeros(a.shape[1:], dtype=a.dtype)
    for k in range(len(a)):
        heat += w[k] * a[k]
    return heat


@replicates("ablation_cam")
def ablation_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Desai & Ramaswamy: slope_k = (y - y_k) / y; the map without its ReLU; |y| for y, so that the sign stays."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        a = case.activation(image)
        y = score(case, image, c)
        slopes = []
        for k in range(len(a)):
            zeroed = a.clone()
            zeroed[k] = 0
            slopes.append((y - tail(case, zeroed, c)) / abs(y))
        maps.append(summed(a, slopes))
    return torch.stack(maps)


def mean_token(a: Tensor, fill: str) -> Tensor:
    """What stands where a place is emptied: nothing, or the mean over all places."""
    token = torch.zeros(len(a), dtype=a.dtype)
    if fill == "mean":
        for u in range(a.shape[1]):
            for v in range(a.shape[2]):
                token += a[:, u, v] / (a.shape[1] * a.shape[2])
    return token


@replicates("recipro_cam")
def recipro_cam(
    case: Case, images: Tensor, classes: list[int], kernel: tuple[float, ...] = (0.0, 1.0, 0.0), fill: str = "zero"
) -> Tensor:
    """Byun & Lee: the feature at one place, zeros (or the mean) elsewhere, through the head; less the empty map's score."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        a = case.activation(image)
        token = mean_token(a, fill)
        empty = token[:, None, None].expand_as(a)
        heat = torch.zeros(a.shape[1:], dtype=a.dtype)
        for u in range(a.shape[1]):
            for v in range(a.shape[2]):
                mosaic = empty.clone()
                for du in (-1, 0, 1):
                    for dv in (-1, 0, 1):
                        inside = 0 <= u + du < a.shape[1] and 0 <= v + dv < a.shape[2]
                        share = kernel[du + 1] * kernel[dv + 1]
                        if inside:
                            mosaic[:, u + du, v + dv] = share * a[:, u, v] + (1 - share) * token
                heat[u, v] = tail(case, mosaic, c) - tail(case, empty, c)
        maps.append(heat)
    return torch.stack(maps)


@replicates("token_ablation")
def token_ablation(case: Case, images: Tensor, classes: list[int], fill: str = "mean") -> Tensor:
    """One token after another replaced by the mean of all tokens (or nothing), and what the score loses by it."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        a = case.activation(image)
        heat = torch.zeros(a.shape[1:], dtype=a.dtype)
        for u in range(a.shape[1]):
            for v in range(a.shape[2]):
                replaced = a.clone()
                replaced[:, u, v] = mean_token(a, fill)
                heat[u, v] = tail(case, a, c) - tail(case, replaced, c)
        maps.append(heat)
    return torch.stack(maps)


def masked(case: Case, images: Tensor, classes: list[int], masks_of, channels: int | None = None) -> Tensor:
    """Algorithm 1 of Score-CAM, with the score of a channel averaged over the masks made from it; of some channels only."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        a = case.activation(image)
        black = score(case, torch.zeros_like(image), c)
        increase = []
        chosen = sorted(range(len(a)), key=lambda k: -float(((a[k] - a[k].mean()) ** 2).mean()))[:channels]
        for k in chosen:
            masks = masks_of(unit(enlarged(a[k], *image.shape[1:])))
            increase.append(sum(score(case, image * mask, c) - black for mask in masks) / len(masks))
        maps.append(summed(a[chosen], softmax(increase)))
    return torch.stack(maps)


@replicates("score_cam")
def score_cam(case: Case, images: Tensor, classes: list[int], channels: int | None = None) -> Tensor:
    """Wang et al., algorithm 1, with the baseline that the softmax takes away again."""
    return masked(case, images, classes, lambda mask: [mask], channels)


@replicates("ss_cam")
def ss_cam(
    case: Case,
    images: Tensor,
    classes: list[int],
    n: int = 10,
    sigma: float = 2.0,
    seed: int = 0,
    channels: int | None = None,
) -> Tensor:
    """Wang et al.: the mean score over scaled masks with normal noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(images.shape[2:], generator=generator, dtype=torch.float64) for _ in range(n)]
    return masked(case, images, classes, lambda mask: [mask + sigma * one for one in noise], channels)


@replicates("is_cam")
def is_cam(case: Case, images: Tensor, classes: list[int], n: int = 10, channels: int | None = None) -> Tensor:
    """Naidu et al.: the mean score over masks of 1/n, 2/n, ..., 1 of their strength."""
    return masked(case, images, classes, lambda mask: [mask * i / n for i in range(1, n + 1)], channels)


@replicates("random_cam")
def random_cam(case: Case, images: Tensor, classes: list[int], seed: int = 0) -> Tensor:
    """Uniform noise, value after value."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.rand(case.activation(i).shape[1:], generator=generator, dtype=torch.float64) for i in images])


@replicates("smooth_grad_cam_pp")
def smooth_grad_cam_pp(
    case: Case, images: Tensor, classes: list[int], n: int = 8, sigma: float = 0.15, seed: int = 0
) -> Tensor:
    """Omeiza et al.: averaged powers of the gradient at noisy images, the activation of the clean one."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        generator = torch.Generator().manual_seed(seed)
        deviation = sigma * float(image.max() - image.min())
        a = case.activation(image)
        d1, d2, d3 = torch.zeros_like(a), torch.zeros_like(a), torch.zeros_like(a)
        for _ in range(n):
            noise = torch.randn(image.shape, generator=generator, dtype=torch.float64)
            g = case.gradient(case.activation(image + deviation * noise), c)
            d1, d2, d3 = d1 + g / n, d2 + g**2 / n, d3 + g**3 / n
        weights = []
        for k in range(len(a)):
            w = 0.0
            for u in range(a.shape[1]):
                for v in range(a.shape[2]):
                    if d2[k, u, v] > 0:
                        alpha = d2[k, u, v] / (2 * d2[k, u, v] + a[k].sum() * d3[k, u, v])
                        w += float(alpha) * max(float(d1[k, u, v]), 0.0)
            weights.append(w)
        maps.append(summed(a, weights))
    return torch.stack(maps)
