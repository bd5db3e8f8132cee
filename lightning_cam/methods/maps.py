"""A method applied to a look, for every target. b batch, t targets, m map (u v for pictures)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.family import Named
from lightning_cam.seen import Look


def maps(look: Look, layer: str, method: Named[Any]) -> Float[Tensor, "b t *m"]:
    """A method's maps for every target of a look; NaN where a sample has no such target.

    Raises:
        ValueError: if the method gives no map [b u v].
    """
    found = []
    for position in range(look.aim.score.shape[1]):
        heat = method.function(look.seen(layer, position))
        if not isinstance(heat, Tensor) or heat.ndim < 2 or len(heat) != len(look.images):
            given = tuple(heat.shape) if isinstance(heat, Tensor) else type(heat).__name__
            raise ValueError(f"The method {method.label} gave {given}; expected maps [b u v] for {len(look.images)} samples.")
        heat = heat.detach()
        if look.aim.absent is not None:  # the sample has no such target, which is another thing than a map of zeros
            heat = heat.masked_fill(look.aim.absent[:, position].reshape(-1, *(1,) * (heat.ndim - 1)), torch.nan)
        found.append(heat)
    return torch.stack(found, 1)
