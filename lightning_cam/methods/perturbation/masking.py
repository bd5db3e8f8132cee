"""Methods that mask the image with each channel and weigh channels by the score that is left: the Score-CAM family.

b batch, c channels, m map, s sides of the image, z its own channels, n masked images.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import min_max, resize
from lightning_cam.methods.gradient import weighted
from lightning_cam.methods.perturbation.layer import checked
from lightning_cam.registry import METHODS

Change = Callable[[Float[Tensor, "n *s"]], Float[Tensor, "n *s"]]


@METHODS.register
def score_cam(seen: Seen, *, channels: int | None = None, chunk: int = 64) -> Float[Tensor, "b *m"]:
    """Score-CAM: channels weighted by the score that the image keeps when it is seen through them.

    ``sum_k w_k A_k`` with ``w = softmax_k S(x * H_k)`` and ``H_k`` the channel, resized to the image and scaled to [0, 1];
    in units of the activation, >= 0 where that is. The weights of an image sum to 1. The score is the one explained, by
    default a logit; the paper's baseline is left out since a constant changes no softmax. A softmax over hundreds of
    logits leaves few channels, over probabilities (a target can give them) nearly the activation mean. The authors' code
    has no softmax over channels, and the probability as weight. Channels constant over the map have no mask: weight 0.

    Cost: a forward a channel and sample. Source: Wang et al. 2020, section 3 and algorithm 1, arXiv 1910.01279; there of
    all channels.

    Args:
        seen: what one forward showed.
        channels: how many channels are tried, those of the largest variance over the map, of each sample its own; the others
            weigh 0. None for all. A channel that hardly varies adds hardly a pattern, and costs as much.
        chunk: how many masked images are made and run at a time.

    Raises:
        ValueError: for a chunk, or channels, below 1.
    """
    return masked_scores_map(seen, [lambda mask: mask], chunk, channels)


@METHODS.register
def ss_cam(
    seen: Seen, *, n: int = 10, sigma: float = 2.0, seed: int = 0, channels: int | None = None, chunk: int = 64
) -> Float[Tensor, "b *m"]:
    """SS-CAM: Score-CAM with each channel's score averaged over noisy masks.

    ``sum_k w_k A_k`` with ``w = softmax_k mean_i S(x * (H_k + noise_i))``, noise normal and independent at every pixel, drawn
    after the mask is scaled to [0, 1], and not clipped, as in torch-cam; other published code draws it before scaling, or adds
    it to the masked image. Scores, weights, units and constant channels as in score_cam. The same seed draws the same noise
    at every look and on every device, the same for every channel and sample; global random states stay as they are.

    Cost: n forwards a channel and sample. Source: Wang et al. 2020, arXiv 2006.14255.

    Args:
        seen: what one forward showed.
        n: noisy masks a channel.
        sigma: standard deviation of the noise, in units of the mask.
        seed: which noise.
        channels: how many channels are tried, as in score_cam.
        chunk: how many masked images are made and run at a time.

    Raises:
        ValueError: for a chunk, channels or n below 1, or sigma below 0.
    """
    if sigma < 0:
        raise ValueError(f"sigma={sigma!r}: expected a standard deviation, 0 or more.")
    generator = torch.Generator().manual_seed(seed)
    noises = [torch.randn(seen.image.shape[2:], generator=generator, dtype=torch.float64) for _ in range(n)]
    return masked_scores_map(seen, [with_noise(sigma * noise) for noise in noises], chunk, channels)


@METHODS.register
def is_cam(seen: Seen, *, n: int = 10, channels: int | None = None, chunk: int = 64) -> Float[Tensor, "b *m"]:
    """IS-CAM: Score-CAM with each channel's score integrated while its mask fades in.

    ``sum_k w_k A_k`` with ``w = softmax_k mean_i S(x * H_k i / n)``, i from 1 to n: the integral of the score along the
    straight line from the black image to the masked one. Scores, weights, units and constant channels as in score_cam, which is
    n = 1. Code that sums the factors as it goes shows the model masks of up to (n + 1) / 2.

    Cost: n forwards a channel and sample. Source: Naidu et al. 2020, arXiv 2010.03023.

    Args:
        seen: what one forward showed.
        n: steps of the integral.
        channels: how many channels are tried, as in score_cam.
        chunk: how many masked images are made and run at a time.

    Raises:
        ValueError: for a chunk, channels or n below 1.
    """
    return masked_scores_map(seen, [faded((i + 1) / n) for i in range(n)], chunk, channels)


def masked_scores_map(seen: Seen, changes: list[Change], chunk: int, channels: int | None = None) -> Float[Tensor, "b *m"]:
    """Channels weighted by the softmax of the score through their masks, averaged over changes of the masks."""
    a = seen.activation
    if not changes:
        raise ValueError("n=0: expected how often each mask is changed, 1 or more.")
    if a.ndim != seen.image.ndim:
        raise ValueError(
            f"Masks need maps with the image's sides; the image is {tuple(seen.image.shape)}, the map at {seen.layer!r} "
            f"{tuple(a.shape)}. Use ablation_cam or recipro_cam, which change the activation."
        )
    # where it stays -inf, a channel is constant or not tried: softmax gives it nothing
    scores = torch.full(a.shape[:2], -torch.inf, dtype=a.dtype, device=a.device)
    for i in range(len(a)):
        varying = _most_varying(a[i], _varying(a[i]), channels)
        if not len(varying):
            continue  # of nothing, split makes one empty chunk
        for part in varying.split(checked(chunk)):
            masks = channel_masks(a[i, part], seen.image.shape[2:])
            changed = [seen.rescore(i, image=masked_images(seen.image[i], change(masks))) for change in changes]
            scores[i, part] = torch.stack(changed).mean(0).to(a.dtype)
    constant = (scores == -torch.inf).all(1, keepdim=True)
    w = scores.softmax(1).masked_fill(constant, 0)
    return weighted(w, a)


def _varying(a: Float[Tensor, "c *m"]) -> Int[Tensor, "n"]:
    """Channels whose values differ by more than rounding, which scaling to [0, 1] would blow up to a mask."""
    flat = a.flatten(1)
    span = flat.amax(1) - flat.amin(1)
    return (span > 8 * torch.finfo(a.dtype).eps * flat.abs().amax(1)).nonzero()[:, 0]


def _most_varying(a: Float[Tensor, "c *m"], channels: Int[Tensor, "n"], most: int | None) -> Int[Tensor, "k"]:
    """Of these channels at most so many, those of the largest variance over the map, in their own order."""
    if most is None:
        return channels
    if most < 1:
        raise ValueError(f"channels={most!r}: expected how many channels are tried, 1 or more, or None for all.")
    variance = a.flatten(1)[channels].var(1, correction=0)
    strongest = variance.topk(min(most, len(channels))).indices
    return channels[strongest.sort().values]


def channel_masks(a: Float[Tensor, "n *m"], size: tuple[int, ...]) -> Float[Tensor, "n *s"]:
    """Channels resized to the image, then each scaled to [0, 1]."""
    return min_max(resize(a, size))


def masked_images(image: Shaped[Tensor, "z *s"], masks: Float[Tensor, "n *s"]) -> Shaped[Tensor, "n z *s"]:
    """An image times each of the masks, in its own precision."""
    return (masks[:, None] * image).to(image.dtype)


def with_noise(noise: Float[Tensor, "*s"]) -> Change:
    """A mask with noise added, which is the same for every mask."""
    return lambda masks: masks + noise.to(masks)


def faded(factor: float) -> Change:
    """A mask times a factor."""
    return lambda masks: masks * factor
