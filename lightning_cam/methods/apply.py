"""Methods applied to a look, for every layer and target. b batch, t targets, m map (u v for pictures)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.methods.fusion import fused
from lightning_cam.registry import Entry


def method_maps(look: Forward, layer: str, method: Entry[Any]) -> Float[Tensor, "b t *m"]:
    """A method's maps for every target of a look; NaN where a sample has no such target.

    Raises:
        ValueError: if the method gives no map [b u v].
    """
    found = []
    for position in range(look.aim.score.shape[1]):
        heat = method.function(Seen(look, layer, position))
        if not isinstance(heat, Tensor) or heat.ndim < 2 or len(heat) != len(look.images):
            given = tuple(heat.shape) if isinstance(heat, Tensor) else type(heat).__name__
            raise ValueError(f"The method {method.label} gave {given}; expected maps [b u v] for {len(look.images)} samples.")
        heat = heat.detach()
        if look.aim.absent is not None:  # the sample has no such target, which is another thing than a map of zeros
            heat = heat.masked_fill(look.aim.absent[:, position].reshape(-1, *(1,) * (heat.ndim - 1)), torch.nan)
        found.append(heat)
    return torch.stack(found, 1)


@dataclass(frozen=True, eq=False)
class Map:
    """The maps of one method at one layer, or fused over several.

    Attributes:
        heat: the maps, raw at one layer, fused in [0, 1].
        layer: the layer; of several the last named.
        title: the layer, or the fusion and its layers, in words.
        tag: ``<layer>/<method>``, or ``fused/<method>``.
        method: the method's name.
    """

    heat: Float[Tensor, "b t *m"]
    layer: str
    title: str
    tag: str
    method: str


def heats(look: Forward, layers: Sequence[str], methods: Sequence[Entry[Any]], fusion: Entry[Any] | None) -> Iterator[Map]:
    """The maps of every method at every layer, or of every method fused over the layers."""
    if fusion is None:
        for layer in layers:
            for method in methods:
                yield Map(method_maps(look, layer, method), layer, look.title(layer), f"{layer}/{method.label}", method.label)
        return
    title = f"{fusion.label} of {', '.join(look.title(layer) for layer in layers)}"
    for method in methods:
        heat = fused([method_maps(look, layer, method) for layer in layers], fusion)
        yield Map(heat, layers[-1], title, f"fused/{method.label}", method.label)
