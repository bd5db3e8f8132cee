"""Forward: one forward, watched at one or several layers. b batch, t targets, n changed samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from lightning_cam.capture.attention import Attention, attend
from lightning_cam.capture.gradient import derivative
from lightning_cam.model.layout import Layout
from lightning_cam.model.trace import Call
from lightning_cam.targets.target import TargetScores


@dataclass(frozen=True)
class LayerOutput:
    """A layer's output as the rest of the model consumed it, and how it is read as maps."""

    output: Tensor
    layout: Layout
    version: int
    calls: int  # how often the layer has run; the last call is the one kept

    @property
    def rewritten(self) -> bool:
        """Whether an in-place operation changed the output before it was consumed."""
        return self.output._version != self.version


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward, watched at one or several layers, and the numbers explained."""

    images: Shaped[Tensor, "b ..."]
    output: Any
    aim: TargetScores
    kept: Mapping[str, LayerOutput]
    calls: list[Call]
    regions: Mapping[str, Bool[Tensor, "b h w"]]
    again: Callable[..., Tensor]  # (look, layer, samples, image, activation) -> scores [n t] of changed samples
    at: Callable[..., "Forward"]  # (look, images) -> the same look at other images
    _gradients: dict[int, dict[str, Tensor | None]] = field(default_factory=dict)

    def title(self, layer: str) -> str:
        """The layer's name, with the number of the call kept where it has run several times."""
        return layer if self.kept[layer].calls == 1 or "#" in layer else f"{layer}#{self.kept[layer].calls - 1}"

    @cached_property
    def attention(self) -> Attention:
        """Every block's attention probabilities, of one further forward; run once, when first read."""

        def rerun() -> Tensor:
            with torch.enable_grad():
                scores: Tensor = self.again(self, next(iter(self.kept)), slice(None), None, None)
            return scores

        layouts = [kept.layout for kept in self.kept.values()]
        return attend(rerun, self.aim.score.detach(), self.images.shape, self.calls, layouts)

    def gradient(self, layer: str, position: int) -> Tensor | None:
        """One backward for all layers, stopping at the earliest; taken once per target."""
        if position not in self._gradients:
            score = self.aim.score[:, position]
            if not score.requires_grad:
                raise ValueError(
                    f"The score has no gradient with respect to {', '.join(self.kept)}: the target or the model's output "
                    "is detached (a forward wholly under no_grad, .detach(), argmax). Use a method without gradients "
                    "(activation_mean, cam), or an output that stays connected."
                )
            found = derivative(score, [kept.output for kept in self.kept.values()])
            self._gradients[position] = dict(zip(self.kept, found, strict=True))
        return self._gradients[position][layer]
