"""Metrics of maps as numbers to log. b batch, t targets, m map."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.registry import METRICS, Entry


def measure(heat: Float[Tensor, "b t *m"], look: Forward, layer: str, metrics: Sequence[Entry[Any]] | None) -> dict[str, float]:
    """Each metric's mean over the samples and targets for which it is defined, and their share; NaN if for none.

    Without metrics named it is ``energy_inside``, where the look has regions.
    """
    scores = {}
    for metric in ([METRICS.find("energy_inside")] if look.regions else []) if metrics is None else metrics:
        each = [metric.function(heat[:, t], Seen(look, layer, t)) for t in range(heat.shape[1])]
        values = torch.stack(each).flatten().cpu().double()
        defined = values.isfinite()
        scores[metric.label] = float(values[defined].mean())
        scores[f"{metric.label}_defined"] = float(defined.double().mean())
    return scores
