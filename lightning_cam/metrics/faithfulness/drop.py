"""What of the class's probability is left when the image is seen through its map. b batch, m map.

``p`` is the probability of the explained class for the image, ``o`` for the image through its map, ``x * U(M)``: the positive
part of the map, scaled from its minimum and maximum to [0, 1] and resized to the image, times what the model is given. Hidden
places fade to the dataset's mean colour where images are normalised before the model, to black where they are not. All three
share one forward. A model in training also changes how it takes images of this kind: plot the control with them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.metrics.faithfulness.masked import probability_through_map, shows_evidence
from lightning_cam.metrics.faithfulness.probability import LEAST, explained_probability, where_known
from lightning_cam.registry import METRICS

_COST = "1 forward, shared by average_drop, increase and average_gain"


@METRICS.register(range=(0.0, 1.0), higher_is_better=False, cost=_COST)
def average_drop(heat: Float[Tensor, "b *m"], seen: Seen, *, least: float = LEAST) -> Float[Tensor, "b"]:
    """Average drop: the share of the class's probability that is lost when only what the map shows is left.

    ``max(0, p - o) / p`` in [0, 1], relative and not in percent; other code gives ``p - o`` under the same name. A map of ones
    drops nothing, so it is no measure by itself: ``adcc``. NaN where p is not above the least, as early in training, and
    where the map has no positive value; means over a run are over those samples that were above it at each look.

    Cost: a forward, shared with increase and average_gain. Source: Chattopadhay et al. 2018 (Grad-CAM++), arXiv
    1710.11063.

    Args:
        heat: raw maps.
        seen: what one forward showed.
        least: the probability above which a sample counts.

    Raises:
        ValueError: where the target explains the score of no class, or the map has fewer sides than the image.
    """
    p = explained_probability(seen)
    o = probability_through_map(heat, seen)
    return where_known((p - o).relu() / p, heat, p, least).where(shows_evidence(heat), torch.nan)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, cost=_COST)
def increase(heat: Float[Tensor, "b *m"], seen: Seen, *, least: float = LEAST) -> Float[Tensor, "b"]:
    """Increase in confidence: whether the class is more probable when only what the map shows is left.

    1 where ``o > p``, else 0; its mean is the share of samples. NaN as ``average_drop``.

    Cost: a forward, shared with average_drop and average_gain. Source: Chattopadhay et al. 2018 (Grad-CAM++),
    arXiv 1710.11063.

    Args:
        heat: raw maps.
        seen: what one forward showed.
        least: the probability above which a sample counts.

    Raises:
        ValueError: where the target explains the score of no class, or the map has fewer sides than the image.
    """
    p = explained_probability(seen)
    o = probability_through_map(heat, seen)
    more = (o > p).to(p.dtype).where(o.isfinite(), torch.nan)
    return where_known(more, heat, p, least).where(shows_evidence(heat), torch.nan)


@METRICS.register(range=(0.0, 1.0), higher_is_better=True, cost=_COST)
def average_gain(heat: Float[Tensor, "b *m"], seen: Seen, *, least: float = LEAST) -> Float[Tensor, "b"]:
    """Average gain: how much of what the class lacks to certainty is gained when only what the map shows is left.

    ``max(0, o - p) / (1 - p)`` in [0, 1], the counterpart of ``average_drop``. NaN as that, and where p is 1 but for rounding:
    nothing can be gained.

    Cost: a forward, shared with average_drop and increase. Source: Zhang et al. 2023 (Opti-CAM), arXiv 2301.07002.

    Args:
        heat: raw maps.
        seen: what one forward showed.
        least: the probability above which a sample counts.

    Raises:
        ValueError: where the target explains the score of no class, or the map has fewer sides than the image.
    """
    p = explained_probability(seen)
    o = probability_through_map(heat, seen)
    can_rise = p < 1 - 2 * torch.finfo(p.dtype).eps
    gain = (o - p).relu() / (1 - p)
    return where_known(gain, heat, p, least).where(shows_evidence(heat) & can_rise, torch.nan)
