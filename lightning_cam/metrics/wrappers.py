"""Metrics made from metrics: of a random map, or at some looks only. b batch, m map.

In Python ``control("average_drop")``, by name ``{"control": {"metric": "average_drop"}}``; a wrapper can wrap another.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.registry import METRICS

Metric = Callable[[Tensor, Seen], Tensor | None]


# without a direction: a random map must never say which look is the best
@partial(METRICS.wrapper, keeps=("range", "cost", "reads"))
def control(metric: Metric, *, seed: int = 0) -> Metric:
    """The random-map control: any metric of the same map with its cells in random order.

    A model in training also changes how it takes masked images, so a curve of faithfulness says something of maps only where it
    stays away from that of its control. The cells of each sample are permuted at the layer's resolution: values and their
    number stay, their places mean nothing. The n-th sample of a batch is permuted alike at every look and on every device, by a
    generator of its own; global random states are neither read nor changed.

    Cost: the metric's. Source: none; a random attribution is the usual floor of faithfulness benchmarks.

    Args:
        metric: what is measured.
        seed: which permutation.
    """

    def controlled(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"] | None:
        return metric(_permuted(heat, seed), seen)

    return controlled


@partial(METRICS.wrapper, keeps=("range", "higher_is_better", "cost", "reads"))
def every(metric: Metric, *, n: int = 5) -> Metric:
    """A metric at every n-th look of a run only, the first among them: for those that cost many forwards.

    At the other looks there is no number, which is another thing than NaN. Outside a run it is measured at every look.

    Cost: an n-th of the metric's.

    Args:
        metric: what is measured.
        n: from one look at which it is measured to the next.

    Raises:
        ValueError: for n below 1.
    """
    if n < 1:
        raise ValueError(f"every(n={n!r}): expected at every how many looks the metric is measured, 1 or more, such as n=5.")

    def measured(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"] | None:
        if seen.earlier.looks % n:
            return None
        return metric(heat, seen)

    return measured


def _permuted(heat: Float[Tensor, "b *m"], seed: int) -> Float[Tensor, "b *m"]:
    """The cells of each map in an order of its own."""
    flat = heat.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    # each sample on its own, so that it does not depend on how many follow; on the CPU, so that every device has the same
    orders = [torch.randperm(flat.shape[1], generator=generator) for _ in flat]
    return flat.gather(1, torch.stack(orders).to(flat.device)).reshape(heat.shape)
