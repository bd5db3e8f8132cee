"""A model by torchvision's name, import path or checkpoint, with its weights: what the command line loads."""

import argparse
import importlib
import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_cam.registry import did_you_mean

_TORCHVISION = "torchvision:"
_FILES = (".ckpt", ".pt", ".pth", ".bin", ".npz", ".safetensors")
_HARMLESS: list[Any] = [type(Path()), argparse.Namespace]  # plain values that hyperparameters often hold


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, a line on where its weights are from, and torchvision's entry for them where one was named."""

    model: nn.Module
    origin: str
    entry: Any = None


def load_model(name: str, weights: str | None = None) -> Loaded:
    """Build a model and load its weights, on the CPU.

    Args:
        name: ``torchvision:<name>``, an import path ``pkg.module.Class`` or ``pkg.module:Class``, or a Lightning checkpoint
            that names its class. A class is called without arguments; a function that returns a model does as well.
        weights: a file, or for torchvision the name of its weights. A Lightning class with a checkpoint goes through
            ``load_from_checkpoint``, which knows its arguments; all else is built first and given the state dict.

    Raises:
        ValueError: for a model nobody knows, one that cannot be built, or weights that do not fit.
        OSError: for a file that is missing, or weights that cannot be downloaded.
    """
    if name.startswith(_TORCHVISION):
        return _from_torchvision(name.removeprefix(_TORCHVISION), weights)
    if Path(name).is_file() or name.endswith(_FILES):
        if weights is not None:
            raise ValueError(
                f"--model {name} is a file and brings its own weights: give --model pkg.Class --weights {weights}."
            )
        return _from_checkpoint(name)
    return _from_class(name, weights)


