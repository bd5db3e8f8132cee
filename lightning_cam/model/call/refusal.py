"""Why a model cannot be run on images and their batch, and the line to write."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.call.arguments import Arguments, image_parameter, named_parameters
from lightning_cam.model.call.entries import Step, describe, names, steps
from lightning_cam.model.call.inputs import Inputs
from lightning_cam.model.output import find_logits
from lightning_cam.model.wrapped import unwrapped

_PLACEHOLDERS = ("_forward_unimplemented", "LightningModule.forward")  # which say that there is none
_WRITE = "Write forward=lambda model, images, batch: "


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """What a function, or a module's forward, takes; None where it has no signature, as when scripted."""
    if isinstance(function, nn.Module):
        # a wrapper's own forward takes anything
        function = unwrapped(function).forward
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def has_forward(function: Callable[..., Any]) -> bool:
    """Whether a module can be called at all; any other function can."""
    if not isinstance(function, nn.Module):
        return True
    forward = getattr(unwrapped(function).forward, "__qualname__", "")
    return forward not in _PLACEHOLDERS


def refuse_without_forward(model: nn.Module, images: Tensor) -> ValueError:
    """The error for a module that has no forward."""
    kind = type(model).__name__
    methods = [name for name in dir(type(model)) if name.startswith("forward_") and callable(getattr(model, name, None))]
    text = f"{kind} has no forward, so it cannot be called with images. "
    if methods:
        text += f"Name the method that gives the logits: forward={methods[0]!r}. "
    return ValueError(text + _parts_in_words(model, images))


def refuse_arguments(model: nn.Module, function: Callable[..., Any], inputs: Inputs, images: Tensor) -> ValueError:
    """The error for a function that asks for what the batch does not have, or takes no images."""
    signature = signature_of(function)
    assert signature is not None
    shown = _shown(model, function, signature)
    parameters = named_parameters(signature)
    if not parameters:
        what = "no images"
        if signature.parameters:
            what = "images by a name alone, which they have not"
        return ValueError(f"{shown} takes {what}. {_parts_in_words(model, images)}")
    image = image_parameter(parameters, None)
    missing = [p for p in parameters if p is not image and p.default is p.empty]
    lacking = [p.name for p in missing if p.name not in names(inputs.batch) or p.kind is p.POSITIONAL_ONLY]
    needs = f"{shown} needs {' and '.join(map(repr, lacking))} beside the images"
    if inputs.batch is None:
        given = ", ".join(f"{p.name!r}: {p.name}" for p in missing)
        return ValueError(f"{needs}. Give it what belongs to the images by name: batch={{{given}}}.")
    places = _places(inputs, [p.name for p in missing])
    arguments = ["images"]
    if image.kind is image.KEYWORD_ONLY or image is not parameters[0]:
        arguments = [f"{image.name}=images"]
    for parameter, place in zip(missing, places, strict=True):
        by_position = parameter.kind is parameter.POSITIONAL_ONLY
        arguments.append(place if by_position else f"{parameter.name}={place}")
    call = f"{_called(model, function)}({', '.join(arguments)})"
    return ValueError(f"{needs}, and the batch is {describe(inputs.batch)}. {_WRITE}{call}.")


def refuse_all(
    model: nn.Module,
    function: Callable[..., Any],
    attempts: Sequence[tuple[Arguments, Exception]],
    inputs: Inputs,
    images: Tensor,
) -> ValueError:
    """The error for a function that failed with everything it could be given."""
    signature = signature_of(function)
    assert signature is not None
    failures = [f"{arguments.in_words()} ({_brief(error)})" for arguments, error in attempts]
    return ValueError(
        f"{_shown(model, function, signature)} could be called neither with {' nor with '.join(failures)}; "
        f"the batch is {describe(inputs.batch)}. {_parts_in_words(model, images)}"
    )


def _shown(model: nn.Module, function: Callable[..., Any], signature: inspect.Signature) -> str:
    """A method as it is defined, without types."""
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    kind = type(unwrapped(model)).__name__
    name = "forward"
    if not isinstance(function, nn.Module):
        name = getattr(function, "__name__", "forward")
    return f"{kind}.{name}{signature.replace(parameters=bare, return_annotation=signature.empty)}"


def _called(model: nn.Module, function: Callable[..., Any]) -> str:
    if isinstance(function, nn.Module):
        return "model"
    return f"model.{getattr(function, '__name__', 'forward')}"


def _places(inputs: Inputs, wanted: Sequence[str]) -> list[str]:
    """For each name an entry of the batch that may be meant: the nearest in name, else the next that is not the images."""
    taken = [inputs.path[0]] if inputs.path else []
    free = [step for step in steps(inputs.batch) if step not in taken]
    places = []
    for i, name in enumerate(wanted):
        near = get_close_matches(name, [str(key) for _, key in free], n=1)
        candidates = [step for step in free if step[1] in near] or free[i:]
        step: Step = ("item", i + 1)
        if candidates:
            step = candidates[0]
        places.append(f"batch[{step[1]!r}]" if step[0] == "item" else f"batch.{step[1]}")
    return places


def _parts_in_words(model: nn.Module, images: Tensor) -> str:
    """Which parts of a model take the images, found by trying, and the line to write."""
    parts = list(_accepting(model, images[:1]))
    if not parts:
        return f"None of its parts takes the images {list(images.shape)} either. {_WRITE}..., with what gives the logits."
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in parts)
    return f"Parts of it that take the images: {shapes}. {_WRITE}model.{parts[0][0]}(images)."


def _accepting(model: nn.Module, image: Tensor, depth: int = 2) -> Iterator[tuple[str, torch.Size]]:
    for name, child in model.named_children():
        if next(child.parameters(), None) is None:
            continue
        output = None
        try:
            with torch.no_grad():
                output = find_logits(child(image), None)
        except Exception:
            # it is tried because nobody knows what it takes
            output = None
        if isinstance(output, Tensor):
            yield name, output.shape
        elif depth > 1:
            yield from ((f"{name}.{inner}", shape) for inner, shape in _accepting(child, image, depth - 1))


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    if len(text) > 100:
        text = f"{text[:100]} ..."
    return f"{type(error).__name__}: {text}"
