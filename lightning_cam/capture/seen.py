"""Seen: what one forward showed at one layer, for one number explained: all that a method or a metric needs.

b batch, t targets, c channels, m map (u v for pictures), p tokens before it, s sides of the image, k class, n changed samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
from lightning_cam.model.wrapped import has_weights
from lightning_cam.record import Earlier


@dataclass(frozen=True, eq=False)
class Seen:
    """What one forward showed at one layer, for one number explained: all that a method or a metric needs.

    Values are float32 (float64 for a float64 model) on the model's device. Maps have as many dimensions as the image has
    sides: [b c u v] for pictures, whatever the layer's own layout (channels last, tokens) is.

    Attributes:
        forward: the forward.
        layer: the layer's name.
        position: which of its targets is explained.
        earlier: this target's maps at earlier looks of the run, for metrics that compare; empty outside a run.
        method: how the map that is measured was made, for metrics that ask for that of changed images, as
            ``seen.method(seen.with_image(images))``; None where no map is measured.
    """

    forward: Forward
    layer: str
    position: int = 0
    earlier: Earlier = field(default_factory=Earlier)
    method: Callable[["Seen"], Tensor] | None = None

    @property
    def image(self) -> Shaped[Tensor, "b ..."]:
        """The input."""
        return self.forward.images

    @property
    def logits(self) -> Any:
        """The model's output, [b k] for a classifier, detached; of probabilities the logits, where these are explained."""
        return self.forward.logits

    @property
    def score(self) -> Float[Tensor, "b"]:
        """The number explained."""
        return at_least_float(self.forward.target_scores.score[:, self.position].detach())

    @property
    def score_eps(self) -> float:
        """The relative rounding of the score, and so of differences of scores: that of the precision in which it is."""
        return torch.finfo(self.forward.target_scores.score.dtype).eps

    @property
    def classes(self) -> Int[Tensor, "b"] | None:
        """The class whose logit is explained, where it is one; of a sample that has no such target, any."""
        choice = self.forward.target_scores.choice
        if not choice.logit or choice.classes is None:
            return None
        return choice.classes[:, self.position].clamp(min=0)

    @cached_property
    def activation(self) -> Float[Tensor, "b c *m"]:
        """The layer's output as the rest of the model consumed it."""
        record = self.forward.outputs[self.layer]
        return at_least_float(record.layout.to_map(record.output.detach()))

    @cached_property
    def gradient(self) -> Float[Tensor, "b c *m"]:
        """The score's gradient by the activation; the backward runs when this is first read.

        Raises:
            ValueError: if the score does not depend on the layer, or for no sample on any place of its map.
        """
        layout = self.forward.outputs[self.layer].layout
        gradient = self._layer_gradient
        maps = layout.to_map(gradient)
        if layout.extra and not maps.any() and gradient.any():
            read = "the class token"
            if layout.suffix:
                read = "tokens beside the patches"
            raise ValueError(
                f"The gradient at {self.layer!r} is exactly zero on the whole map: the score reads only {read}, which "
                f"nothing behind this layer mixes with the others. Name {self._before_attention()}. {self._near}"
            )
        return maps

    @cached_property
    def terms(self) -> tuple[Float[Tensor, "b c *m"], Float[Tensor, "b c p"]]:
        """Gradient times activation, the score to first order: at the places of the map, and at the tokens beside it.

        Class, register and detection tokens have no place on a map; here they are, also where the score reads nothing else.

        Raises:
            ValueError: if the score does not depend on the layer.
        """
        record = self.forward.outputs[self.layer]
        terms = self._layer_gradient * at_least_float(record.output.detach())
        return record.layout.to_map(terms), record.layout.to_extra(terms)

    @property
    def eps(self) -> float:
        """The relative rounding of activation and gradient: that of the precision in which the layer's output is."""
        return torch.finfo(self.forward.outputs[self.layer].output.dtype).eps

    @property
    def attention(self) -> Attention:
        """Every block's attention probabilities, [b heads n n], and those of a pooling behind them, [b heads q n].

        They are connected to the scores; a forward runs at first reading.

        Raises:
            ValueError: if the model has no attention over all tokens of the image, or hides it.
        """
        return self.forward.attention

    @property
    def balanced(self) -> "Seen":
        """The same look with LibraGrad's backward; a forward runs at first reading.

        Raises:
            ValueError: if part of the model would be run anew in the backward; a function without a rule is refused by the
                backward that meets it.
        """
        return replace(self, forward=self.forward.balanced)

    @property
    def regions(self) -> Mapping[str, Bool[Tensor, "b *s"]]:
        """Where the object, or anything else worth naming, is in each image: masks by name; may be empty."""
        return self.forward.regions

    @property
    def head(self) -> Call | None:
        """The classifier behind the layer, if it is one linear layer or 1x1 convolution and nothing else with weights."""
        base, call = split_call(self.layer)
        calls = self.forward.calls
        own = [i for i, other in enumerate(calls) if other.name == base]
        start = own[-1] if call is None else own[call]
        with_weights = [other for other in calls[start + 1 :] if other.name and has_weights(other.module)]
        if len(with_weights) != 1:
            return None
        logits = self.logits
        classes = logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
        return find_head(with_weights, classes)

    def rescore(
        self,
        sample: int,
        *,
        image: Shaped[Tensor, "n ..."] | None = None,
        activation: Float[Tensor, "n c *m"] | None = None,
    ) -> Float[Tensor, "n"]:
        """The same number for changed inputs, or changed activations, of one sample: all that perturbation needs.

        With an activation the layers before run once, for the one image, and those behind for all n. The class is the one
        explained, also where the change would alter what is predicted.

        Args:
            sample: which sample of the batch is changed.
            image: n changed images.
            activation: n changed maps of the layer.
        """
        samples = slice(sample, sample + 1)
        scores = self.forward.rescore(self.layer, samples, image=image, activation=activation)
        return at_least_float(scores[:, self.position])

    def rerun(
        self,
        *,
        image: Shaped[Tensor, "b ..."] | None = None,
        activation: Float[Tensor, "b c *m"] | None = None,
    ) -> Float[Tensor, "b"]:
        """The same numbers run anew and recorded: all that a gradient elsewhere than at the layer needs.

        The forward is recorded from the image on, or from the activation put in at the layer. Nothing is kept of it but
        what the caller's own hooks keep.
        """
        scores = self.forward.rerun(self.layer, image=image, activation=activation)
        return at_least_float(scores[:, self.position])

    def image_gradient(self, outputs: list[Tensor]) -> list[Tensor | None]:
        """The score's gradient by the image, and by the outputs that hooks put into the list while the model is run anew.

        Raises:
            ValueError: if the score is cut off from the image.
        """
        image = self.image.detach().clone().requires_grad_()
        score = self.rerun(image=image)
        gradients = derivative(score, [image, *outputs]) if score.requires_grad else [None]
        if gradients[0] is None:
            raise ValueError(
                "The score has no gradient with respect to the image: part of the forward runs under no_grad or is detached. "
                "Use a method that needs the gradient at a layer only, such as grad_cam."
            )
        return gradients

    def with_image(self, images: Shaped[Tensor, "b ..."]) -> "Seen":
        """The same look at other images of the same classes: all that smoothing and flipping need."""
        return Seen(self.forward.with_images(images), self.layer, self.position)

    @property
    def _layer_gradient(self) -> Tensor:
        """The gradient by all that the layer returned, in its own layout."""
        gradient = self.forward.gradient(self.layer, self.position)
        if gradient is None and self.forward.is_balanced:
            raise ValueError(
                f"With libra nothing of the score reaches the layer {self.layer!r}: it feeds the score only through what libra "
                "holds constant (a gate, such as squeeze-and-excitation's, or attention's queries and keys), or not at all. "
                "Name a layer from which what is multiplied comes, or one behind the product, or use the method without libra, "
                f'such as method="grad_cam". {self._near}'
            )
        if gradient is None:
            raise ValueError(
                f"The layer {self.layer!r} does not feed the explained score, or feeds it through an operation without a "
                "derivative (a quantised one), so its gradient does not exist; occlusion needs none. "
                f"{self._near}"
            )
        return gradient

    @property
    def _near(self) -> str:
        return f"Layers with a map: {layer_candidates(self.forward.calls, self.layer)}."

    def _before_attention(self) -> str:
        """The last layer whose tokens attention still mixes, where attention is seen; else in general words."""
        general = "a layer before the last attention, such as the last block's first norm"
        try:
            attention = self.attention.last.name
        except (ValueError, RuntimeError):
            return general
        calls = self.forward.calls
        first = next(i for i, call in enumerate(calls) if f"{call.name}.".startswith(f"{attention}."))
        before = [call for call in calls[:first] if call.layout and not isinstance(call.layer, nn.Linear)]
        if not before:
            return general
        return f"the layer before the last attention, {before[-1].name!r}, or one before it"
