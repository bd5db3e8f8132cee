"""What a target is: two functions that say which number is explained. b batch, k class, t targets, n changed samples.

``choose`` is asked once, at the output of the unchanged samples; ``score`` at any output, so that a changed sample is scored by
what the unchanged one chose.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.model.probabilities import Reading


@dataclass(frozen=True, eq=False)
class Choice:
    """What a target chose at the output of the unchanged samples.

    Attributes:
        parts: what ``score`` needs to know, a row a sample: tensors, None, or the choices of several targets.
        classes: the classes told beside the scores, -1 for none; None where the scores are of no classes.
        absent: where a sample has no such target, so that its score is NaN; None where all have theirs.
        logit: whether the scores are the logits of the classes.
        single: whether one target was asked for, so that results carry no target axis.
        placed: whether a place of the picture was chosen, such as a box, so that it may not be mirrored or cut.
        note: what was chosen for want of what the target asks for, in words to be told once; empty where it had that.
        lost: where a sample had this target and has it no longer, such as a box that is found no more: absent, and told.
        probability: of the classes told, where the output alone does not tell it.
        names: the targets' own names, such as prompts; none where they are of classes.
        log_odds: whether a sigmoid of each score is the probability of what is explained.
    """

    parts: tuple[Any, ...] = ()
    classes: Int[Tensor, "b t"] | None = None
    absent: Bool[Tensor, "b t"] | None = None
    logit: bool = False
    single: bool = True
    placed: bool = False
    note: str = ""
    lost: Bool[Tensor, "b t"] | None = None
    probability: Float[Tensor, "b t"] | None = None
    names: tuple[str, ...] = ()
    log_odds: bool = False

    def rows(self, samples: slice, n: int) -> "Choice":
        """The choices for a slice of the batch, or n times those for the sample that the slice holds."""
        return replace(
            self,
            parts=tuple(_rows(part, samples, n) for part in self.parts),
            classes=_rows(self.classes, samples, n),
            absent=_rows(self.absent, samples, n),
            # told of the unchanged samples only
            lost=None,
            probability=None,
        )


@runtime_checkable
class Target(Protocol):
    """Which number is explained.

    One that asks the model for more than its output, such as a text's embedding, has a method ``prepare(model)`` too, called
    within every look before the forward, without gradient.

    Where a model's output is probabilities, one that says ``reads = "logits"`` is given the logits in front of them, any other
    the output as it is; the logits are explained of what is chosen as ``Choice(logit=True)``.
    """

    def choose(self, output: Any, label: Tensor | None, head: Float[Tensor, "k c"] | None) -> Choice:
        """What is explained of these samples.

        Args:
            output: the model's output for the unchanged samples.
            label: their labels.
            head: the classifier's weights, where it is one linear layer or 1x1 convolution.
        """

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """The numbers explained, at any output, by what was chosen."""


@dataclass(frozen=True, eq=False)
class TargetScores:
    """The numbers explained, NaN where a sample has no such target, and what they are of."""

    score: Float[Tensor, "b t"]
    choice: Choice
    target: Target

    def of_output(self, output: Any, samples: slice, n: int) -> Float[Tensor, "n t"]:
        """The same numbers at the output of n changes of the samples in a slice of the batch."""
        return masked_score(self.target, output, self.choice.rows(samples, n))

    @property
    def of_logits(self) -> bool:
        """Whether the logits are explained, where the model's output is probabilities."""
        return reads_logits(self.target, self.choice)


def score_output(
    target: Target,
    output: Any,
    label: Tensor | None,
    head: Float[Tensor, "k c"] | None,
    choice: Choice | None = None,
) -> TargetScores:
    """The numbers explained at an output, or a reading of one, of what was chosen before or is chosen now."""
    if choice is None:
        choice = choose_at(target, output, label, head)
    return TargetScores(masked_score(target, output, choice), choice, target)


def choose_at(target: Target, output: Any, label: Tensor | None, head: Float[Tensor, "k c"] | None) -> Choice:
    """What a target chooses at an output, or at what it reads of one."""
    return target.choose(_as_read(target, output, None), label, head)


def masked_score(target: Target, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
    """A target's scores at an output, or at what it reads of one; NaN where a sample has no such target."""
    score = target.score(_as_read(target, output, choice), choice)
    if choice.absent is None:
        return score
    # no number rather than 0, which would be a score like any other
    return score.masked_fill(choice.absent, torch.nan)


def reads_logits(target: Target, choice: Choice | None = None) -> bool:
    """Whether a target, or any of several, is about the logits of classes rather than about the output as it is."""
    if choice is not None and choice.logit:
        return True
    if choice is not None and _reads(target) == "each":
        targets: Any = target
        return any(map(reads_logits, targets.targets, choice.parts))
    return _reads(target) == "logits"


def _as_read(target: Target, output: Any, choice: Choice | None) -> Any:
    reading = Reading.of(output)
    if _reads(target) == "each":
        return reading
    return reading.logits if reads_logits(target, choice) else reading.output


def _reads(target: Target) -> str:
    reads: str = getattr(target, "reads", "output")
    return reads


def with_target_axis(values: Tensor) -> Tensor:
    """One number a sample as a column."""
    if values.ndim == 1:
        return values[:, None]
    return values


def _rows(part: Any, samples: slice, n: int) -> Any:
    if part is None:
        return None
    if isinstance(part, Choice):
        return part.rows(samples, n)
    # a view: n changes of a sample share its row
    return part[samples].expand(n, *part.shape[1:])
