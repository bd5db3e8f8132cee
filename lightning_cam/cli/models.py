"""A model by torchvision's name, import path or checkpoint, with its weights: what the command line loads."""

import importlib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models as zoo

from lightning_cam.cli.weights import (
    ENDINGS,
    brief,
    count_classes,
    find_state_dict,
    fit_weights,
    read_weights,
    strip_prefix,
)
from lightning_cam.registry import did_you_mean

_TORCHVISION = "torchvision:"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with its weights.

    Attributes:
        model: on the CPU.
        origin: a line on where its weights are from.
        entry: torchvision's entry for them, where they were named by it: class names and preparation.
    """

    model: nn.Module
    origin: str
    entry: Any = None


def load_model(name: str, weights: str | None = None) -> LoadedModel:
    """Build a model and load its weights, on the CPU.

    Args:
        name: ``torchvision:<name>``, an import path ``pkg.module.Class`` or ``pkg.module:Class``, or a Lightning checkpoint
            that names its class. A class is called without arguments; a function that returns a model does as well.
        weights: a file, or for torchvision the name of its weights. A Lightning class with a checkpoint goes through
            ``load_from_checkpoint``, which knows its arguments; all else is built first and given the state dict.

    Raises:
        ValueError: for a model nobody knows, one that cannot be built, or weights that do not fit.
        OSError: for a file that is missing, or weights that cannot be downloaded.

    Example:
        >>> load_model("torchvision:squeezenet1_1").origin
        'no --weights: squeezenet1_1 has random weights, so neither its ranking nor its map means anything'
    """
    if name.startswith(_TORCHVISION):
        return _from_torchvision(name.removeprefix(_TORCHVISION), weights)
    if not _is_file(name):
        return _from_class(name, weights)
    if weights is not None:
        raise ValueError(f"--model {name} is a file and brings its own weights: give --model pkg.Class --weights {weights}.")
    return _from_checkpoint(name)


def _is_file(name: str) -> bool:
    # by its ending also one that is missing, so that the error speaks of a file and not of a name
    return Path(name).is_file() or name.endswith(ENDINGS)


def _from_torchvision(name: str, weights: str | None) -> LoadedModel:
    known = zoo.list_models(module=zoo)
    if name not in known:
        raise ValueError(f"torchvision has no classification model {name!r}.{did_you_mean(name, known)}")
    if weights is None:
        origin = f"no --weights: {name} has random weights, so neither its ranking nor its map means anything"
        return LoadedModel(_torchvision_model(name), origin)
    if _is_file(weights):
        return _from_torchvision_and_file(name, weights)
    return _from_torchvision_entry(name, weights)


def _from_torchvision_and_file(name: str, path: str) -> LoadedModel:
    model = _torchvision_model(name)  # of the usual 1000 classes, to see in what the weights differ from it
    state = find_state_dict(read_weights(path), path)
    expected = model.state_dict()
    _, stripped = strip_prefix(state, expected)
    classes = count_classes(stripped, expected)
    if classes is not None:
        model = _torchvision_model(name, num_classes=classes)
    prefix = fit_weights(model, state, path)
    return LoadedModel(model, _origin(path, prefix))


def _from_torchvision_entry(name: str, weights: str) -> LoadedModel:
    entries = zoo.get_model_weights(name)
    entry = entries.__members__.get(weights.rpartition(".")[2])
    if entry is None:
        names = list(entries.__members__)
        near = did_you_mean(weights, names)
        raise ValueError(f"{weights!r} is neither a file nor weights of {name}.{near} Known: {', '.join(names)}.")
    try:
        model = _torchvision_model(name, weights=entry)
    except OSError as error:
        raise OSError(f"The weights {entry} could not be downloaded from {entry.url}: {error}") from error
    return LoadedModel(model, f"weights: torchvision's {entry.name}", entry)


def _torchvision_model(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():  # googlenet and inception announce a change of their initialisation
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = zoo.get_model(name, **options)
    return model


def _from_checkpoint(path: str) -> LoadedModel:
    name = _class_path(read_weights(path))
    if name is None:
        raise ValueError(f"{path} does not name its class: give --model pkg.Class --weights {path}.")
    return _from_class(name, path)


def _class_path(contents: Any) -> str | None:
    """The import path that LightningCLI writes among the hyperparameters."""
    if not isinstance(contents, Mapping):
        return None
    hyperparameters = contents.get("hyper_parameters")
    if not isinstance(hyperparameters, Mapping):
        return None
    path = hyperparameters.get("_class_path")
    if not isinstance(path, str):
        return None
    return path


def _from_class(name: str, weights: str | None) -> LoadedModel:
    source = _imported(name)
    if weights is None:
        origin = f"no --weights: {name} as it builds itself, with random weights unless it loads some"
        return LoadedModel(_built(source, name), origin)
    contents = read_weights(weights)
    is_checkpoint = isinstance(contents, Mapping) and "state_dict" in contents
    # a class that is no LightningModule takes the network out of a Lightning checkpoint, by the prefix of its keys
    if is_checkpoint and hasattr(source, "load_from_checkpoint"):
        return _from_lightning(source, name, weights)
    model = _built(source, name)
    prefix = fit_weights(model, find_state_dict(contents, weights), weights)
    return LoadedModel(model, _origin(weights, prefix))


def _from_lightning(source: Any, name: str, path: str) -> LoadedModel:
    try:
        return LoadedModel(source.load_from_checkpoint(path, map_location="cpu"), _origin(path))
    except Exception as error:
        hint = ""
        if isinstance(error, TypeError):  # its arguments are not in the checkpoint
            hint = " Does it call self.save_hyperparameters()?"
        raise ValueError(f"{name} cannot be loaded from {path}: {brief(error)}{hint}") from error


def _imported(name: str) -> Any:
    """The class, function or model at an import path."""
    module_name, _, attribute = name.replace(":", ".").rpartition(".")
    if not module_name:
        names = [_TORCHVISION + known for known in zoo.list_models(module=zoo)]
        near = did_you_mean(_TORCHVISION + name, names)
        raise ValueError(f"No model {name!r}: expected torchvision:<name>, pkg.module.Class or a checkpoint file.{near}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"The model {name!r} cannot be imported: {brief(error)}") from error
    if not hasattr(module, attribute):
        raise ValueError(f"The module {module_name} has no {attribute!r}.{_models_near(attribute, module)}")
    return getattr(module, attribute)


def _models_near(attribute: str, module: Any) -> str:
    classes = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)]
    near = did_you_mean(attribute, classes)
    if near:
        return near
    return f" Its models: {', '.join(classes) or 'none'}."


def _built(source: Any, name: str) -> nn.Module:
    if isinstance(source, nn.Module):
        return source
    try:
        model = source()
    except Exception as error:
        raise ValueError(
            f"{name} cannot be built without arguments: {brief(error)} "
            "Give the path of a function without arguments that returns the model."
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} gave a {type(model).__name__}; expected a torch.nn.Module.")
    return model


def _origin(path: str, prefix: str = "") -> str:
    origin = f"weights: {path}"
    if prefix:
        origin += f", keys under {prefix!r}"
    return origin
