"""Forward: one forward, watched at one or several layers, and the scores explained. b batch, t targets, n changed samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_cam.capture.attention import Attention, attend
from lightning_cam.capture.attention_pooling import Runs
from lightning_cam.capture.balance.balanced import BalancedTarget, balance
from lightning_cam.capture.gradient import derivative
from lightning_cam.capture.hooks import LayerOutput, Replacement
from lightning_cam.model.output import QueryOutput, is_detections, is_queries
from lightning_cam.model.probabilities import Reading
from lightning_cam.model.trace import Calls
from lightning_cam.targets.target import TargetScores


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward, watched at one or several layers, and the scores explained.

    Attributes:
        session: the session in which it ran, and in which changed samples are run; it must still be open for that.
        images: the input.
        output: the logits, or what else the model gave; of probabilities the logits, where these are explained.
        scores: the numbers explained; None where nothing is explained.
        outputs: what the watched layers returned, by their names.
        calls: the calls of the model's modules, in the order in which they returned.
        labels: the samples' labels.
        regions: masks by name.
        reading: how the model's output was read; by default as it is.
        shared: what one metric computed and others read too, under keys of their own.
    """

    session: Any  # a Session, whose file imports this one
    images: Shaped[Tensor, "b ..."]
    output: Any
    scores: TargetScores | None
    outputs: Mapping[str, LayerOutput]
    calls: Calls
    labels: Shaped[Tensor, "b ..."] | None = None
    regions: Mapping[str, Bool[Tensor, "b *s"]] = field(default_factory=dict)
    reading: Reading = field(default_factory=lambda: Reading.of(None))
    _gradients: dict[int, dict[str, Tensor | None]] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def target_scores(self) -> TargetScores:
        """The numbers explained.

        Raises:
            ValueError: where the forward was run without a target.
        """
        if self.scores is None:
            raise ValueError("This forward was run without a target, so there is no score; name a target.")
        return self.scores

    @property
    def logits(self) -> Any:
        """The output, detached."""
        if isinstance(self.output, Tensor | QueryOutput):
            return self.output.detach()
        return self.output

    def in_words(self) -> list[str]:
        """What is explained that the user did not write, for a message."""
        if self.reading.note and self.target_scores.of_logits:
            return [self.reading.note]
        return []

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape by which maps are read: that of the images, or of the pictures that they stand for."""
        shape: tuple[int, ...] = self.session.call.shape(self.images)
        return shape

    @property
    def pictures(self) -> Shaped[Tensor, "b ..."]:
        """What is shown of the samples: the input, unless the model is given something else than pictures."""
        pictures: Tensor | None = self.session.call.pictures
        if pictures is None:
            return self.images
        return pictures

    def title(self, layer: str) -> str:
        """The layer's name, with the number of the call kept where it has run several times."""
        call = self.outputs[layer].call
        if call == 1 or "#" in layer:
            return layer
        return f"{layer}#{call - 1}"

    def rescore(
        self,
        layer: str,
        samples: slice,
        *,
        image: Shaped[Tensor, "n ..."] | None = None,
        activation: Float[Tensor, "n c *m"] | None = None,
    ) -> Float[Tensor, "n t"]:
        """The same scores for changed images, or changed maps at a layer, of the sample in a slice; without gradient.

        With maps the layers before run once, for the one image, and those behind for all n: residual paths broadcast.
        """
        with torch.no_grad():
            return self._changed_scores(layer, samples, image, activation)

    def rerun(
        self,
        layer: str | None = None,
        *,
        image: Shaped[Tensor, "b ..."] | None = None,
        activation: Float[Tensor, "b c *m"] | None = None,
    ) -> Float[Tensor, "b t"]:
        """The same scores of the whole batch, run anew and recorded from the image on, or from the maps put in at the layer."""
        with torch.enable_grad():
            return self._changed_scores(layer or next(iter(self.outputs)), slice(None), image, activation)

    def with_images(self, images: Shaped[Tensor, "b ..."]) -> "Forward":
        """The same look at other images of the same samples: what was chosen stays chosen."""
        forward: Forward = self.session.forward_again(self, images)
        return forward

    @cached_property
    def attention(self) -> Attention:
        """Every block's attention probabilities, of one further forward; run once, when first read."""
        score = self.target_scores.score.detach()
        layouts = [layer.layout for layer in self.outputs.values()]

        def rescore(image: Tensor) -> Tensor:
            return self.rescore(next(iter(self.outputs)), slice(1), image=image)

        runs = Runs(self.rerun, rescore, self.images[:1])
        return attend(runs, score, self.shape, self.calls, layouts)

    @cached_property
    def balanced(self) -> "Forward":
        """The same look with a balanced backward, of one further forward; run once, when first read."""
        forward: Forward = balance(self)
        return forward

    @property
    def is_balanced(self) -> bool:
        """Whether its backward is a balanced one."""
        return isinstance(self.target_scores.target, BalancedTarget)

    def gradient(self, layer: str, position: int) -> Tensor | None:
        """The score's gradient by a layer's output; one backward for all layers, stopping at the earliest, once a target.

        Raises:
            ValueError: if the score is detached from all of the layers.
        """
        if position not in self._gradients:
            score = self.target_scores.score[:, position]
            if not score.requires_grad and self._depends_on_image(position):
                return None  # the score is complete before the layer runs
            if not score.requires_grad:
                raise ValueError(
                    f"The score has no gradient with respect to {', '.join(self.outputs)}: the target or the model's output "
                    "is detached (a forward wholly under no_grad, .detach(), argmax). Use a method without gradients "
                    "(activation_mean, cam, occlusion), or an output that stays connected."
                )
            gradients = derivative(score, [layer_output.output for layer_output in self.outputs.values()])
            self._gradients[position] = dict(zip(self.outputs, gradients, strict=True))
        return self._gradients[position][layer]

    def has_gradient(self, layer: str) -> bool:
        """Whether the gradients of all scores by a layer's output are there already, so that asking for them costs nothing."""
        positions = range(self.target_scores.score.shape[1])
        taken = [self._gradients.get(position, {}).get(layer) for position in positions]
        return all(gradient is not None for gradient in taken)

    def _depends_on_image(self, position: int) -> bool:
        """Whether the score has a gradient at all; asked only to tell what is wrong, at the price of a further forward."""
        if not self.images.is_floating_point():
            return False
        score = self.rerun(image=self.images.detach().clone().requires_grad_())
        return score[:, position].requires_grad

    def _changed_scores(
        self, layer: str, samples: slice, image: Tensor | None, activation: Tensor | None
    ) -> Float[Tensor, "n t"]:
        # the caller's own images, or those that the changed maps belong to
        images = self.images[samples] if image is None else image
        n = len(images)
        replacement = None
        if activation is not None:
            n = len(activation)
            replacement = Replacement(layer, self.outputs[layer], activation)
            if is_detections(self.output) or is_queries(self.output) or self.session.call.beyond_images:
                # gives as many results as images, or joins them with what else it is given; elsewhere one image does for all
                images = images.expand(n, *images.shape[1:])
        output = self.session.run(images, replacement, samples)
        self._require_same_width(output)
        return self.target_scores.of_output(self.session.reader.read(output), samples, n)

    def _require_same_width(self, output: Any) -> None:
        """Refuse an output that lost columns: an entry of the batch with as many rows as samples was none of the samples'."""
        if not isinstance(output, Tensor) or not isinstance(self.output, Tensor):
            return
        if output.shape[1:] != self.output.shape[1:]:
            raise ValueError(
                f"A changed sample gives an output {list(output.shape)}, the batch {list(self.output.shape)}: an entry of the "
                f"batch has {len(self.images)} rows, as many as there are samples, but not one a sample. Watch another "
                "number of samples, Batch(samples=...), or give the entry to the model by forward=."
            )
