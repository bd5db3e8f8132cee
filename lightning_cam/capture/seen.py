"""Seen: what one forward showed at one layer, for one number explained: all that a method needs.

b batch, t targets, c channels, m map (u v for pictures), h w image, k class, n changed samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from lightning_cam.capture.attention import Attention
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.gradient import at_least_float, derivative
from lightning_cam.model.head import find_head
from lightning_cam.model.names import split_call
from lightning_cam.model.trace import Call, layer_candidates


@dataclass(frozen=True, eq=False)
class Seen:
    """What one forward showed at one layer, for one number explained: all that a method needs.

    Values are float32 (float64 for a float64 model) on the model's device. Maps have as many dimensions as the image has
    sides: [b c u v] for pictures, whatever the layer's own layout (channels last, tokens) is.
    """

    look: Forward
    layer: str
    position: int = 0

    @property
    def image(self) -> Shaped[Tensor, "b ..."]:
        """The input."""
        return self.look.images

    @property
    def logits(self) -> Any:
        """The model's output, [b k] for a classifier, detached."""
        return self.look.output.detach() if isinstance(self.look.output, Tensor) else self.look.output

    @property
    def score(self) -> Float[Tensor, "b"]:
        """The number explained."""
        return at_least_float(self.look.aim.score[:, self.position].detach())

    @property
    def classes(self) -> Int[Tensor, "b"] | None:
        """The class whose logit is explained, where it is one; of a sample that has no such target, any."""
        return None if self.look.aim.classes is None else self.look.aim.classes[:, self.position].clamp(min=0)

    @cached_property
    def activation(self) -> Float[Tensor, "b c *m"]:
        """The layer's output as the rest of the model consumed it."""
        kept = self.look.kept[self.layer]
        return at_least_float(kept.layout.to_map(kept.output.detach()))

    @cached_property
    def gradient(self) -> Float[Tensor, "b c *m"]:
        """The score's gradient by the activation; the backward runs when this is first read.

        Raises:
            ValueError: if the score does not depend on the layer, or for no sample on any place of its map.
        """
        gradient = self.look.gradient(self.layer, self.position)
        near = f"Layers with a map: {layer_candidates(self.look.calls, self.layer)}."
        if gradient is None:
            raise ValueError(
                f"The layer {self.layer!r} does not feed the explained score, so its gradient does not exist. {near}"
            )
        layout = self.look.kept[self.layer].layout
        maps = layout.to_map(gradient)
        if layout.prefix and not maps.any() and gradient.any():
            raise ValueError(
                f"The gradient at {self.layer!r} is exactly zero on the whole map: the score reads only the class token, which "
                f"nothing behind this layer mixes with the others. Name {self._before_attention()}. {near}"
            )
        return maps

    def _before_attention(self) -> str:
        """The last layer whose tokens attention still mixes, where attention is seen; else in general words."""
        general = "a layer before the last attention, such as the last block's first norm"
        try:
            name = self.look.attention.blocks[-1].name
        except (ValueError, RuntimeError):
            return general
        inside = [i for i, call in enumerate(self.look.calls) if f"{call.name}.".startswith(f"{name}.")]
        rows = [call for call in self.look.calls[: inside[0]] if call.layout and not isinstance(call.module, nn.Linear)]
        return f"the layer before the last attention, {rows[-1].name!r}, or one before it" if rows else general

    @property
    def attention(self) -> Attention:
        """Every block's attention probabilities, [b heads n n], connected to the scores; a forward runs at first reading.

        Raises:
            ValueError: if the model has no attention over all tokens of the image, or hides it.
        """
        return self.look.attention

    @property
    def regions(self) -> Mapping[str, Bool[Tensor, "b h w"]]:
        """Where the object, or anything else worth naming, is in each image: masks by name; may be empty."""
        return self.look.regions

    @property
    def head(self) -> Call | None:
        """The classifier behind the layer, if it is one linear layer or 1x1 convolution and nothing else with weights."""
        base, which = split_call(self.layer)
        own = [i for i, call in enumerate(self.look.calls) if call.name == base]
        after = self.look.calls[own[-1 if which is None else which] + 1 :]
        weighted = [call for call in after if call.name and any(True for _ in call.module.parameters(False))]
        classes = self.logits.shape[1] if isinstance(self.logits, Tensor) and self.logits.ndim == 2 else None
        return find_head(weighted, classes) if len(weighted) == 1 else None

    def rescore(
        self, sample: int, *, image: Shaped[Tensor, "n ..."] | None = None, activation: Float[Tensor, "n c *m"] | None = None
    ) -> Float[Tensor, "n"]:
        """The same number for changed inputs, or changed activations, of one sample: all that perturbation needs.

        With an activation the layers before run once, for the one image, and those behind for all n. The class is the one
        explained, also where the change would alter what is predicted.

        Args:
            sample: which sample of the batch is changed.
            image: n changed images.
            activation: n changed maps of the layer.
        """
        with torch.no_grad():
            scores = self.look.again(self.look, self.layer, slice(sample, sample + 1), image, activation)
        return at_least_float(scores[:, self.position])

    def replay(
        self, *, image: Shaped[Tensor, "b ..."] | None = None, activation: Float[Tensor, "b c *m"] | None = None
    ) -> Float[Tensor, "b"]:
        """The same numbers run anew and recorded: all that a gradient elsewhere than at the layer needs.

        The forward is recorded from the image on, or from the activation put in at the layer. Nothing is kept of it but
        what the caller's own hooks keep.
        """
        with torch.enable_grad():
            scores = self.look.again(self.look, self.layer, slice(None), image, activation)
        return at_least_float(scores[:, self.position])

    def image_gradient(self, outputs: list[Tensor]) -> list[Tensor | None]:
        """The score's gradient by the image, and by the outputs that hooks put into the list while the model is run anew.

        Raises:
            ValueError: if the score is cut off from the image.
        """
        image = self.image.detach().clone().requires_grad_()
        score = self.replay(image=image)
        found = derivative(score, [image, *outputs]) if score.requires_grad else [None]
        if found[0] is None:
            raise ValueError(
                "The score has no gradient with respect to the image: part of the forward runs under no_grad or is detached. "
                "Use a method that needs the gradient at a layer only, such as grad_cam."
            )
        return found

    def with_image(self, images: Shaped[Tensor, "b ..."]) -> "Seen":
        """The same look at other images of the same classes: all that smoothing and flipping need."""
        return Seen(self.look.at(self.look, images), self.layer, self.position)
