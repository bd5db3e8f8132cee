"""Crossed: one look's activations with another's weights, where the head is linear behind a mean. b batch, c channels.

What such a head makes of a layer is told by two things alone: the activation, and one weight a channel, which is the score's
gradient at every place. Taken from two looks, they are what the map would be had only one of the two changed.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.gradient import derivative
from lightning_cam.capture.seen import Seen
from lightning_cam.model.merged import merged_weight
from lightning_cam.record import Factors

# of a weight's largest entry: half precision rounds weights so far, and what is not linear is further off
_ROUNDING = 2**-6


class NotCrossed(ValueError):
    """A method reads more than activation and gradient, so that what it would give for others is not known."""


class _Hidden(Forward):
    """Stands where a forward is: there is none of activations and weights that never met."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise NotCrossed(f"Of crossed looks there is no forward, so its {name!r} is not known.")


@dataclass(frozen=True, eq=False)
class Crossed(Seen):
    """Activation and gradient of the same samples at two looks; whatever else is asked of it raises ``NotCrossed``.

    Attributes:
        factors: the activation, and the gradient of each channel.
        rounding: the relative rounding of both.
    """

    factors: Factors | None = None
    rounding: float = 0.0

    @property
    def activation(self) -> Float[Tensor, "b c *m"]:  # in place of the look's own
        """The activation of one look."""
        assert self.factors is not None
        return self.factors.activation

    @property
    def gradient(self) -> Float[Tensor, "b c *m"]:
        """The gradient of one look, the same at every place."""
        assert self.factors is not None
        w = self.factors.weight
        return w.reshape(*w.shape, *[1] * (self.activation.ndim - 2)).expand_as(self.activation)

    @property
    def eps(self) -> float:
        """The relative rounding of activation and gradient."""
        return self.rounding


def crossed(seen: Seen, factors: Factors) -> Crossed:
    """A look of these factors, of the same layer."""
    return Crossed(_Hidden(), seen.layer, seen.position, factors=factors, rounding=seen.eps)


def factors_of(seen: Seen) -> Factors | None:
    """What a look's map is made of; None where it is not a number linear in logits of a linear layer behind a mean over space.

    It is told by the forward itself: nothing else with weights behind the layer, one gradient at all places, and this the row
    of the layer's weights that is explained. Of other numbers, as a probability, the gradient changes with the features.
    """
    if seen.head is None or seen.forward.outputs[seen.layer].layout.extra:
        return None
    slope = _slope(seen)
    if slope is None:
        return None
    try:
        gradient = seen.gradient.flatten(2)
        rows = slope.to(gradient) @ merged_weight(seen.head.module).flatten(1).to(gradient)
    except ValueError:  # the weights are packed, or the layer does not feed the score
        return None
    # no view: what is kept of the baseline would hold the gradient at all places, and sums over both be rounded differently
    weight = gradient[:, :, 0].contiguous()
    if rows.shape != weight.shape or not bool((gradient == weight[:, :, None]).all() & _along(weight, rows).all()):
        return None
    return Factors(seen.activation, weight)


def _slope(seen: Seen) -> Float[Tensor, "b k"] | None:
    """The score's gradient by the logits; None where there is none, or it is another at other logits."""
    output = seen.forward.output
    # methods that need no gradient work where there is none
    if not isinstance(output, Tensor) or output.ndim != 2 or not output.requires_grad:
        return None
    score = seen.forward.target_scores.score[:, seen.position]
    if not score.requires_grad:
        return None
    (slope,) = derivative(score, [output], create_graph=True)
    if slope is None or slope.requires_grad:
        return None
    return slope


def _along(weight: Float[Tensor, "b c"], rows: Float[Tensor, "b c"]) -> Bool[Tensor, "b"]:
    """Whether each weight is its row, at any scale: a mean divides by the number of places; of an absent target it is zero."""
    share = ((weight * rows).sum(1) / rows.square().sum(1)).nan_to_num()
    rest = weight - share[:, None] * rows
    return (rest.abs().amax(1) <= _ROUNDING * weight.abs().amax(1)) & (share >= 0)
