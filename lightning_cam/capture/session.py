"""Session: the one way to run a model. b batch, t targets."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.gradient import inference_mode_as_no_grad
from lightning_cam.capture.hooks import Action, LayerHooks, Recording
from lightning_cam.model.call import ModelCall
from lightning_cam.model.default_layer import find_default_layer
from lightning_cam.model.head import head_weight
from lightning_cam.model.names import find_layer
from lightning_cam.model.output import Output, find_logits
from lightning_cam.model.probabilities import OutputReader
from lightning_cam.model.trace import record_calls
from lightning_cam.no_trace import no_trace
from lightning_cam.targets.target import Choice, Target, score_output

Context = Callable[[], AbstractContextManager[Any]]


@contextmanager
def open_session(
    model: nn.Module,
    layers: Sequence[str | nn.Module],
    images: Shaped[Tensor, "b ..."] | None = None,
    *,
    output: Output = None,
    context: Context = nullcontext,
    call: ModelCall | None = None,
) -> Iterator["Session"]:
    """Open a model for looking; everything is as it was when the block ends, however it ends.

    Args:
        model: it is run in evaluation mode.
        layers: dotted names, or modules; none for the layer found by itself, by tracing one forward of one image.
        images: what it will be looked at with; needed where no layer is named.
        output: where the logits are in the model's output.
        context: under which the model is run, such as an autocast.
        call: how it is run; by default on the images alone.

    Raises:
        ValueError: for a layer the model does not have, a model in which no layer returns a map, or one that asks for more than
            there is.
    """
    with no_trace(model):
        session = Session(model, output, context, call or ModelCall())
        names = [find_layer(model, layer) for layer in layers]
        if not names and images is not None:
            names = [session.find_default_layer(images)]
        session.hooks = LayerHooks(names)
        try:
            with session.hooks.attached(model), session.reader.attached(model):
                yield session
        finally:
            session.is_open = False


@dataclass(eq=False)
class Session:
    """A model opened for looking; made by ``open_session``.

    Attributes:
        model: the model.
        output: where the logits are in its output.
        context: under which it is run.
        call: how it is run.
        hooks: on the watched layers.
        reader: how its output is read, where that is probabilities.
        is_open: whether the hooks are still in.
    """

    model: nn.Module
    output: Output
    context: Context
    call: ModelCall
    hooks: LayerHooks = field(default_factory=lambda: LayerHooks([]))
    reader: OutputReader = field(default_factory=OutputReader)
    is_open: bool = True

    @property
    def layers(self) -> Sequence[str]:
        """The names of the watched layers."""
        return self.hooks.layers

    def find_default_layer(self, images: Shaped[Tensor, "b ..."]) -> str:
        """The layer watched when none is named, found by tracing one forward of the first image."""
        self._settle(images)
        picture = self.call.shape(images)[1:]
        return find_default_layer(self.model, images, lambda first: self.run(first, samples=slice(1)), picture)

    def run(self, images: Shaped[Tensor, "n ..."], action: Action | None = None, samples: slice = slice(None)) -> Any:
        """The model's output for images of the samples in a slice of the batch: its logits, or what it gives in place of them.

        Args:
            images: changed or not; n changes of the one sample that the slice holds, or one for each of its samples.
            action: done with what the watched layers return.
            samples: which samples of the batch these are, for what else of them the model is given.

        Raises:
            RuntimeError: when the session is over.
        """
        if not self.is_open:
            raise RuntimeError("The look is over: rescore and with_image work while the layers are watched.")
        self._settle(images)
        self.hooks.action = action
        try:
            with self.context(), inference_mode_as_no_grad(), warnings.catch_warnings():
                # torch warns that a compiled module meets hooks on all modules twice, which is harmless here
                warnings.filterwarnings("ignore", message="Using `torch.compile")
                output = self.call(self.model, images.clone(), samples)  # a model may change its input
                return find_logits(output, self.output)
        finally:
            self.hooks.action = None

    def forward(
        self,
        images: Shaped[Tensor, "b ..."],
        target: Target,
        labels: Tensor | None = None,
        regions: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Forward:
        """Run the model once, and score what the target chooses."""
        prepare = getattr(target, "prepare", None)
        if prepare is not None and self.is_open:
            # before anything is recorded: what a target asks of the model, such as its text tower, is no part of the forward
            with torch.no_grad(), self.context():
                prepare(self.model)
        return self._recorded(images, target, None, labels, regions)

    def forward_again(self, forward: Forward, images: Shaped[Tensor, "n ..."], samples: slice = slice(None)) -> Forward:
        """Run the model on other images of the same samples, and score what was chosen before.

        Args:
            forward: the forward in which it was chosen.
            images: the other images.
            samples: which of its samples they are, in a session of this part of them.
        """
        scores = forward.target_scores
        choice = scores.choice
        if samples != slice(None):
            choice = choice.rows(samples, len(images))
        labels = forward.labels
        if labels is not None:
            labels = labels[samples]
        regions = {name: mask[samples] for name, mask in forward.regions.items()}
        return self._recorded(images, scores.target, choice, labels, regions)

    def part(self, samples: slice, context: Context | None = None) -> "Session":
        """The same open model for some of the samples alone, under the same context or another."""
        return replace(self, call=self.call.part(samples), context=context or self.context)

    def activations(self, images: Shaped[Tensor, "b ..."]) -> Forward:
        """Run the model once without gradient, for what its layers return alone."""
        with torch.no_grad():
            recording, result = self._record(images, differentiable=False)
        return Forward(self, images, result, None, recording.outputs, recording.calls)

    def _recorded(
        self,
        images: Tensor,
        target: Target,
        choice: Choice | None,
        labels: Tensor | None,
        regions: Mapping[str, Tensor],
    ) -> Forward:
        # The trunk runs without gradient: the hook of the first watched layer switches gradients on, so that only what is
        # behind it is recorded, and a look costs little more than a forward. Where the model has a no_grad of its own around
        # the layer, leaving it switches them off again and nothing is recorded; then the model is run a second time with
        # gradients on outside. That they are still on after the first pass says that a second could change nothing.
        for trunk in (torch.no_grad, torch.enable_grad):
            with trunk():
                recording, result = self._record(images, differentiable=True)
                recorded_to_the_end = torch.is_grad_enabled()
            with torch.enable_grad():
                if choice is None:
                    self.reader.decide(result)
                reading = self.reader.read(result)
                scores = score_output(target, reading, labels, head_weight(recording.calls, reading.logits), choice)
            if scores.score.requires_grad or recorded_to_the_end:
                break
        output = reading.logits if scores.of_logits else reading.output
        return Forward(self, images, output, scores, recording.outputs, recording.calls, labels, regions, reading)

    def _record(self, images: Tensor, differentiable: bool) -> tuple[Recording, Any]:
        self._settle(images)
        shape = self.call.shape(images)
        with record_calls(self.model, shape) as calls:
            recording = Recording(shape, calls, differentiable)
            result = self.run(images, recording)
        recording.require(self.layers)
        recording.outputs = {layer: recording.outputs[layer] for layer in self.layers}
        return recording, result

    def _settle(self, images: Tensor) -> None:
        # before anything is recorded, since what is tried in vain may have run a part of the model
        with self.context():
            self.call.settle(self.model, images)
