"""Whatever a user may write for a target, as one: names, class ids, tensors, callables and lists. b batch, t targets."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_cam.registry import TARGETS
from lightning_cam.targets.logits import choice_of_classes, class_logits, logits_of_classes, out_of_range
from lightning_cam.targets.target import Choice, Target, choose_at, masked_score, with_target_axis

_FADES = (
    "The map of a probability is scaled by p (1 - p), so it fades as the model gets better. "
    "Use 'log_probability', or the full name 'softmax_probability' if that is what you want."
)


def find(spec: Any) -> Target:
    """The target that a name, a class id, a tensor of class ids, a callable, a target, or a list of these stands for.

    Args:
        spec: a name of ``lightning_cam.targets.names()``, with options as ``{name: {option: value}}``; an import path; a class
            for all samples; classes [b], or [b t] with -1 where a sample has fewer; a callable ``(output, label)`` that gives
            classes or scores, [b] or [b t]; an object with ``choose`` and ``score``.

    Raises:
        ValueError: for a name nobody knows, an empty list, or a probability, unless asked for by its full name.
        TypeError: for anything else.

    Example:
        >>> find(3).choose(torch.zeros(2, 5), None, None).classes.tolist()
        [[3], [3]]
    """
    # to Python True is an int, but it is no class 1
    if isinstance(spec, bool):
        raise TypeError(f"A target is a name, a class id, a callable or a list of these; got {spec!r}.")
    if isinstance(spec, int):
        return FixedClasses(torch.tensor(spec))
    if isinstance(spec, Tensor):
        if spec.is_floating_point() or spec.ndim > 2:
            got = f"{tuple(spec.shape)} of {spec.dtype}"
            raise TypeError(f"Target classes are an integer tensor [b] or [b t]; got {got}.")
        return FixedClasses(spec)
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        if not spec:
            raise ValueError("The list of targets is empty; expected names, class ids or callables.")
        return TargetList.of([find(item) for item in spec])
    # a class of targets has both methods too
    if isinstance(spec, Target) and not inspect.isclass(spec):
        return spec
    _refuse_probability(spec)
    entry = TARGETS.find(spec)
    function = entry.function
    # a function of options only makes a target, it is none
    if not _takes_output(function):
        function = function()
    if isinstance(function, Target):
        return function
    return FunctionTarget(function, entry.facts.get("reads", "output"))


@dataclass(frozen=True, eq=False)
class FixedClasses:
    """The same classes at every look: one for all samples (a 0-d tensor), one a sample [b], or several a sample [b t]."""

    classes: Int[Tensor, "*b"]
    reads = "logits"

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """The classes, once for each sample."""
        b, k = class_logits(output).shape
        self._refuse_other_than(b)
        # in rows of several, -1 says that there is no target
        if self.classes.numel() and self.classes.ndim < 2:
            lowest = int(self.classes.min())
            if lowest < 0:
                raise ValueError(out_of_range(lowest, k))
        classes = self.classes.to(output.device).long()
        if not classes.ndim:
            classes = classes.expand(b)
        return choice_of_classes(classes, output)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """Their logits."""
        return logits_of_classes(output, choice.classes)

    def for_part(self, samples: slice, count: int, labels: Tensor | None) -> "FixedClasses":
        """The classes of some of the samples."""
        self._refuse_other_than(count)
        if not self.classes.ndim:
            return self
        return FixedClasses(self.classes[samples])

    def _refuse_other_than(self, b: int) -> None:
        if self.classes.ndim and len(self.classes) != b:
            raise ValueError(f"{len(self.classes)} target classes were given for {b} samples; expected one a sample.")


@dataclass(frozen=True, eq=False)
class FunctionTarget:
    """A plain callable ``(output, label)`` that gives class ids, whose logits are explained, or scores; [b] or [b t].

    Attributes:
        function: the callable.
        reads: whether it is given the ``output`` as it is, or where that is probabilities the ``logits`` in front of them.
    """

    function: Callable[..., Any]
    reads: str = "output"

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """The classes; for scores what is needed to ask again."""
        answer = _numbers(self.function(output, label))
        if answer.is_floating_point():
            # scores are asked for at every changed output, so the label has to stay
            return Choice((label,), single=answer.ndim == 1)
        return choice_of_classes(answer, output)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """The classes' logits, or the callable's scores."""
        if choice.logit:
            return logits_of_classes(output, choice.classes)
        (label,) = choice.parts
        return with_target_axis(_numbers(self.function(output, label)))


@dataclass(frozen=True, eq=False)
class TargetList:
    """Targets side by side, along the target axis."""

    targets: tuple[Target, ...]
    reads = "each"  # for itself

    @classmethod
    def of(cls, targets: Sequence[Target]) -> "TargetList":
        """One list, of targets and of the targets of lists among them."""
        flat: list[Target] = []
        for target in targets:
            flat.extend(members(target))
        return cls(tuple(flat))

    def prepare(self, model: nn.Module) -> None:
        """Let those that ask the model for more than its output do so."""
        for target in self.targets:
            if hasattr(target, "prepare"):
                target.prepare(model)

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """Every target's choice."""
        choices = [choose_at(target, output, label, head) for target in self.targets]
        widths = []
        for target, choice in zip(self.targets, choices, strict=True):
            widths.append(_width(target, output, choice))
        return Choice(
            parts=tuple(choices),
            classes=_side_by_side([choice.classes for choice in choices], widths, -1),
            absent=_side_by_side([choice.absent for choice in choices], widths, False),
            logit=all(choice.logit for choice in choices),
            single=False,
            placed=any(choice.placed for choice in choices),
            note="; ".join(dict.fromkeys(choice.note for choice in choices if choice.note)),
            lost=_side_by_side([choice.lost for choice in choices], widths, False),
            probability=_side_by_side([choice.probability for choice in choices], widths, torch.nan),
            names=_names(choices, widths),
            log_odds=all(choice.log_odds for choice in choices),
        )

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """Every target's scores."""
        scores = []
        for target, part in zip(self.targets, choice.parts, strict=True):
            scores.append(masked_score(target, output, part))
        return torch.cat(scores, 1)


