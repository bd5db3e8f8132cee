"""Weights: read from a file of any usual form, and fitted to a model."""

import argparse
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ENDINGS = (".ckpt", ".pt", ".pth", ".bin", ".npz", ".safetensors")
_HALF_PRECISION = (torch.float16, torch.bfloat16)
_HARMLESS: list[Any] = [type(Path()), argparse.Namespace]  # plain values that hyperparameters often hold

StateDict = Mapping[str, Tensor]


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
        return _contents(path)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs the package safetensors: pip install safetensors.") from error
    except Exception as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))  # torch names what it refused to unpickle in its message alone
        if unsafe is None:
            raise ValueError(f"{path} cannot be read as weights ({', '.join(ENDINGS)}): {brief(error)}") from error
        raise ValueError(
            f"{path} holds more than tensors and plain values ({unsafe[1]}), and loading that can run code. "
            "If you trust it, load it in Python and call lightning_cam.explain."
        ) from error


def _contents(path: Path) -> Any:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    if path.suffix == ".safetensors":
        # not a requirement of this package
        return importlib.import_module("safetensors.torch").load_file(path)
    with torch.serialization.safe_globals(_HARMLESS):
        return torch.load(path, map_location="cpu", weights_only=True)


def find_state_dict(contents: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file's contents, in single precision and with the keys of a model that is not compiled.

    Args:
        contents: a state dict, or a dict that holds one under ``state_dict``, ``model_state_dict`` or ``model``.
        path: the file's, for the message.

    Raises:
        ValueError: if there is none; what the file holds is named.
    """
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(contents, Mapping) and isinstance(contents.get(key), Mapping):
            contents = contents[key]
            break
    if not _is_state_dict(contents):
        raise ValueError(
            f"{path} holds no state dict, neither itself nor under state_dict or model; it holds: {_description(contents)}."
        )
    state = {}
    for key, value in contents.items():
        if value.dtype in _HALF_PRECISION:  # which CPUs compute slowly or not at all
            value = value.float()
        state[key.replace("_orig_mod.", "")] = value  # what torch.compile puts into the keys
    return state


def _is_state_dict(contents: Any) -> bool:
    if not isinstance(contents, Mapping) or not contents:
        return False
    return all(isinstance(value, Tensor) for value in contents.values())


def _description(contents: Any) -> str:
    if not isinstance(contents, Mapping):
        return type(contents).__name__
    keys = [str(key) for key in contents]
    return ", ".join(keys[:6]) or "nothing"


def fit_weights(model: nn.Module, state: StateDict, path: str | Path) -> str:
    """Load a state dict, without a common prefix of its keys where that makes it fit; the prefix is returned.

    Keys outside the prefix (a loss, a metric beside the network) are left aside.

    Raises:
        ValueError: if keys are missing, unknown or of another shape; they are named.
    """
    expected = model.state_dict()
    prefix, state = strip_prefix(state, expected)
    misshapen = _misshapen(state, expected)
    if misshapen:  # load_state_dict raises at these before it tells of the others
        missing = [key for key in expected if key not in state]
        unknown = [key for key in state if key not in expected]
    else:
        missing, unknown = model.load_state_dict(state, strict=False)
    if not (misshapen or missing or unknown):
        return prefix
    shapes = [f"{key} {_shape(state[key])} in the file, {_shape(expected[key])} in the model" for key in misshapen]
    problems = [
        *_problem("missing", missing),
        *_problem("of another shape", shapes),
        *_problem("unknown", unknown),
    ]
    raise ValueError(f"The weights {path} do not fit {type(model).__name__}, keys: {'; '.join(problems)}.")


def _misshapen(state: StateDict, expected: StateDict) -> list[str]:
    return [key for key in expected if key in state and state[key].shape != expected[key].shape]


def _problem(title: str, keys: list[str], limit: int = 3) -> list[str]:
    """What is wrong with some keys, the first of them named; nothing where there are none."""
    if not keys:
        return []
    listed = ", ".join(keys[:limit])
    if len(keys) > limit:
        listed += ", ..."
    return [f"{len(keys)} {title} ({listed})"]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def strip_prefix(state: StateDict, expected: StateDict) -> tuple[str, StateDict]:
    """Cut off the prefix without which most keys are the model's, and leave out the keys that lack it.

    The prefix is ``""`` where none does better.
    """
    prefixes = [""]
    for key in state:
        prefixes += [key[: dot.end()] for dot in re.finditer(r"\.", key)]
    stripped = {prefix: _without(prefix, state) for prefix in dict.fromkeys(prefixes)}
    # the first of equals, which is no prefix at all where the keys fit as they are
    best = max(stripped, key=lambda prefix: len(stripped[prefix].keys() & expected.keys()))
    return best, stripped[best]


def _without(prefix: str, state: StateDict) -> StateDict:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def count_classes(state: StateDict, expected: StateDict) -> int | None:
    """The number of classes of weights that fit a model but for that; None if they fit, or fit not even so."""
    # torchvision registers a model's head last; an auxiliary head is as wide as that one
    head = list(expected.values())[-1].shape
    counts: set[int] = set()
    for key in _misshapen(state, expected):
        shape = state[key].shape
        model_shape = expected[key].shape
        if shape[1:] != model_shape[1:] or model_shape[:1] != head[:1]:
            return None
        counts.update(shape[:1])
    if len(counts) != 1:
        return None
    return counts.pop()


def brief(error: Exception, limit: int = 300) -> str:
    """An error as one sentence: its type and the beginning of its message."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
    if len(text) > limit:
        text = text[:limit] + " ..."
    return text + "."
