"""With which arguments a function can be called: the images, and what else of their batch it asks for by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_cam.model.call.entries import named, names
from lightning_cam.model.call.inputs import Inputs

_IMAGE_NAME = "pixel_values"  # Hugging Face's, also where other inputs come first
_WHOLE_NAME = "batch"
_LABEL_NAMES = ("label", "labels", "target", "targets", "y")


@dataclass(frozen=True)
class Arguments:
    """What a function is called with.

    Attributes:
        keyword: the name by which it takes the images; None where they come first.
        names: entries of the batch that it is given by their names.
        whole: whether it is given the whole batch, and nothing else.
        beside: whether it is given the whole batch beside the images.
    """

    keyword: str | None = None
    names: tuple[str, ...] = ()
    whole: bool = False
    beside: bool = False

    @property
    def beyond_images(self) -> bool:
        """Whether it is given more than the images."""
        return self.whole or self.beside or len(self.names) > 0

    def call(self, function: Callable[..., Any], images: Tensor, inputs: Inputs, samples: slice) -> Any:
        """What the function returns for images of the samples in a slice of the batch."""
        given = inputs.to_model(images)
        if not self.beyond_images:
            return function(*self._positional(given), **self._keyword(given))
        batch = inputs.rows(samples, len(images))
        if self.whole:
            return function(inputs.with_images(batch, given))
        if self.beside:
            return function(given, batch)
        entries = {name: named(batch, name) for name in self.names}
        return function(*self._positional(given), **self._keyword(given), **entries)

    def in_words(self) -> str:
        """What is given, as a message says it."""
        if self.whole:
            return "the whole batch"
        return " and ".join(["the images", *map(repr, self.names)])

    def _positional(self, images: Tensor) -> list[Tensor]:
        if self.keyword is None:
            return [images]
        return []

    def _keyword(self, images: Tensor) -> dict[str, Tensor]:
        if self.keyword is None:
            return {}
        return {self.keyword: images}


def possible_arguments(signature: inspect.Signature | None, inputs: Inputs) -> list[Arguments]:
    """With what a function can be called, the likeliest first; nothing where the batch lacks what it asks for.

    Args:
        signature: the function's; None where it has none, as a scripted one.
        inputs: the batch there is.
    """
    if signature is None:
        return [Arguments()]
    parameters = named_parameters(signature)
    if not parameters:
        return _gathered(signature, inputs)
    image = image_parameter(parameters, _image_key(inputs))
    keyword = None
    if image is not parameters[0] or image.kind is image.KEYWORD_ONLY:
        keyword = image.name
    others = [p for p in parameters if p is not image]
    held = names(inputs.batch)
    required = [p.name for p in others if p.default is p.empty]
    if required:
        if set(required) <= set(held) and _by_name(others, required):
            return [Arguments(keyword, tuple(required))]
        return []
    possible = [Arguments(keyword)]
    optional = [p.name for p in others if p.name in held and p.name not in _LABEL_NAMES]
    if optional:
        possible.append(Arguments(keyword, tuple(optional)))
    if inputs.path and image.name == _WHOLE_NAME:
        possible.insert(0, Arguments(whole=True))
    elif names(inputs.batch) and inputs.path and image.name != _image_key(inputs):
        # a dict under any name; of a tuple, images in its place are far likelier, and trying costs a forward
        possible.append(Arguments(whole=True))
    return possible


def named_parameters(signature: inspect.Signature) -> list[inspect.Parameter]:
    """A function's parameters without those that gather any."""
    return [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def image_parameter(parameters: list[inspect.Parameter], key: str | None) -> inspect.Parameter:
    """The parameter that takes the images: the one of their name in the batch, else the first."""
    by_name = {p.name: p for p in parameters}
    for name in (key, _IMAGE_NAME):
        if name in by_name:
            return by_name[name]
    return parameters[0]


def _image_key(inputs: Inputs) -> str | None:
    """The name of the images in the batch, where it holds them by name."""
    if inputs.path and isinstance(inputs.path[0][1], str):
        return inputs.path[0][1]
    return None


def _gathered(signature: inspect.Signature, inputs: Inputs) -> list[Arguments]:
    """With what a function can be called that names no parameter, as ``forward(**batch)`` or ``forward(*args)``."""
    kinds = {p.kind for p in signature.parameters.values()}
    key = _image_key(inputs)
    in_place = [Arguments()] if inspect.Parameter.VAR_POSITIONAL in kinds else []
    # where images may come in their place, only Hugging Face's name says that they may not, and trying costs a forward
    if in_place and key != _IMAGE_NAME:
        return in_place
    if inspect.Parameter.VAR_KEYWORD not in kinds or key is None or len(inputs.path or ()) > 1:
        return in_place
    others = [name for name in names(inputs.batch) if name != key]
    unlabelled = tuple(name for name in others if name not in _LABEL_NAMES)
    # whoever writes **batch is given the batch; of labels models make a loss that nobody needs here
    by_name = [Arguments(key, unlabelled), Arguments(key, tuple(others)), Arguments(key)]
    return list(dict.fromkeys(by_name + in_place))


def _by_name(parameters: list[inspect.Parameter], required: list[str]) -> bool:
    """Whether the required parameters can be given by name."""
    return all(p.kind is not p.POSITIONAL_ONLY for p in parameters if p.name in required)