def members(target: Target) -> tuple[Target, ...]:
    """The targets of a list; of any other target itself."""
    if isinstance(target, TargetList):
        return target.targets
    return (target,)


def _numbers(answer: Any) -> Tensor:
    """What a callable gave, if it is a number a sample or several."""
    if isinstance(answer, Tensor) and answer.ndim in (1, 2):
        return answer
    shape = type(answer).__name__
    if isinstance(answer, Tensor):
        shape = str(tuple(answer.shape))
    raise ValueError(f"A target gives one number a sample, shape [b] or [b t]; got {shape}.")


def _width(target: Target, output: Any, choice: Choice) -> int:
    """How many numbers a sample a target gives."""
    if choice.single:
        return 1
    if choice.classes is not None:
        return choice.classes.shape[1]
    # nothing but the scores themselves can tell
    return masked_score(target, output, choice).shape[1]


def _side_by_side(parts: Sequence[Tensor | None], widths: Sequence[int], missing: int | float) -> Tensor | None:
    """Columns of every target, those of a target that has none filled up; None where no target has any."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    blank = known[0].new_full((len(known[0]), 1), missing)
    columns = []
    for part, width in zip(parts, widths, strict=True):
        column = part
        if column is None:
            column = blank.expand(-1, width)
        columns.append(column)
    return torch.cat(columns, 1)


def _names(choices: Sequence[Choice], widths: Sequence[int]) -> tuple[str, ...]:
    """The names of every target, by number where one has none; none where no target has any."""
    if not any(choice.names for choice in choices):
        return ()
    names: list[str] = []
    for choice, width in zip(choices, widths, strict=True):
        names.extend(choice.names or [f"target {len(names) + i}" for i in range(width)])
    return tuple(names)


def _refuse_probability(spec: Any) -> None:
    name = spec
    if isinstance(spec, Mapping) and len(spec) == 1:
        (name,) = spec
    if name in ("probability", "softmax", "prob"):
        raise ValueError(f"The target {name!r} is refused. {_FADES}")


def _takes_output(function: Callable[..., Any]) -> bool:
    """Whether a function is to be given the output: whether it has parameters that are no options."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # a builtin may have no signature
        return True
    return any(p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters)
