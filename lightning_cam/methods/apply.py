"""Methods applied to a forward, for every layer and target. b batch, t targets, m map (u v for pictures)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.crossed import Crossed, NotCrossed
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.summary.evidence import known_shares
from lightning_cam.methods.fusion import fused
from lightning_cam.methods.gradient import grad_cam
from lightning_cam.registry import Entry


@dataclass(frozen=True)
class MapPlan:
    """Maps of one method at one layer, or fused over several."""

    layers: tuple[str, ...]
    method: Entry[Any]
    fusion: Entry[Any] | None = None

    @property
    def layer(self) -> str:
        """The layer; of several the last named."""
        return self.layers[-1]

    @property
    def tag(self) -> str:
        """``<layer>/<method>``, or ``fused/<method>``."""
        if self.fusion is None:
            return f"{self.layer}/{self.method.label}"
        return f"fused/{self.method.label}"

    def title(self, forward: Forward) -> str:
        """The layer, or the fusion and its layers, in words."""
        if self.fusion is None:
            return forward.title(self.layer)
        return f"{self.fusion.label} of {', '.join(forward.title(layer) for layer in self.layers)}"

    def heat(self, forward: Forward) -> Float[Tensor, "b t *m"]:
        """The maps, raw at one layer, fused in [0, 1]; NaN where a sample has no such target.

        Raises:
            ValueError: if the method gives no map, or cannot explain this layer or target.
        """
        heats = [method_maps(forward, layer, self.method) for layer in self.layers]
        if self.fusion is None:
            return heats[0]
        return fused(heats, self.fusion)

    def of_target(self, seen: Seen) -> Float[Tensor, "b *m"]:
        """The maps of one target alone, by the same method: those of changed images, for metrics that ask for them."""
        if isinstance(seen, Crossed):
            return self._of_factors(seen)
        heats = [target_maps(replace(seen, layer=layer), self.method) for layer in self.layers]
        if self.fusion is None:
            return heats[0]
        return fused([heat[:, None] for heat in heats], self.fusion)[:, 0]

    def _of_factors(self, seen: Crossed) -> Float[Tensor, "b *m"]:
        if self.fusion is not None:
            raise NotCrossed("A fused map is of several layers.")
        heat: Tensor
        if self.method.label == "cam":  # it reads the head itself, and is grad_cam times the number of places
            heat = grad_cam(seen) * seen.activation[0, 0].numel()
        else:
            heat = self.method.function(seen)
        return heat

    def on_map(self, forward: Forward) -> Float[Tensor, "b t"] | None:
        """The share of each score's evidence that is on the map; None where that is not known, or layers are fused."""
        if self.fusion is not None:
            return None
        return known_shares(forward, self.layer)


def map_plans(layers: Sequence[str], methods: Sequence[Entry[Any]], fusion: Entry[Any] | None) -> list[MapPlan]:
    """Every method at every layer, or every method fused over the layers."""
    if fusion is not None:
        return [MapPlan(tuple(layers), method, fusion) for method in methods]
    return [MapPlan((layer,), method) for layer in layers for method in methods]


def method_maps(forward: Forward, layer: str, method: Entry[Any]) -> Float[Tensor, "b t *m"]:
    """A method's maps for every target of a forward; NaN where a sample has no such target.

    Raises:
        ValueError: if the method gives no map [b u v].
    """
    positions = range(forward.target_scores.score.shape[1])
    return torch.stack([target_maps(Seen(forward, layer, position), method) for position in positions], 1)


def target_maps(seen: Seen, method: Entry[Any]) -> Float[Tensor, "b *m"]:
    """A method's maps for one target; NaN where a sample has no such target.

    Raises:
        ValueError: if the method gives no map [b u v].
    """
    heat = method.function(seen)
    b = len(seen.image)
    if not isinstance(heat, Tensor) or heat.ndim < 2 or len(heat) != b:
        shape = tuple(heat.shape) if isinstance(heat, Tensor) else type(heat).__name__
        raise ValueError(f"The method {method.label} gave {shape}; expected maps [b u v] for {b} samples.")
    heat = heat.detach()
    absent = seen.forward.target_scores.choice.absent
    if absent is not None:  # the sample has no such target, which is another thing than a map of zeros
        heat = heat.masked_fill(absent[:, seen.position].reshape(-1, *(1,) * (heat.ndim - 1)), torch.nan)
    return heat
