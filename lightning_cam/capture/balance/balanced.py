"""A forward run once more with a balanced backward. b batch, t targets."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack

from lightning_cam.capture.attention import near_scores
from lightning_cam.capture.attention_recorder import AttentionRecorder
from lightning_cam.capture.balance.function_mode import BalancingMode
from lightning_cam.model.names import modules_by_name
from lightning_cam.targets.adapters import members
from lightning_cam.targets.target import Choice, Target


@dataclass(frozen=True, eq=False)
class BalancedTarget:
    """A target whose score is balanced as the model is.

    Attributes:
        target: what chooses and scores.
        mode: which meets what the score calls.
    """

    target: Target
    mode: BalancingMode

    @property
    def reads(self) -> str:
        """What of an output the target is given."""
        return getattr(self.target, "reads", "output")

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets of a list."""
        return members(self.target)

    def choose(self, output: Any, label: Tensor | None, head: Float[Tensor, "k c"] | None) -> Choice:
        """As the target does."""
        return self.target.choose(output, label, head)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """As the target does."""
        with self.mode:
            return self.target.score(output, choice)


def balance(forward: Any) -> Any:
    """The same look, run once more such that what reaches a layer, with the biases behind it, adds up to the score.

    ``sum A dS/dA + sum_b b dS/db = S`` at every layer; the values of the forward are the same. All that is run anew of the look
    returned, with other images or activations, is balanced too.

    Args:
        forward: a Forward, whose file imports this one.

    Raises:
        ValueError: if attention is recorded meanwhile, or part of the model would be run anew in the backward. A function
            without a rule is refused by the backward that meets it.
        RuntimeError: if the model did not give the same scores as before.
    """
    scores = forward.target_scores
    if isinstance(scores.target, BalancedTarget):
        return forward
    session = forward.session
    names = {module: name for name, module in modules_by_name(session.model).items()}
    mode = BalancingMode(names)

    @contextmanager
    def context() -> Iterator[None]:
        if any(isinstance(other, AttentionRecorder) for other in _get_current_function_mode_stack()):
            raise ValueError(
                "libra holds attention constant, so a method that reads attention or its gradient has nothing to gain of it. "
                'Use it without libra, such as method="attention_relevance", or libra with a method that reads the gradient '
                'at a layer: method={"libra": {"method": "grad_cam"}}.'
            )
        with session.context(), mode.running():
            yield

    target = BalancedTarget(scores.target, mode)
    unbalanced = replace(forward, scores=replace(scores, target=target))
    balanced = replace(session, context=context).forward_again(unbalanced, forward.images)
    score = balanced.target_scores.score
    if not near_scores(score.detach(), scores.score.detach()):
        raise RuntimeError(
            "The model gave other scores in a second forward of the same images, so its balanced gradient would not explain "
            "the first: a random step in evaluation mode."
        )
    return balanced
