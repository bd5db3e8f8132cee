"""Which number is explained: what a target is, and how it is applied to a model's output. b batch, k class, t targets.

A target is a function ``(output, label [b ...] or None)`` that gives one of these, by sample or by sample and target:

- integers [b] or [b t]: class ids, whose logits are explained; -1 says that the sample has no such target;
- floating values [b] or [b t]: scores, explained as they are;
- ``Pinned``: a score of choices that were made at this output (classes, a region, a reference), which changed samples keep.

A target with a parameter ``weight`` is also given the classifier's weights [k c], or None where it is no one linear layer.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.logits import class_logits, logits_of, out_of_range

Target = Callable[..., Any]

_FADES = (
    "The map of a probability is scaled by p (1 - p), so it fades as the model gets better. Use 'log_probability', or the full "
    "name 'softmax_probability' if that is what you want."
)


@dataclass(frozen=True, eq=False)
class Pinned:
    """A score with its choices made, so that a changed sample is scored by what the unchanged one chose.

    Attributes:
        score: ``(output, *choices) -> scores`` [b] or [b t]; for n changes of one sample its choices come n times.
        choices: tensors of one row a sample.
        classes: the classes told beside the score, of its shape.
        absent: where a sample has no such target, of its shape.
        placed: the choices are places of the picture, such as a box or a region, so it may not be mirrored or cut.
    """

    score: Callable[..., Float[Tensor, "b *t"]]
    choices: tuple[Shaped[Tensor, "b ..."], ...] = ()
    classes: Int[Tensor, "b *t"] | None = None
    absent: Bool[Tensor, "b *t"] | None = None
    placed: bool = False


@dataclass(frozen=True, eq=False)
class TargetScores:
    """The numbers explained: a score a sample and target, and its class where it is a class's logit.

    Attributes:
        score: the numbers; NaN where a sample has no such target.
        classes: the classes, where all scores are logits of classes; -1 where a sample has no such target.
        single: one target was asked for, so results carry no target axis.
        named: the classes to tell beside the scores, also where these are no logits; -1 for none.
        absent: where a sample has no such target; None where all have theirs.
        placed: what is explained is at a place of the picture.
        again: ``(output, samples, n) -> Aim``: the same numbers of the same choices at another output of n samples: those of
            a slice of the batch, or changes of the one that the slice holds.
    """

    score: Float[Tensor, "b t"]
    classes: Int[Tensor, "b t"] | None
    single: bool
    named: Int[Tensor, "b t"] | None = None
    absent: Bool[Tensor, "b t"] | None = None
    placed: bool = False
    again: Callable[[Any, slice, int], "TargetScores"] | None = None


def find(spec: Any) -> Target:
    """Resolve a target: a name, a class id, a tensor of class ids, [b] or [b t], a callable, or a list of these."""
    if isinstance(spec, bool):
        raise TypeError(f"A target is a name, a class id, a callable or a list of these; got {spec!r}.")
    if isinstance(spec, int):
        return fixed(torch.tensor(spec))
    if isinstance(spec, Tensor):
        if spec.is_floating_point() or spec.ndim > 2:
            raise TypeError(f"Target classes are an integer tensor [b] or [b t]; got {tuple(spec.shape)} of {spec.dtype}.")
        return fixed(spec)
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        if not spec:
            raise ValueError("The list of targets is empty; expected names, class ids or callables.")
        return Several([find(one) for one in spec])
    name = next(iter(spec)) if isinstance(spec, Mapping) and len(spec) == 1 else spec
    if name in ("probability", "softmax", "prob"):
        raise ValueError(f"The target {name!r} is refused. {_FADES}")
    function: Target = TARGETS.find(spec).function
    return function if _given(function) else function()  # a function that is given nothing makes a target


def fixed(classes: Tensor) -> Target:
    """One class for all samples (a 0-d tensor), one a sample [b], or several a sample [b t], where -1 fills a row up."""
    lowest = int(classes.min()) if classes.numel() else 0

    def fixed(logits: Any, label: Tensor | None) -> Int[Tensor, "b *t"]:
        b, k = tuple(class_logits(logits).shape)
        if classes.ndim and len(classes) != b:
            raise ValueError(f"{len(classes)} target classes were given for {b} samples; expected one a sample.")
        if lowest < 0 and classes.ndim < 2:  # elsewhere -1 says that there is no target
            raise ValueError(out_of_range(lowest, k))
        same: Tensor = classes.to(logits.device).long()
        return same if classes.ndim else same.expand(b)

    return fixed


class Several:
    """Targets side by side."""

    def __init__(self, targets: list[Target]) -> None:
        self.targets: list[Target] = [
            one for each in targets for one in (each.targets if isinstance(each, Several) else [each])
        ]

    def __call__(self, output: Any, label: Tensor | None, weight: Tensor | None = None) -> list[Any]:
        """Every target's answer."""
        return [ask(target, output, label, lambda: weight) for target in self.targets]


