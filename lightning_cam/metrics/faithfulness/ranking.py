"""Pixels in the order of a map's relevance. b batch, m map, s sides of the image, n pixels."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.metrics.faithfulness.probability import at_image_size


def relevance_ranks(heat: Float[Tensor, "b *m"], seen: Seen, seed: int = 0) -> Int[Tensor, "b *s"]:
    """Each pixel's place in the order of relevance, 0 the most relevant, by the raw map linearly resized to the image.

    A share of the pixels is told by ranks and so is exact, however many have the same value: thresholds between values take
    all of them or none. Which of equal pixels comes first is drawn from the seed, the same for every sample and at every look.

    Raises:
        ValueError: for maps that have fewer sides than the image.
    """
    large = at_image_size(heat, seen)
    flat = large.flatten(1)
    n = flat.shape[1]
    # drawn on the CPU, so that it is the same on every device
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(flat.device)
    order = drawn[flat[:, drawn].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(n, device=flat.device).expand_as(order))
    return ranks.reshape(large.shape)


def is_ordered(heat: Float[Tensor, "b *m"]) -> Bool[Tensor, "b"]:
    """Whether a map prefers any cell to another."""
    flat = heat.flatten(1)
    return flat.amax(1) > flat.amin(1)
