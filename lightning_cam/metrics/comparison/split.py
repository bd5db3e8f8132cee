"""What moved a map, the features or the head: drift split exactly where the head is linear. b batch, m map."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.crossed import NotCrossed, crossed, factors_of
from lightning_cam.capture.seen import Seen
from lightning_cam.heat import condense
from lightning_cam.metrics.comparison.direction import cosine_distance
from lightning_cam.record import Factors
from lightning_cam.registry import METRICS


@METRICS.register(range=(-1.0, 2.0), cost="none", reads=("factors",))
def feature_drift(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"] | None:
    """How much of the map's drift since the baseline is due to its features, the activations at the layer.

    Behind a layer that is pooled by its mean and read by one linear layer, a map is made of two things: the activations A and
    the class's weights w. With ``v(A, w)`` the cosine distance of the map of these from the baseline's,

    ``(v(A_t, w_0) + v(A_t, w_t) - v(A_0, w_t)) / 2``,

    the Shapley value of the features: what their change adds, in the mean over both orders in which features and head may
    change. With ``head_drift`` it sums to ``drift``; it is exactly 0 while the layers before are frozen, and below 0 where
    features took back what the head had moved. Not measured where the head is another, where what is explained is not linear
    in the logits, where a method reads more than activation and gradient, and outside a run; NaN as ``drift``, and for samples
    of a large batch whose activations at the baseline are more than the 64 MiB that are kept.

    Source: Shapley 1953, for two players; crossing the activations and the weights of two moments of a training is ours.

    Args:
        heat: raw maps, not read.
        seen: what one forward showed, and what came before.
    """
    parts = _parts(seen)
    if parts is None:
        return None
    features, head, both = parts
    return (features + both - head) / 2


@METRICS.register(range=(-1.0, 2.0), cost="none", reads=("factors",))
def head_drift(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"] | None:
    """How much of the map's drift since the baseline is due to the head, the class's weights behind the layer.

    ``(v(A_0, w_t) + v(A_t, w_t) - v(A_t, w_0)) / 2``, the rest of ``drift`` beside ``feature_drift``, which see. In linear
    probing it is all of it.

    Source: as ``feature_drift``.

    Args:
        heat: raw maps, not read.
        seen: what one forward showed, and what came before.
    """
    parts = _parts(seen)
    if parts is None:
        return None
    features, head, both = parts
    return (head + both - features) / 2


def _parts(seen: Seen) -> tuple[Tensor, Tensor, Tensor] | None:
    """The distance from the baseline's map with the features changed alone, the head alone, and both."""
    method, then = seen.method, seen.earlier.factors
    if method is None or seen.earlier.now is None:
        return None
    # of a baseline whose factors were not kept it cannot be told
    if then is None and seen.earlier.baseline is not None:
        return None
    now = factors_of(seen)
    if now is None:
        return None
    earlier = seen.earlier
    then = _of_all(then or now, len(now.weight))

    def map_of(activation: Tensor, weight: Tensor) -> Tensor:
        return condense(method(crossed(seen, Factors(activation, weight))))

    try:
        baseline = map_of(then.activation, then.weight)
        features = map_of(now.activation, then.weight)
        head = map_of(then.activation, now.weight)
        both = map_of(now.activation, now.weight)
    except NotCrossed:
        return None
    # the maps that are kept say where the baseline is of another class, or where there is none yet
    kept = baseline * torch.nan if earlier.baseline is None else earlier.baseline
    known = kept.flatten(1).isfinite().all(1) & then.weight.isfinite().all(1)
    v = [cosine_distance(heat, baseline).where(known, torch.nan) for heat in (features, head, both)]
    return v[0], v[1], v[2]


def _of_all(factors: Factors, b: int) -> Factors:
    """With NaN for samples of which none were kept: of a large batch those that fit are."""
    missing = b - len(factors.weight)
    if not missing:
        return factors
    blanks = [value.new_full((missing, *value.shape[1:]), torch.nan) for value in (factors.activation, factors.weight)]
    return Factors(torch.cat([factors.activation, blanks[0]]), torch.cat([factors.weight, blanks[1]]))
