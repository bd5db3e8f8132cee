"""The probability of the explained class, of the images as they are and of changed ones. b batch, m map, s sides of the image.

Faithfulness asks what becomes of it when an image is changed by what a map says. Where it is small there is little to lose, and
what is lost is divided by nearly nothing: below a least probability every metric of this room is NaN.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.capture.summary.predictions import class_probability
from lightning_cam.heat import resize

LEAST = 0.05


def explained_probability(seen: Seen) -> Float[Tensor, "b"]:
    """The probability of the class explained, or of the side of a single logit; NaN where a sample has no such target.

    Raises:
        ValueError: where the target explains neither.
    """
    probability = class_probability(seen.forward)
    if probability is None:
        given = type(seen.logits).__name__
        if isinstance(seen.logits, Tensor):
            given = str(tuple(seen.logits.shape))
        raise ValueError(
            "Faithfulness is measured by the probability of the class explained, and this target explains no class of logits "
            f"[b k]; the model gave {given}. Explain a class, target='label', target='predicted' or its number, of a single "
            "logit target='binary'; or leave out metrics of faithfulness."
        )
    return probability[:, seen.position]


def changed_probability(seen: Seen, images: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b"]:
    """The probability of the same classes for changed images; one forward of the batch."""
    return explained_probability(seen.with_image(images))


def where_known(
    value: Float[Tensor, "b"], heat: Float[Tensor, "b *m"], p: Float[Tensor, "b"], least: float
) -> Float[Tensor, "b"]:
    """A metric's values, NaN where the probability is not above the least, or a map is not made of numbers."""
    numbers = heat.isfinite().flatten(1).all(1)
    return value.where((p > least) & numbers, torch.nan)


def at_image_size(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b *s"]:
    """Maps linearly resized to the image.

    Raises:
        ValueError: for maps that have fewer sides than the image.
    """
    if heat.ndim + 1 != seen.image.ndim:
        raise ValueError(
            f"Faithfulness is measured by changing pixels, so the map needs as many sides as the image; at {seen.layer!r} "
            f"the map is {tuple(heat.shape)} and the images are {tuple(seen.image.shape)}. Name a layer whose map has them "
            "all, layer=..., or a method that keeps them, such as method='grad_cam'."
        )
    return resize(heat, seen.image.shape[2:])