class Held:
    """What was aimed at before, with its choices: for other images of the same samples."""

    def __init__(self, aim: TargetScores) -> None:
        self.aim = aim

    def __call__(self, output: Any, label: Tensor | None) -> Tensor:
        """The same scores at another output."""
        return aim(self, output, label).score


def ask(target: Target, output: Any, label: Tensor | None, weight: Callable[[], Tensor | None]) -> Any:
    """A target's answer; the classifier is looked for only where its weights are wanted."""
    return target(output, label, weight=weight()) if "weight" in _given(target) else target(output, label)


def _given(function: Target) -> list[str]:
    """The names under which a function is given something: its parameters that are no options."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins may tell no signature
        return ["output", "label"]
    return [p.name for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]


def aim(target: Target, output: Any, label: Tensor | None, weight: Callable[[], Tensor | None] = lambda: None) -> TargetScores:
    """Apply a target to a model's output and check what it gives.

    Raises:
        ValueError: for a class out of range, a wrong shape, or an output in which no class can be chosen.
    """
    if isinstance(target, Held) and target.aim.again:
        return target.aim.again(output, slice(None), len(target.aim.score))
    if not isinstance(target, Several):
        return _aim(target, ask(target, output, label, weight), output, label)
    given = [(one, ask(one, output, label, weight)) for one in target.targets]
    return _side_by_side([_aim(one, answer, output, label) for one, answer in given])


def _aim(target: Target, given: Any, output: Any, label: Tensor | None) -> TargetScores:
    """What one target gave, as numbers, and how the same is asked of another output."""

    def again(other: Any, samples: slice, n: int) -> TargetScores:
        def rows(tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor[samples].expand(n, *tensor.shape[1:])

        if isinstance(given, Pinned):
            same = replace(
                given, choices=tuple(map(rows, given.choices)), classes=rows(given.classes), absent=rows(given.absent)
            )
            return _aim(target, same, other, rows(label))
        held = rows(given) if not given.is_floating_point() else ask(target, other, rows(label), lambda: None)
        return _aim(target, held, other, rows(label))

    if isinstance(given, Pinned):
        free = _checked(given.score(output, *given.choices))
        absent = None if given.absent is None else _wide(given.absent)
        score = _wide(free) if absent is None else _wide(free).masked_fill(absent, torch.nan)
        named = None if given.classes is None else _wide(given.classes)
        return TargetScores(score, None, free.ndim == 1, named, absent, given.placed, again)
    one = _checked(given)
    if one.is_floating_point():
        return TargetScores(_wide(one), None, one.ndim == 1, again=again)
    classes = _wide(one).to(output.device if isinstance(output, Tensor) else one.device)
    score, lacking = logits_of(classes, output)
    return TargetScores(score, classes, one.ndim == 1, classes, lacking, again=again)


def _checked(given: Any) -> Tensor:
    if not isinstance(given, Tensor) or given.ndim not in (1, 2):
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"A target gives one number a sample, shape [b] or [b t]; got {shape}.")
    return given


def _wide(tensor: Tensor) -> Tensor:
    return tensor[:, None] if tensor.ndim == 1 else tensor


def _side_by_side(aims: list[TargetScores]) -> TargetScores:
    def again(other: Any, samples: slice, n: int) -> TargetScores:
        return _side_by_side([one.again(other, samples, n) for one in aims if one.again])

    def joined(parts: list[Tensor | None], missing: int) -> Tensor | None:
        if all(part is None for part in parts):
            return None
        blank = [torch.full_like(one.score, missing).long() if p is None else p for one, p in zip(aims, parts, strict=True)]
        return torch.cat(blank, 1)

    classes, absent = [one.classes for one in aims], joined([one.absent for one in aims], 0)
    return TargetScores(
        score=torch.cat([one.score for one in aims], 1),
        classes=None if any(one is None for one in classes) else joined(classes, -1),
        single=False,
        named=joined([one.named for one in aims], -1),
        absent=None if absent is None else absent.bool(),
        placed=any(one.placed for one in aims),
        again=again,
    )
