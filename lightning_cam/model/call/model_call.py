"""ModelCall: how a model is run, settled before the first forward. b batch, n changed samples."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from lightning_cam.model.call.arguments import Arguments, possible_arguments
from lightning_cam.model.call.inputs import Inputs
from lightning_cam.model.call.options import ForwardOption, find_forward
from lightning_cam.model.call.refusal import (
    has_forward,
    refuse_all,
    refuse_arguments,
    refuse_without_forward,
    signature_of,
)


@dataclass(eq=False)
class ModelCall:
    """How a model is run.

    Attributes:
        forward: None for the model itself, a method's name, or a callable ``(model, images, batch) -> output``.
        inputs: the batch that the samples came in.
        pictures: what is shown of the samples, where the model is given something else than pictures.
        arguments: what the model is called with; None until it is settled.
    """

    forward: ForwardOption = None
    inputs: Inputs = field(default_factory=Inputs)
    pictures: Shaped[Tensor, "b ..."] | None = None
    arguments: Arguments | None = None

    @property
    def beyond_images(self) -> bool:
        """Whether the model is given more of each sample than its image."""
        return self.inputs.batch is not None and self.arguments is not None and self.arguments.beyond_images

    def in_words(self) -> str:
        """What was settled that the user did not write, for a message; empty for the images alone."""
        if self.arguments is None or not (self.arguments.whole or self.arguments.names):
            return ""
        return f"the model is given {self.arguments.in_words()}"

    def shape(self, images: Shaped[Tensor, "b ..."]) -> tuple[int, ...]:
        """The shape by which maps are read: that of the pictures that the images are, or stand for."""
        if self.pictures is None:
            return tuple(images.shape)
        return len(images), *self.pictures.shape[1:]

    def part(self, samples: slice) -> "ModelCall":
        """The same for some of the samples alone."""
        pictures = self.pictures
        if pictures is not None:
            pictures = pictures[samples]
        return replace(self, inputs=self.inputs.part(samples), pictures=pictures)

    def settle(self, model: nn.Module, images: Shaped[Tensor, "b ..."]) -> None:
        """Find what the model is called with, once: by its signature, and where that leaves a choice by the first sample.

        Raises:
            ValueError: if the model asks for what the batch does not have, takes no images, or has no forward.
        """
        if self.arguments is not None:
            return
        function, is_own = find_forward(model, self.forward)
        if not has_forward(function):
            raise refuse_without_forward(model, images)
        possible = [Arguments(beside=True)]
        if not is_own:
            possible = possible_arguments(signature_of(function), self.inputs)
        if not possible:
            raise refuse_arguments(model, function, self.inputs, images)
        if len(possible) > 1:
            possible = [self._first_that_fits(model, function, possible, images)]
        self.arguments = possible[0]

    def __call__(self, model: nn.Module, images: Shaped[Tensor, "n ..."], samples: slice = slice(None)) -> Any:
        """What a settled call returns for images of the samples in a slice of the batch."""
        function, _ = find_forward(model, self.forward)
        assert self.arguments is not None
        return self.arguments.call(function, images, self.inputs, samples)

    def _first_that_fits(
        self,
        model: nn.Module,
        function: Callable[..., Any],
        possible: list[Arguments],
        images: Tensor,
    ) -> Arguments:
        attempts: list[tuple[Arguments, Exception]] = []
        for arguments in possible:
            try:
                # what does not fit may make torch warn before it fails
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    arguments.call(function, images[:1].clone(), self.inputs, slice(1))
            except Exception as error:
                # which of them the model can take is not known before it is tried
                attempts.append((arguments, error))
            else:
                return arguments
        raise refuse_all(model, function, attempts, self.inputs, images) from attempts[0][1]
