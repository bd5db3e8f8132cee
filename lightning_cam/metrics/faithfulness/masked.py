"""Images seen through their maps, and what becomes of probability and map; one forward a look, whichever metrics ask.

b batch, m map, s sides of the image.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.capture.summary.predictions import class_probability
from lightning_cam.heat import min_max
from lightning_cam.metrics.faithfulness.probability import at_image_size, explained_probability


def scaled(heat: Float[Tensor, "b *m"]) -> Float[Tensor, "b *m"]:
    """``U(M)``: the positive part of each map, scaled from its own minimum and maximum to [0, 1]; of one value, 1."""
    return min_max(heat.relu(), constant=1.0)


def shows_evidence(heat: Float[Tensor, "b *m"]) -> Bool[Tensor, "b"]:
    """Whether a map has a positive value; without any it hides all of the image, which is no map's fault or merit."""
    return (heat > 0).flatten(1).any(1)


def through_map(heat: Float[Tensor, "b *m"], seen: Seen) -> Shaped[Tensor, "b ..."]:
    """``x * U(M)``: the model's own input times the map, scaled at its resolution and linearly resized to the image.

    What the map hides fades to 0 as the model is given it: to the dataset's mean colour where images are normalised, else to
    black. These are two different metrics.

    Raises:
        ValueError: for maps that have fewer sides than the image.
    """
    # absent maps are NaN, which no model need be given
    mask = at_image_size(scaled(heat).nan_to_num(), seen)
    return (mask[:, None] * seen.image).to(seen.image.dtype)


def probability_through_map(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """``o``: the probability of the explained class for the images seen through their maps.

    Raises:
        ValueError: where the target explains the score of no class.
    """
    return _once(heat, seen, "probability", lambda: explained_probability(seen.with_image(through_map(heat, seen))))


def map_through_map(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b *m"]:
    """The map, by the same method, of the images seen through their maps.

    Raises:
        ValueError: if nobody said how the map was made.
    """
    method = seen.method
    if method is None:
        raise ValueError(
            "coherency asks for the map of changed images by the same method, and this Seen does not say which made the map; "
            "expected Seen(forward, layer, method=grad_cam), or any other function of a Seen. A run's looks say it."
        )

    def compute() -> Tensor:
        masked = seen.with_image(through_map(heat, seen))
        if class_probability(masked.forward) is not None:
            # no second forward for who asks for it next
            _once(heat, seen, "probability", lambda: explained_probability(masked))
        return method(masked).detach()

    return _once(heat, seen, (seen.layer, method), compute)


def _once(heat: Float[Tensor, "b *m"], seen: Seen, what: Any, compute: Callable[[], Tensor]) -> Tensor:
    """What was computed of the same maps in this look, by whichever metric asked first."""
    known = seen.forward.shared.setdefault((__name__, seen.position, what), [])
    for other, value in known:
        if other.shape == heat.shape and torch.equal(other.nan_to_num(), heat.nan_to_num()):
            kept: Tensor = value
            return kept
    value = compute()
    known.append((heat, value))
    return value
