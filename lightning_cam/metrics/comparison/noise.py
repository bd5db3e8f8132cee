"""Is it more than noise? How far maps move by what should not move them, and since when they stay. b batch, k looks, m map."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.metrics.comparison.direction import cosine_distance
from lightning_cam.registry import METRICS


@METRICS.register(range=(0.0, 2.0), cost="1/16 of a look, at the first look of a run 3", reads=("noise",))
def drift_floor(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"] | None:
    """How far a map moves by what should not move it: the floor of ``drift``, measured in the run itself.

    ``1 - M . M' / (|M| |M'|)`` with M' the map at the same weights of the picture moved by one pixel, of its mirror image and
    put back, and in another precision (bfloat16 autocast, or without the autocast that the run has). Of these three it is the
    median, lest one that the data do not bear (digits are no digits in a mirror) say all. A drift below it may be rounding.
    All of the batch is measured at the first look of a run, and from then on a sixteenth of it by one of the three at a look,
    in turn; of a batch in chunks the samples that are shown. NaN for the others; not measured outside a run.
    ``Numbers(batches_before=5)`` adds a fourth to the median: how far the map moved over the last five training batches.

    Source: ours; arXiv 2601.11625 follows attributions over fine-tuning and defines when they stay put, without a floor.

    Args:
        heat: raw maps, not read.
        seen: what one forward showed, and what came before.
    """
    return seen.earlier.noise


@METRICS.register(range=(0.0, None), cost="none", reads=("noise", "batch"))
def settled_at(heat: Float[Tensor, "b *m"], seen: Seen) -> Float[Tensor, "b"] | None:
    """Since which epoch the maps stay where they are: the earliest look from which on none is farther than noise from now.

    ``min {s : for all looks i >= s, mean d(M_i, M_now) <= mean drift_floor}`` in epochs trained (in a loop without a
    Trainer in steps), with d the cosine distance. The same number for every sample. It is the present epoch while maps still
    move, and stays behind once they have settled: watch how far it is from the epoch it is told at. Not measured outside a
    run, where no floor was measured, and where a checkpoint's looks tell no epoch.

    Source: the point from which on attributions stay put, arXiv 2601.11625; the floor is ours.

    Args:
        heat: raw maps; what is compared are those in ``seen.earlier``.
        seen: what one forward showed, and what came before.
    """
    epochs = seen.earlier.epochs
    if seen.earlier.noise is None or not epochs or None in epochs:
        return None
    floor = seen.earlier.noise.nanmean()
    if not bool(floor.isfinite()):
        return None
    epoch = torch.tensor(epochs, dtype=heat.dtype, device=heat.device)
    return epoch[_settled(seen, floor)].expand(len(heat))


def _settled(seen: Seen, floor: Float[Tensor, ""]) -> Tensor:
    """The position, among all looks, of the first from which on the mean distance from now stays within the floor."""
    past, now = seen.earlier.past, seen.earlier.now
    if past is None or now is None:
        return torch.zeros((), dtype=torch.long, device=floor.device)
    distance = cosine_distance(past.flatten(0, 1), now.repeat(len(past), *[1] * (now.ndim - 1)))
    mean = distance.unflatten(0, past.shape[:2]).nanmean(1)
    # a look of which nothing is known does not stay within
    outside = ~(mean <= floor)
    places = torch.arange(1, len(past) + 1, device=mean.device)
    last: Tensor = (places * outside).amax()
    return last
