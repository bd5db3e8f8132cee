"""What a user writes for ``model=`` and ``forward=``: which network is watched, and how it is run."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from torch import nn

from lightning_cam.registry import did_you_mean

ForwardOption = str | Callable[..., Any] | None
ModelOption = str | Callable[..., Any] | None

_FORWARD = "expected a method's name, or a callable (model, images, batch) -> output"


def check_forward(option: Any) -> ForwardOption:
    """A way to run a model, as it is, after a check; a method's name is looked up when there is a model.

    Raises:
        ValueError: for a callable of other arguments.
        TypeError: for anything but a name or a callable.
    """
    if not (option is None or isinstance(option, str) or callable(option)):
        raise TypeError(f"forward={option!r}: {_FORWARD}.")
    checked: ForwardOption = option
    if not callable(option):
        return checked
    try:
        signature = inspect.signature(option)
    except (TypeError, ValueError):
        # a builtin may have none
        return checked
    try:
        signature.bind(None, None, None)
    except TypeError:
        name = getattr(option, "__name__", type(option).__name__)
        raise ValueError(
            f"forward={name}: {_FORWARD}; this one takes {signature}. Write forward=lambda model, images, batch: model(images)."
        ) from None
    return checked


def find_forward(model: nn.Module, option: ForwardOption) -> tuple[Callable[..., Any], bool]:
    """What runs a model, and whether it is the user's own function of images and batch.

    Raises:
        ValueError: for a name that is neither a method of the model nor an import path.
    """
    if option is None:
        return model, False
    if not isinstance(option, str):
        return partial(option, model), True
    try:
        method = _attribute(model, option)
    except AttributeError:
        method = None
    if callable(method):
        return method, False
    function = _imported(option)
    if function is None:
        raise ValueError(_no_method(model, option))
    check_forward(function)
    return partial(function, model), True


def find_model(module: nn.Module, option: ModelOption) -> nn.Module:
    """The network that is watched: the module itself, a part of it by dotted name, or what a callable gives for it.

    Raises:
        ValueError: for a name that the module does not have, or what is no network.
    """
    if option is None:
        return module
    if isinstance(option, str):
        network = _by_name(module, option)
    else:
        network = option(module)
    if not isinstance(network, nn.Module):
        raise ValueError(f"model={_shown(option)} gave a {type(network).__name__}; expected a torch.nn.Module.")
    return network


def _by_name(module: nn.Module, name: str) -> Any:
    # by attribute: a network that is no submodule, so that it is in no checkpoint, is one too
    try:
        return _attribute(module, name)
    except AttributeError:
        pass
    function = _imported(name)
    if function is not None:
        return function(module)
    known = [part for part, _ in module.named_modules() if part]
    top = ", ".join(part for part, child in module.named_children() if next(child.parameters(), None) is not None)
    raise ValueError(
        f"model={name!r}: {type(module).__name__} has no part of this name.{did_you_mean(name, known)} "
        f"Its networks: {top or 'none'}."
    )


def _attribute(module: nn.Module, name: str) -> Any:
    return reduce(getattr, name.split("."), module)


def _imported(path: str) -> Callable[..., Any] | None:
    """What is at an import path; None where there is nothing."""
    module, _, attribute = path.replace(":", ".").rpartition(".")
    if not module:
        return None
    try:
        function: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    if not callable(function):
        return None
    found: Callable[..., Any] = function
    return found


def _no_method(model: nn.Module, name: str) -> str:
    methods = [key for key in dir(type(model)) if key not in dir(nn.Module) and callable(getattr(type(model), key))]
    return (
        f"forward={name!r}: {type(model).__name__} has no method of this name, and it is no import path."
        f"{did_you_mean(name, methods)} {_FORWARD[0].upper()}{_FORWARD[1:]}."
    )


def _shown(option: Any) -> str:
    if isinstance(option, str):
        return repr(option)
    return getattr(option, "__name__", type(option).__name__)
