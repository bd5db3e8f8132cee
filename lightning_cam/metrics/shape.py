"""What a map is like by itself: how spread, how concentrated, how strong. b batch, m map, n its cells.

The shape of a map is that of its positive evidence as shares, ``P = M+ / sum M+`` with ``M+`` the positive part, so that
neither strength nor evidence against the class enters it. Maps are taken as they are, at layer resolution: enlarging
one would change every number here.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.heat import maximum, share_of_maximum
from lightning_cam.registry import METRICS


def shares(heat: Float[Tensor, "b *m"]) -> Float[Tensor, "b n"]:
    """The positive evidence of each cell as a share of the whole map's, ``P = M+ / sum M+``; NaN for a map without any.

    Example:
        >>> shares(torch.tensor([[1.0, 3.0, -4.0], [0.0, -1.0, 0.0]])).tolist()
        [[0.25, 0.75, 0.0], [nan, nan, nan]]
    """
    # over the maximum first: the sum of large gradients may overflow
    positive = share_of_maximum(heat).flatten(1)
    return positive / positive.sum(1, keepdim=True)


@METRICS.register(range=(0.0, 1.0), floor=1.0, cost="none")
def entropy(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """How spread the positive evidence is: its entropy, as a share of that of an even map.

    ``-sum P log P / log n`` in [0, 1]: 0 for a single cell, 1 for an even map, which is its floor. NaN without positive
    evidence and for a map of one cell.

    Source: Shannon 1948; of maps over a training Terzieva et al. 2023 (ECML-PKDD workshops), who see it fall.

    Args:
        heat: raw maps.
        seen: what one forward showed, not read.
    """
    p = shares(heat)
    return -torch.xlogy(p, p).sum(1) / math.log(p.shape[1])


@METRICS.register(range=(0.0, 1.0), floor=0.0, cost="none")
def gini(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """How unevenly the positive evidence is spread over the cells: the Gini index.

    ``sum_i (2 i - n - 1) P_(i) / n`` with P in rising order, i from 1, in [0, 1 - 1/n]: 0 for an even map, which is
    its floor, 1 - 1/n for a single cell. NaN without positive evidence.

    Source: Hurley & Rickard 2009, arXiv 0811.4706, one of two measures that have all six properties they ask of
    sparsity; of attributions Chalasani et al. 2020, arXiv 1810.06583.

    Args:
        heat: raw maps.
        seen: what one forward showed, not read.
    """
    p = shares(heat).sort(dim=1).values
    n = p.shape[1]
    i = torch.arange(1, n + 1, device=p.device)
    return ((2 * i - n - 1) * p).sum(1) / n


@METRICS.register(range=(0.0, 1.0), floor=1.0, cost="none")
def effective_area(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """The share of the map that evenly filled would be as concentrated as the positive evidence is.

    ``1 / (n sum P^2)`` in [1/n, 1]: k cells of equal heat give k/n, an even map 1, which is its floor. NaN without
    positive evidence.

    Source: the effective number of order 2, Hill 1973 (Ecology 54, equation 1); in physics the participation ratio,
    Bell & Dean 1970.

    Args:
        heat: raw maps.
        seen: what one forward showed, not read.
    """
    p = shares(heat)
    return 1 / (p.shape[1] * p.square().sum(1))


@METRICS.register(range=(0.0, 1.0), cost="none")
def positive_share(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """How much of the evidence speaks for the class: the positive share of all magnitude.

    ``sum M+ / sum |M|`` in [0, 1]; 1 for methods that end in a ReLU. Read beside numbers of ``M+`` alone: where it is
    small, they are about a small part of the map. NaN for a map of zeros.

    Source: the positive and negative evidence of a signed class map, as Zhou et al. 2016, arXiv 1512.04150, sum it to
    the score.

    Args:
        heat: raw maps.
        seen: what one forward showed, not read.
    """
    flat = unit_maximum(heat)
    return flat.relu().sum(1) / flat.abs().sum(1)


@METRICS.register(cost="none")
def strength(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """The largest value of the raw map, in the units of the score.

    ``max M``, unbounded; negative where all evidence speaks against the class. It is what the pictures lose, whose
    colours end at each map's own maximum. It compares looks of one layer by one method, not layers or methods. NaN
    for an absent map.

    Source: Terzieva et al. 2023 (ECML-PKDD workshops), who see magnitudes rise in training; the Record's ``strength``.

    Args:
        heat: raw maps.
        seen: what one forward showed, not read.
    """
    return maximum(heat)


@METRICS.register(range=(0.0, None), cost="none")
def norm(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"]:
    """The length of the raw map as a vector, signs and all, in the units of the score.

    ``sqrt(sum M^2)``, 0 or more. Where ``strength`` follows the hottest cell, this follows all; it grows with the
    number of cells. NaN for an absent map.

    Source: Terzieva et al. 2023 (ECML-PKDD workshops), the magnitude of an explanation.

    Args:
        heat: raw maps.
        seen: what one forward showed, not read.
    """
    flat = heat.flatten(1)
    most = flat.abs().amax(1)
    # squares of a gradient's values may be too small, or too large, for single precision
    return unit_maximum(heat).square().sum(1).sqrt().where(most != 0, 0) * most


def unit_maximum(heat: Float[Tensor, "b *m"]) -> Float[Tensor, "b n"]:
    """Each map over its largest magnitude, signs kept, so that sums and squares neither overflow nor vanish; NaN for zeros.

    Example:
        >>> unit_maximum(torch.tensor([[1e-30, -4e-30], [0.0, 0.0]])).tolist()
        [[0.25, -1.0], [nan, nan]]
    """
    flat = heat.flatten(1)
    return flat / flat.abs().amax(1, keepdim=True)
