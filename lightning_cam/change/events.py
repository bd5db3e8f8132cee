"""Looks at which a map, or the whole batch, moved more than noise and more than usual. n maps, k looks.

The change of a map is the cosine distance between two looks one after the other, on a logarithmic scale, on which noise is
about normal. Its false alarms are controlled over all samples and looks of a run: with weights that do not change, at most one
run in twenty has any event.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ALPHA = 0.05  # of a run: half of it for samples, half for the whole batch
_SMALLEST = 1e-12  # a distance below is rounding
_FEWEST = 5  # looks before one whose change can be unusual for the run
_SCALE = 1.4826  # of a normal distribution, the standard deviation over the median distance from the median


@dataclass(frozen=True, eq=False)
class NoiseScale:
    """What noise does to each map, on the logarithmic scale.

    Attributes:
        location: its middle for each map; NaN where that is not known.
        scale: its standard deviation.
        freedom: the degrees of freedom of the scale.
        known: on how many numbers each location rests.
    """

    location: Float[Tensor, "n"]
    scale: float
    freedom: int
    known: int

    @classmethod
    def of(cls, moved: Sequence[Float[Tensor, "n"]]) -> "NoiseScale | None":
        """From the distances measured under each disturbance, NaN where not; None where there are too few.

        ``log d_ki = a_i + b_k + e``: some maps are always noisier than others, and some disturbances stronger. What is left is
        the noise of the noise. Of a single disturbance maps cannot be told from it, and all that is between them is noise.
        """
        if not moved:
            return None
        table = _log(torch.stack(list(moved)))
        complete = table.isfinite().all(0)
        told = table[:, complete]
        k, n = told.shape
        freedom = (k - 1) * (n - 1) if k > 1 else n - 1
        if freedom < 3:
            return None
        of_kind = told.mean(1, keepdim=True)
        of_map = told.mean(0) - told.mean() if k > 1 else torch.zeros_like(told[0])
        rest = told - of_kind - of_map
        location = torch.full_like(table[0], torch.nan)
        location[complete] = of_kind.flatten().quantile(0.5) + of_map
        return cls(location, max(float((rest.square().sum() / freedom).sqrt()), 1e-3), freedom, k)


def jumps(change: Float[Tensor, "n"], noise: NoiseScale, look: int) -> Bool[Tensor, "n"]:
    """Which maps jumped: those that changed more than their noise, and more than the others did at this look.

    A map's own noise is expected, and what the whole batch moved, ``e_i = noise_i + max(0, median_j(change_j - noise_j))``.
    Of those that jumped ``y = log(change / e)`` stands out from the larger of 0 and the median over all maps, by the larger of
    the two widths; its p-value, of Student's t, is below ``0.025 / (look (look + 1) n)``, which over all looks and maps sums to
    0.025.

    Source: Bonferroni's bound, spent over looks as in sequential tests; Wallace 1959 for the tail of t.

    Args:
        change: the cosine distance from the look before; NaN where it is not known.
        noise: what noise does.
        look: how many looks came before, 1 or more.

    Example:
        >>> calm = NoiseScale(torch.full((4,), 0.001).double().log(), 0.5, 20, 3)
        >>> jumps(torch.tensor([0.001, 0.0012, 0.0008, 0.3]), calm, 1).tolist()
        [False, False, False, True]
    """
    own = noise.location.exp()
    # in a training all maps move, calm and noisy ones alike
    common = (change - own).nanmedian().clamp(min=0)
    y = _log(change) - (own + common).log()
    known = y[y.isfinite()]
    if not len(known):
        return torch.zeros_like(change, dtype=torch.bool)
    location = max(0.0, float(known.median()))
    scale = max(noise.scale, _width(known))
    t = (y - location) / (scale * math.sqrt(1 + 1 / noise.known))
    found: Bool[Tensor, "n"] = _log_tail(t, noise.freedom) < math.log(_level(look) / len(change))
    return found


def is_change_point(changes: Sequence[Float[Tensor, "n"]], noise: NoiseScale, look: int) -> bool:
    """Whether the whole batch moved more at the last look than noise, and than at the looks before it.

    Of each look the median over the maps is taken. The first five looks are none: a training begins with change.

    Args:
        changes: the cosine distances from the look before, look by look, the last of them the one that is asked about.
        noise: what noise does.
        look: how many looks came before the last; more than there are changes where a long run keeps not all of them.
    """
    more = [_log(change) - noise.location for change in changes]
    middles = [float(y[y.isfinite()].median()) for y in more if _any(y)]
    if len(middles) <= _FEWEST or not _any(more[-1]):
        return False
    before = torch.tensor(middles[:-1])
    location = max(0.0, float(before.median()))
    scale = max(noise.scale, _width(before))
    freedom = min(noise.freedom, len(before) - 1)
    t = torch.tensor((middles[-1] - location) / (scale * math.sqrt(1 + 1 / len(before))))
    return bool(_log_tail(t, freedom) < math.log(_level(look)))


def _any(values: Float[Tensor, "n"]) -> bool:
    return bool(values.isfinite().any())


def _level(look: int) -> float:
    """What a look may spend: over all looks it sums to half of what a run may."""
    return _ALPHA / 2 / (look * (look + 1))


def _log(distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return distance.double().clamp(min=_SMALLEST).log()


def _width(values: Float[Tensor, "n"]) -> float:
    return float(_SCALE * (values - values.median()).abs().median())


def _log_tail(t: Float[Tensor, "..."], freedom: int) -> Float[Tensor, "..."]:
    """The logarithm of the upper tail of Student's t, by Wallace's transform to a normal deviate; NaN stays NaN."""
    z = (freedom * torch.log1p(t.square() / freedom)).sqrt() * (8 * freedom + 1) / (8 * freedom + 3)
    log: Tensor = torch.special.log_ndtr(-z * t.sign())
    return log