def read_weights(path: str | Path) -> Any:
    """What a weights file holds: arrays of an .npz and tensors of a .safetensors by key, else what torch.load gives.

    Nothing but tensors and plain values is unpickled.

    Raises:
        ValueError: if the file is no such file.
        OSError: if it is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No weights file {path}.")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                return {key: torch.from_numpy(held[key]) for key in held.files}
        if path.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs the package safetensors: pip install safetensors.") from error
    except Exception as error:
        if unsafe := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} holds more than tensors and plain values ({unsafe[1]}), and loading that can run code. "
                "If you trust it, load it in Python and call lightning_cam.explain."
            ) from error
        raise ValueError(f"{path} cannot be read as weights ({', '.join(_FILES)}): {_brief(error)}") from error


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> str:
    """Load a state dict, without a common prefix of its keys where that makes it fit; the prefix is returned.

    Keys outside the prefix (a loss, a metric beside the network) are left aside.

    Raises:
        ValueError: if keys are missing, unknown or of another shape; they are named.
    """
    expected = model.state_dict()
    prefix, state = _stripped(state, expected)
    other = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    missing, unknown = [key for key in expected if key not in state], [key for key in state if key not in expected]
    if not other:
        missing, unknown = model.load_state_dict(state, strict=False)
    if not (other or missing or unknown):
        return prefix
    shapes = [f"{key} {_shape(state[key])} in the file, {_shape(expected[key])} in the model" for key in other]
    found = ((missing, "missing"), (shapes, "of another shape"), (unknown, "unknown"))
    told = [f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" for keys, what in found if keys]
    raise ValueError(f"The weights {path} do not fit {type(model).__name__}, keys: {'; '.join(told)}.")


def _from_torchvision(name: str, weights: str | None) -> Loaded:
    import torchvision.models as zoo

    known = zoo.list_models(module=zoo)
    if name not in known:
        raise ValueError(f"torchvision has no classification model {name!r}.{did_you_mean(name, known)}")
    if weights is None:
        random = f"no --weights: {name} has random weights, so neither its ranking nor its map means anything"
        return Loaded(_built(zoo, name), random)
    if Path(weights).is_file() or weights.endswith(_FILES):
        model, state = _built(zoo, name), _state(read_weights(weights), weights)
        classes = _other_head(model.state_dict(), _stripped(state, model.state_dict())[1])
        if classes is not None:
            model = _built(zoo, name, num_classes=classes)
        return Loaded(model, _origin(weights, fit_weights(model, state, weights)))
    entries = zoo.get_model_weights(name)
    entry = entries.__members__.get(weights.rpartition(".")[2])
    if entry is None:
        names = list(entries.__members__)
        raise ValueError(
            f"{weights!r} is neither a file nor weights of {name}.{did_you_mean(weights, names)} Known: {', '.join(names)}."
        )
    try:
        return Loaded(_built(zoo, name, weights=entry), f"weights: torchvision's {entry.name}", entry)
    except OSError as error:
        raise OSError(f"The weights {entry} could not be downloaded from {entry.url}: {error}") from error


def _built(zoo: Any, name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():  # googlenet and inception announce a change of their initialisation
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = zoo.get_model(name, **options)
    return model


def _from_checkpoint(path: str) -> Loaded:
    held = read_weights(path)
    hyper = held.get("hyper_parameters") if isinstance(held, Mapping) else None
    named = hyper.get("_class_path") if isinstance(hyper, Mapping) else None
    if not isinstance(named, str):
        raise ValueError(f"{path} does not name its class: give --model pkg.Class --weights {path}.")
    return _from_class(named, path)


def _from_class(name: str, weights: str | None) -> Loaded:
    found = _imported(name)
    if weights is None:
        origin = f"no --weights: {name} as it builds itself, with random weights unless it loads some"
        return Loaded(_called(found, name), origin)
    held = read_weights(weights)
    if isinstance(held, Mapping) and "state_dict" in held and hasattr(found, "load_from_checkpoint"):
        try:
            return Loaded(found.load_from_checkpoint(weights, map_location="cpu"), _origin(weights))
        except Exception as error:
            hint = " Does it call self.save_hyperparameters()?" if isinstance(error, TypeError) else ""
            raise ValueError(f"{name} cannot be loaded from {weights}: {_brief(error)}{hint}") from error
    model = _called(found, name)
    return Loaded(model, _origin(weights, fit_weights(model, _state(held, weights), weights)))


def _imported(name: str) -> Any:
    module, _, attribute = name.replace(":", ".").rpartition(".")
    if not module:
        import torchvision.models as zoo

        names = [_TORCHVISION + known for known in zoo.list_models(module=zoo)]
        near = did_you_mean(_TORCHVISION + name, names)
        raise ValueError(f"No model {name!r}: expected torchvision:<name>, pkg.module.Class or a checkpoint file.{near}")
    try:
        source = importlib.import_module(module)
    except Exception as error:
        raise ValueError(f"The model {name!r} cannot be imported: {_brief(error)}") from error
    if not hasattr(source, attribute):
        classes = [key for key, kept in vars(source).items() if inspect.isclass(kept) and issubclass(kept, nn.Module)]
        near = did_you_mean(attribute, classes) or f" Its models: {', '.join(classes) or 'none'}."
        raise ValueError(f"The module {module} has no {attribute!r}.{near}")
    return getattr(source, attribute)


def _called(found: Any, name: str) -> nn.Module:
    if isinstance(found, nn.Module):
        return found
    try:
        model = found()
    except Exception as error:
        raise ValueError(
            f"{name} cannot be built without arguments: {_brief(error)} "
            "Give the path of a function without arguments that returns the model."
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} gave a {type(model).__name__}; expected a torch.nn.Module.")
    return model


def _state(held: Any, path: str | Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        inside = ", ".join(list(map(str, held))[:6]) if isinstance(held, Mapping) else type(held).__name__
        raise ValueError(
            f"{path} holds no state dict, neither itself nor under state_dict or model; it holds: {inside or 'nothing'}."
        )
    half = (torch.float16, torch.bfloat16)
    return {key.replace("_orig_mod.", ""): value.float() if value.dtype in half else value for key, value in held.items()}


def _stripped(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    prefixes = dict.fromkeys(key[: dot.end()] for key in state for dot in re.finditer(r"\.", key))
    cut = {
        prefix: {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)} for prefix in ("", *prefixes)
    }
    best = max(cut, key=lambda prefix: len(cut[prefix].keys() & expected.keys()))  # the first of equals: none, if it fits
    return best, cut[best]


def _other_head(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """The number of classes of weights that fit but for that; torchvision registers a model's head last."""
    head = list(expected.values())[-1].shape
    other = [
        (state[key].shape, expected[key].shape) for key in expected if key in state and state[key].shape != expected[key].shape
    ]
    counts = {shape[0] for shape, _ in other if shape}
    alike = all(shape[1:] == wanted[1:] and wanted[:1] == head[:1] for shape, wanted in other)
    return int(counts.pop()) if alike and len(counts) == 1 else None


def _origin(path: str | Path, prefix: str = "") -> str:
    return f"weights: {path}" + (f", keys under {prefix!r}" if prefix else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _brief(error: Exception, most: int = 300) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
    return (text if len(text) <= most else text[:most] + " ...") + "."
