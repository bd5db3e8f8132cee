"""What moved: the share of the drift of the maps that each part of a net accounts for. b batch, t targets, m map."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.change.baseline import Changes
from lightning_cam.change.shapley import shapley_values
from lightning_cam.heat import condense
from lightning_cam.metrics.comparison.direction import cosine_distance

Maps = Mapping[str, Tensor]  # [b t *m] by tag, each of a grid of its own


def drift_by_parts(
    maps: Callable[[], Maps], now: Maps, baseline: Maps, changes: Changes
) -> dict[str, dict[str, Float[Tensor, "b t"]]]:
    """The share of each sample's drift that each part of the net accounts for, in units of the drift; they sum to it.

    Let v(S) be the drift of the maps with the parts S at today's state and all others at the baseline's: v(none) = 0, and
    v(all) is the drift, the cosine distance of today's map and the baseline's. A part's share is its Shapley value: what it
    adds when the parts are brought to today's state one after the other, averaged over all orders. It is negative where the
    part, all in all, brings the map back to what it was: a head that follows its features may undo what they moved.

    A share tells neither that the part would have moved the map alone, nor which data made it. Mixtures of then and now
    are nets that were never trained as such, which is why all of them count, and none alone.

    Cost: 2^n - 2 further looks for n parts of which anything changed, and as often copying what changed to the device. A part
    in which no bit changed has exactly 0 and costs nothing: with the head alone in training there is no further look at all. If
    nothing changed anywhere all shares are 0, and any drift is that of a computation which is not repeatable.

    NaN where the drift is: where either map has no evidence, or the class was another; and where a mixture has no evidence.

    Source: Shapley 1953; of attributions to the inputs of a net Lundberg & Lee 2017, arXiv 1705.07874. With groups of a net's
    parameters as the players, and a training run as the game, it is our own. Where a linear head follows on global
    pooling, two parts, features and head, share what crossing today's activations with the baseline's weights, and the
    reverse, gives: with A the activations and w the class's weights, v(head) is that of ``sum_k w'_k A_k``, v(features) that of
    ``sum_k w_k A'_k``, and the head's share is ``(v(head) + v(all) - v(features)) / 2``.

    Args:
        maps: gives the maps of the model as it is when called, by tag, of the classes that ``now`` explains.
        now: today's, by tag; maps of more than 1024 cells are averaged down, as those of a run's history are.
        baseline: those of the baseline, by tag; NaN where the class was another. Tags without any are left out.
        changes: what of the model differs from the baseline.

    Returns:
        the share of every part, by tag and part.
    """
    parts = changes.parts
    everything = 2 ** len(parts) - 1
    moved = _bits(parts, changes.changed)
    earlier = {tag: _condensed(heat).to(now[tag]) for tag, heat in baseline.items() if tag in now}
    drifts = {tag: {moved: _drift(now[tag], then)} for tag, then in earlier.items()}
    for values in drifts.values():
        # behind the drift, which it replaces where nothing changed
        values[0] = torch.zeros_like(values[moved]).where(~values[moved].isnan(), torch.nan)
    for today in range(1, moved):
        # of parts in which nothing changed it does not matter whose state they have
        if today & ~moved:
            continue
        with changes.put_back([part for part in parts if not today & _bits(parts, [part])]):
            mixed = maps()
        for tag, then in earlier.items():
            drifts[tag][today] = _drift(mixed[tag], then)
    shares = {}
    for tag, values in drifts.items():
        every_set = {today: values[today & moved] for today in range(everything + 1)}
        shares[tag] = dict(zip(parts, shapley_values(every_set), strict=True))
    return shares


def _bits(parts: list[str], members: list[str]) -> int:
    """A set of parts as the bits of a number."""
    return sum(1 << i for i, part in enumerate(parts) if part in members)


def _drift(heat: Float[Tensor, "b t *m"], then: Float[Tensor, "b t *u"]) -> Float[Tensor, "b t"]:
    """How far each map is from the baseline's."""
    distance: Tensor = cosine_distance(_condensed(heat).flatten(0, 1), then.flatten(0, 1))
    return distance.reshape(heat.shape[:2])


def _condensed(heat: Float[Tensor, "b t *m"]) -> Float[Tensor, "b t *u"]:
    small: Tensor = condense(heat.flatten(0, 1)).unflatten(0, heat.shape[:2])
    return small
