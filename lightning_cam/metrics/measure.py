"""Metrics of maps: a number a sample and target, and from these the numbers to log. b batch, t targets, m map."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.heat import has_evidence
from lightning_cam.record import Earlier
from lightning_cam.registry import METRICS, Entry

MOST_CURVES = 8  # of a map, where no metrics are named
_OF_REGIONS = ("energy_inside", "enrichment", "pointing_game")
_OF_MAPS = ("drift", "drift_floor", "settled_at", "feature_drift", "head_drift", "entropy", "strength")


def defaults(regions: bool) -> list[str]:
    """The metrics that are measured where none are named, the most telling first: the first eight there are become curves.

    Args:
        regions: whether the batch has any.

    Example:
        >>> defaults(regions=False)[:3]
        ['drift', 'drift_floor', 'settled_at']
    """
    if regions:
        return [*_OF_REGIONS, *_OF_MAPS]
    return list(_OF_MAPS)


def or_defaults(metrics: Sequence[Entry[Any]] | None, regions: bool) -> Sequence[Entry[Any]]:
    """These metrics; where none are named, those by default."""
    if metrics is not None:
        return metrics
    return [METRICS.find(name) for name in defaults(regions)]


def measure(
    metric: Entry[Any],
    heat: Float[Tensor, "b t *m"],
    forward: Forward,
    layer: str,
    earlier: Callable[[int], Earlier],
    method: Callable[[Seen], Tensor] | None = None,
) -> Float[Tensor, "b t"] | None:
    """A metric's value for each sample and target, where the maps are; NaN where it is undefined, as it is of no evidence.

    None where the metric gives None, for it is not measured at this look.

    Args:
        metric: ``(heat [b *m], seen) -> [b]``, or None.
        heat: the maps of all targets.
        forward: what they are of.
        layer: the layer they are of.
        earlier: ``(position) -> Earlier``, a target's maps at earlier looks.
        method: how the maps were made, for metrics that ask for those of changed images.
    """
    columns = []
    for position in range(heat.shape[1]):
        seen = Seen(forward, layer, position, earlier(position), method)
        value = metric.function(heat[:, position], seen)
        if value is None:
            return None
        columns.append(value.to(heat.device))
    return torch.stack(columns, 1).where(has_evidence(heat.flatten(2)), torch.nan)


def summarize(values: Mapping[str, Float[Tensor, "b t"]]) -> dict[str, float]:
    """Each metric's mean over the samples and targets for which it is defined, and their share; NaN if for none."""
    numbers = {}
    for name, value in values.items():
        # in double precision, or a checkpoint's monitor would depend on the order of the samples
        flat = value.T.flatten().double()
        defined = flat.isfinite()
        numbers[name] = float(flat[defined].mean())
        numbers[f"{name}_defined"] = float(defined.double().mean())
    return numbers
