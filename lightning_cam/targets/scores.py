"""Targets that are scores of chosen classes, or of one output. b batch, k class, t targets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.model.probabilities import without_rounding
from lightning_cam.registry import TARGETS
from lightning_cam.targets.classes import choose_classes
from lightning_cam.targets.logits import describe_labels, describe_output
from lightning_cam.targets.target import Choice, Target


@TARGETS.register
def log_probability(*, classes: Any = None) -> Target:
    """Log-softmax of a class: ``S_c - log sum_j exp S_j``; what speaks for it rather than for all others.

    Its gradient is that of the probability divided by p_c, so it is contrastive and does not fade as p_c nears 1 by p_c.

    Args:
        classes: the class: any target that chooses some; by default the label where there are labels, else the predicted class.

    Raises:
        ValueError: at a single logit.
    """
    return ClassScore("log_probability", _log_softmax, classes)


@TARGETS.register
def softmax_probability(*, classes: Any = None) -> Target:
    """Softmax of a class, ``p_c``: the map of log_probability scaled by p_c, which fades as the model gets better.

    Args:
        classes: the class, as for log_probability.

    Raises:
        ValueError: at a single logit.
    """
    return ClassScore("softmax_probability", _softmax, classes)


@TARGETS.register
def counterfactual(*, classes: Any = None) -> Target:
    """Evidence against a class, ``-S_c``: the places whose absence would raise its logit.

    Source: Selvaraju et al. 2017, section 3.3, arXiv 1610.02391.

    Args:
        classes: the class, as for log_probability.
    """
    return ClassScore("counterfactual", torch.neg, classes, least_classes=1)


@TARGETS.register
def binary() -> Target:
    """A single logit, signed by its label: ``S`` for 1, ``-S`` for 0; without labels by its own sign.

    Labels are 0 or 1 (or -1 or 1), of any type.

    Raises:
        ValueError: for more than one logit a sample.
    """
    return SignedLogit()


@TARGETS.register
def value(*, index: int = 0, reference: float | Literal["label"] = 0.0) -> Target:
    """A regression's number, signed, less a reference: ``y - reference``. Places of positive heat raise it.

    The reference moves the score and not the map of a gradient; a method that weighs by the score does feel it.

    Args:
        index: which of k numbers.
        reference: a number, or ``label`` for the error.

    Raises:
        ValueError: for an output of another shape, or labels that do not fit it.
    """
    return RegressionValue(index, reference)


@dataclass(frozen=True, eq=False)
class ClassScore:
    """A function of the logits, [b k] -> [b k], at chosen classes."""

    name: str
    function: Callable[[Tensor], Tensor]
    classes: Any
    least_classes: int = 2
    reads = "logits"

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """The classes."""
        if self.least_classes > 1:
            require_several(output, self.name)
        return choose_classes(self.classes, output, label)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """The function at the classes."""
        return at_classes(self.function(output), choice.classes)


@dataclass(frozen=True, eq=False)
class SignedLogit:
    """A single logit, signed by its label, or without labels by its own sign."""

    reads = "logits"

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """The sign."""
        single = isinstance(output, Tensor) and output.numel() == len(output)
        if not single or (label is not None and label.numel() != len(output)):
            labels = ""
            if label is not None:
                labels = f" and labels {tuple(label.shape)}"
            raise ValueError(
                f"The target 'binary' needs one logit a sample, [b] or [b 1]; got {describe_output(output)}{labels}. "
                "Use 'label' or 'positives'."
            )
        # the sign is chosen once: a changed image may cross zero and is scored for the same side
        if label is None:
            positive = output.detach().flatten() > 0
        else:
            positive = label.to(output.device).flatten() > 0.5
        sign = positive.to(output.dtype) * 2 - 1
        return Choice((sign,), log_odds=True)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b 1"]:
        """The signed logit."""
        (sign,) = choice.parts
        signed: Tensor = output.flatten() * sign
        return signed[:, None]


@dataclass(frozen=True, eq=False)
class RegressionValue:
    """One of k numbers, less a reference."""

    index: int
    reference: float | Literal["label"]

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """The reference of each sample."""
        values = self._values(output)
        if self.reference != "label":
            return Choice((torch.full_like(values, self.reference).detach(),))
        if label is None or label.numel() not in (len(values), output.numel()):
            raise ValueError(
                f"value(reference='label') needs a label for each number {tuple(output.shape)}; got {describe_labels(label)}."
            )
        labels = label.to(values.device).reshape(len(values), -1)
        # labels of one number a sample are those of the number explained
        column = 0
        if labels.shape[1] > 1:
            column = self.index
        return Choice((labels[:, column],))

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b 1"]:
        """``y - reference``."""
        (reference,) = choice.parts
        difference: Tensor = self._values(output) - reference
        return difference[:, None]

    def _values(self, output: Any) -> Float[Tensor, "b"]:
        if not isinstance(output, Tensor) or output.ndim not in (1, 2) or not 0 <= self.index < output[0].numel():
            raise ValueError(
                f"The target 'value' needs numbers [b] or [b k] with k above {self.index}; "
                f"the model gave {describe_output(output)}."
            )
        if output.ndim == 1:
            return output
        return output[:, self.index]


def _log_softmax(z: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    log_p = z.log_softmax(1)
    return without_rounding(log_p, log_p.exp())


def _softmax(z: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    p = z.softmax(1)
    return without_rounding(p, p)


def require_several(logits: Any, name: str) -> None:
    """Raise ValueError where there is one logit only."""
    if isinstance(logits, Tensor) and logits[0].numel() == 1:
        raise ValueError(f"The target {name!r} needs several classes; the model gave {tuple(logits.shape)}. Use 'binary'.")


def at_classes(scores: Float[Tensor, "b k"], classes: Int[Tensor, "b *t"] | None) -> Float[Tensor, "b *t"]:
    """Scores at classes; where a class is -1, any."""
    assert classes is not None
    columns = classes.clamp(min=0).reshape(len(scores), -1)
    return scores.gather(1, columns).reshape(classes.shape)
