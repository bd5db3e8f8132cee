"""Which number is explained. b batch, k class, t targets.

A target is a function ``(logits [b k], label [b] or None) -> classes or scores``: integers of shape [b] or [b t] are
class ids, whose logits are explained; floating values of shape [b] or [b t] are explained as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.family import TARGETS

Target = Callable[[Any, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class Aim:
    """The numbers explained: a score a sample and target, and its class where it is a class's logit."""

    score: Float[Tensor, "b t"]
    classes: Int[Tensor, "b t"] | None
    single: bool  # one target was asked for, so results carry no target axis


@TARGETS.register
def label(logits: Tensor, label: Tensor | None) -> Int[Tensor, "b"]:
    """The labelled class: the same class at every look, so curves and pictures stay comparable."""
    if label is None:
        raise ValueError(
            "The target 'label' needs labels and there are none: say where the batch holds them with Batch(label=...), "
            "or choose target='predicted', or a class id."
        )
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim != 1 or label.is_floating_point():
        raise ValueError(
            f"The target 'label' needs one integer class a sample, shape [b]; got {tuple(label.shape)} of {label.dtype}. "
            "For other labels pass a callable (logits, label) -> class ids or scores."
        )
    return label


@TARGETS.register
def predicted(logits: Tensor, label: Tensor | None) -> Int[Tensor, "b"]:
    """The class of the largest logit; it may change from look to look."""
    return logits.argmax(1)


@TARGETS.register
def top_k(logits: Tensor, label: Tensor | None, *, k: int = 5) -> Int[Tensor, "b t"]:
    """The k classes of the largest logits, best first."""
    return logits.topk(min(k, logits.shape[1]), dim=1).indices


def fixed(classes: Tensor) -> Target:
    """One class for all samples (a 0-d tensor), or one a sample (shape [b])."""

    def fixed(logits: Tensor, label: Tensor | None) -> Int[Tensor, "b"]:
        if classes.ndim and len(classes) != len(logits):
            raise ValueError(f"{len(classes)} target classes were given for {len(logits)} samples; expected one a sample.")
        return classes.to(logits.device).long().expand(len(logits))

    return fixed


def find(spec: Any) -> Target:
    """Resolve a target: a name, a class id, class ids one a sample (a tensor), a callable, or a list of these."""
    if isinstance(spec, bool):
        raise TypeError(f"A target is a name, a class id, a callable or a list of these; got {spec!r}.")
    if isinstance(spec, int):
        return fixed(torch.tensor(spec))
    if isinstance(spec, Tensor):
        if spec.is_floating_point() or spec.ndim > 1:
            raise TypeError(f"Target classes are an integer tensor [b]; got {tuple(spec.shape)} of {spec.dtype}.")
        return fixed(spec)
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        if not spec:
            raise ValueError("The list of targets is empty; expected names, class ids or callables.")
        return _several([find(one) for one in spec])
    return TARGETS.find(spec).function


def aim(target: Target, logits: Any, label: Tensor | None) -> Aim:
    """Apply a target to a model's output and check what it gives.

    Raises:
        ValueError: for a class out of range, a wrong shape, or an output in which no class can be chosen.
    """
    chosen = target(logits, label)
    if not isinstance(chosen, Tensor) or chosen.ndim not in (1, 2):
        shape = tuple(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__
        raise ValueError(f"A target gives one number a sample, shape [b] or [b t]; got {shape}.")
    wide = chosen[:, None] if chosen.ndim == 1 else chosen
    if wide.is_floating_point():
        return Aim(wide, None, chosen.ndim == 1)
    return Aim(_logits_of(wide.to(logits.device), logits), wide, chosen.ndim == 1)


def _logits_of(classes: Int[Tensor, "b t"], logits: Tensor) -> Float[Tensor, "b t"]:
    if logits.ndim != 2:
        raise ValueError(
            f"Classes can be chosen from logits of shape [b k]; the model gave {tuple(logits.shape)}. "
            "Pass a callable target (output, label) -> scores [b], or name the logits with output=..."
        )
    b, k = logits.shape
    if len(classes) != b:
        raise ValueError(f"The target gave {len(classes)} classes for {b} samples; expected one a sample.")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= k:
        wrong = low if low < 0 else high
        raise ValueError(f"Class {wrong} is out of range: the model has {k} outputs, so classes are 0 to {k - 1}.")
    return logits.gather(1, classes)


def _several(targets: list[Target]) -> Target:
    def several(logits: Any, label: Tensor | None) -> Tensor:
        chosen = [target(logits, label) for target in targets]
        wide = [one[:, None] if one.ndim == 1 else one for one in chosen]
        if any(one.is_floating_point() for one in wide):  # a class and a free score can stand side by side
            wide = [one if one.is_floating_point() else _logits_of(one, logits) for one in wide]
        return torch.cat(wide, 1)

    return several
