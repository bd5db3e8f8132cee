"""How much of the evidence a map of the layer can show at all, whatever the method. b batch, u v map."""

from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.capture.summary.evidence import share_on_map
from lightning_cam.registry import METRICS

# from the score back to the layer
_COST = "1 backward, shared with the methods that read a gradient"


def token_share(seen: Seen) -> Float[Tensor, "b"]:
    """The places' share of the layer's tokens, 0 to 1: what ``on_map`` gives where all tokens count alike."""
    places = seen.activation[0, 0].numel()
    return seen.score.new_full((len(seen.image),), places / (places + seen.forward.outputs[seen.layer].layout.extra))


@METRICS.register(range=(0.0, 1.0), floor=token_share, cost=_COST)
def on_map(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """The share of the evidence at the layer that is on the map; the rest is at class and register tokens.

    ``sum_map |g A| / sum |g A|`` in [0, 1], below over all tokens, with g the score's gradient at the layer: the same for every
    method. 1 where no tokens are beside the map. Below .5 most is said by tokens that have no place, and a clean map does
    not show where they have it from. Each channel counts by itself: before a layer norm the channels of a token cancel,
    whatever it contributes, since what a norm gives does not grow with what it is given. NaN where no token has a gradient.

    Source: tokens without a place hold what clean maps lack (arXiv 2505.05892); gradient times activation as in HiResCAM
    (Draelos & Carin 2020, arXiv 2011.08891).

    Args:
        heat: raw maps, not read.
        seen: what one forward showed.

    Raises:
        ValueError: if the score does not depend on the layer.
    """
    return share_on_map(seen)


@METRICS.register(range=(0.0, 1.0), cost=_COST)
def bias_share(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """The share of the score that neither the map nor any token of the layer carries: biases behind it, and what passes it by.

    ``|S - sum g A| / (sum |g A| + |S - sum g A|)`` in [0, 1], the sums over channels and all tokens. Of piecewise-linear nets
    ``S - sum g A`` is what biases behind the layer add, FullGrad's bias-gradients. Behind norms, softmax and smooth
    activations it is all that is not linear too, and with a residual connection around the layer what goes that way: a
    large share says that the score cannot be read from this layer, not that biases decide it. NaN where all of it is 0.

    Source: Srinivas & Fleuret 2019, proposition 1, arXiv 1905.00780, at a layer.

    Args:
        heat: raw maps, not read.
        seen: what one forward showed.

    Raises:
        ValueError: if the score does not depend on the layer.
    """
    size = seen.score.new_zeros(len(seen.score))
    rest = seen.score
    for terms in seen.terms:
        size = size + terms.abs().flatten(1).sum(1)
        rest = rest - terms.flatten(1).sum(1)
    return rest.abs() / (size + rest.abs())
