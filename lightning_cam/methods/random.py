"""The control that shows nothing. b batch, m map."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.family import METHODS
from lightning_cam.seen import Seen


@METHODS.register
def random_cam(seen: Seen, *, seed: int = 0) -> Float[Tensor, "b *m"]:
    """Uniform noise in [0, 1] at the map's resolution: the control that every map must beat under every metric.

    It depends on neither image, class nor weights: the n-th sample of a batch has the same noise at every look and on
    every device. Global random states are neither read nor changed.

    Cost: nothing beyond the look. Source: none; a random attribution is the usual floor of faithfulness benchmarks.

    Args:
        seen: what one forward showed.
        seed: which noise.
    """
    a = seen.activation
    generator = torch.Generator().manual_seed(seed)
    # each sample on its own, so that it does not depend on how many follow
    noise = [torch.rand(a.shape[2:], generator=generator, dtype=torch.float64) for _ in a]
    return torch.stack(noise).to(a)
