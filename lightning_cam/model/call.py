"""How a model is called: with the images alone, and with words about what else it asks for. Nothing else calls a model."""

import inspect
from typing import Any

from torch import Tensor, nn


def run_model(model: nn.Module, images: Tensor) -> Any:
    """What ``model(images)`` returns.

    Raises:
        ValueError: if the model's ``forward`` asks for more than the images, takes none, or is missing.
    """
    try:
        return model(images)
    except (TypeError, NotImplementedError) as error:
        mismatch = describe_mismatch(model, error)
        if mismatch is None:
            raise
        raise ValueError(mismatch) from error


def describe_mismatch(model: nn.Module, error: Exception) -> str | None:
    """What a model's ``forward`` asks for beyond the images, and what to write; None where the images alone suit it.

    Args:
        model: the model that was called with the images alone.
        error: what it raised; read only for whether ``forward`` is missing.

    Example:
        >>> class Located(nn.Module):
        ...     def forward(self, image, place): ...
        >>> describe_mismatch(Located(), TypeError()).partition(".forward")[2][:48]
        "(image, place) needs 'place' beside the images. "
    """
    model = getattr(model, "_orig_mod", model)  # a compiled model's own forward takes anything
    kind = type(model).__name__
    if isinstance(error, NotImplementedError) and f"Module [{kind}] is missing" in str(error):
        return _without_forward(model)
    # a scripted forward has no signature
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None
    try:
        # one argument by position, whatever it is; where that fits, the error is the forward's own
        signature.bind(None)
    except TypeError:
        return _unsuited(kind, signature)
    return None


def _without_forward(model: nn.Module) -> str:
    network = "network"
    for name, part in model.named_children():
        if next(part.parameters(), None) is not None:
            network = name
            break
    return (
        f"{type(model).__name__} has no forward, so it cannot be called with images. Write one that returns the logits: "
        f"`def forward(self, images): return self.{network}(images)`."
    )


def _unsuited(kind: str, signature: inspect.Signature) -> str:
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    shown = f"{kind}.forward{signature.replace(parameters=bare, return_annotation=signature.empty)}"
    named = [p for p in bare if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not named:
        return f"{shown} takes no images. Wrap the model in an nn.Module whose forward takes the images and returns the logits."
    # the images are what comes first, also where everything is taken by keyword only
    required = [p for p in named[1:] if p.default is p.empty]
    arguments = [_argument(named[0], "images"), *(_argument(p, f"self.{p.name}") for p in required)]
    problem = "takes the images by keyword only"
    if required:
        problem = f"needs {' and '.join(repr(p.name) for p in required)} beside the images"
    text = (
        f"{shown} {problem}. Wrap the model in an nn.Module whose forward takes the images alone: "
        f"`def forward(self, images): return self.model({', '.join(arguments)})`"
    )
    if required:
        text += f", where {' and '.join(f'self.{p.name}' for p in required)} is what belongs to the images that are watched"
    return f"{text}."


def _argument(parameter: inspect.Parameter, value: str) -> str:
    by_position = parameter.kind is parameter.POSITIONAL_ONLY
    if value == "images":
        by_position = parameter.kind is not parameter.KEYWORD_ONLY
    if by_position:
        return value
    return f"{parameter.name}={value}"
