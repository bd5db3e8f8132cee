"""Outputs that are probabilities: the logits in front of them, or what stands for these. b batch, k class, m output map."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.model.names import modules_by_name

Kind = Literal["softmax", "sigmoid"]

_MODULES: dict[type[nn.Module], Kind] = {nn.Softmax: "softmax", nn.Softmax2d: "softmax", nn.Sigmoid: "sigmoid"}
_SLACK = 1e-6  # by which rows of probabilities may miss 1, in single precision or better
# nodes of autograd that only give a tensor another shape or precision
_RESHAPED = ("Squeeze", "Unsqueeze", "View", "UnsafeView", "ReshapeAlias", "Select", "ToCopy", "Alias", "Clone")


@dataclass(frozen=True, eq=False)
class Reading:
    """A model's output, and what of it is explained.

    Attributes:
        output: what the model gave.
        logits: the logits in front of probabilities, or their logarithms; of any other output the output itself.
        kind: what made the probabilities; None where the output is none.
        note: what is said of it; empty where the output is no probabilities.
    """

    output: Any
    logits: Any
    kind: Kind | None = None
    note: str = ""

    @classmethod
    def of(cls, output: Any) -> "Reading":
        """An output as it is; a reading as it is too."""
        if isinstance(output, Reading):
            return output
        return cls(output, output)


@dataclass(frozen=True, eq=False)
class _Rule:
    """How the logits of an output are had; decided once, at the unchanged samples."""

    logits: Callable[[Tensor], Tensor]
    kind: Kind | None = None
    note: str = ""


@dataclass(eq=False)
class OutputReader:
    """Whether a model's outputs are probabilities, and their logits in every run.

    What gives them away is, at the unchanged samples: a softmax over the classes or a sigmoid as the last module, which gave
    the model's output; rows over the classes that are in [0, 1] and sum to 1; or a sigmoid as the last function, as autograd
    recorded it. Numbers that merely happen to lie in [0, 1] are none.

    Attributes:
        given: what softmax and sigmoid modules were given and gave when they last ran.
        names: of these modules.
        rule: how logits are had; None for an output that is none of these.
    """

    given: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    names: dict[nn.Module, str] = field(default_factory=dict)
    rule: _Rule | None = None

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Hooks on the model's softmax and sigmoid modules in; out when the block ends."""
        modules = {module: name for name, module in modules_by_name(model).items()}
        self.names = {module: name for module, name in modules.items() if _kind(module) is not None}
        with ExitStack() as undo:
            undo.callback(self.given.clear)
            for module in self.names:
                undo.callback(module.register_forward_hook(self._keep, with_kwargs=True).remove)
            yield

    def decide(self, output: Any) -> None:
        """Decide, at the output for the unchanged samples, how this and all others are read."""
        self.rule = None
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.ndim:
            return
        self.rule = self._rule_of_module(output) or _rule_of_numbers(output)

    def read(self, output: Any) -> Reading:
        """An output with its logits, by what was decided."""
        if self.rule is None or not isinstance(output, Tensor):
            reading = Reading.of(output)
        else:
            as_told = output
            if self.rule.kind == "softmax":
                as_told = without_rounding(output, output)
            reading = Reading(as_told, self.rule.logits(output), self.rule.kind, self.rule.note)
        self.given.clear()
        return reading

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(given, Tensor) and isinstance(output, Tensor):
            self.given[module] = given, output

    def _rule_of_module(self, output: Tensor) -> _Rule | None:
        for module, (_, gave) in self.given.items():
            kind = _kind(module)
            if kind is None or not _is_same(gave, output) or (kind == "softmax" and not _over_classes(module, gave)):
                continue
            note = f"the model gives probabilities: explained are the logits in front of its {kind} {self.names[module]!r}"
            return _Rule(partial(self._in_front, module), kind, note)
        return None

    def _in_front(self, module: nn.Module, output: Tensor) -> Tensor:
        """What the module was given in the run that gave the output."""
        given, _ = self.given[module]
        return given.reshape(output.shape)


def without_rounding(scores: Float[Tensor, "..."], probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Scores that grow with a class's probability, cut off from all gradient where that is 1 but for rounding.

    The gradient of ``p_c`` and of its logarithm by the logits is a multiple of ``1 - p_c``. Where that is no larger than the
    rounding of its two terms, ``eps (1 + p_c)``, what is computed of it is nothing else.

    Example:
        >>> p = torch.tensor([0.75, 1.0], requires_grad=True)
        >>> without_rounding(p.log(), p).sum().backward()
        >>> p.grad.tolist()
        [1.3333333730697632, 0.0]
    """
    saturated = probability.detach() >= 1 - 2 * torch.finfo(probability.dtype).eps
    return torch.where(saturated, scores.detach(), scores)


def _kind(module: nn.Module) -> Kind | None:
    return next((kind for known, kind in _MODULES.items() if isinstance(module, known)), None)


def _is_same(gave: Tensor, output: Tensor) -> bool:
    """Whether a module's output is the model's, but for sides of one and for precision."""
    if gave is output:
        return True
    if gave.squeeze().shape != output.squeeze().shape or gave.device != output.device:
        return False
    return torch.equal(gave.detach().reshape(output.shape).to(output.dtype), output.detach())


def _over_classes(module: nn.Module, gave: Tensor) -> bool:
    """Whether a softmax ran over several classes, the second side of [b k *m]."""
    dim = -3 if isinstance(module, nn.Softmax2d) else getattr(module, "dim", 1)
    if gave.ndim < 2:
        return False
    # without a side named, torch takes the second of [b k] and [b k h w]
    return gave.shape[1] > 1 and (1 if dim is None else dim % gave.ndim) == 1


def _rule_of_numbers(output: Tensor) -> _Rule | None:
    """What numbers themselves, or their graph, say of a softmax or sigmoid in the model's own forward."""
    hidden = "written in its forward hides its logits; return these, or end the model in"
    if _are_rows(output.detach()):
        note = f"the model gives probabilities: explained is the log-probability, since a softmax {hidden} nn.Softmax"
        return _Rule(_log_probability, "softmax", note)
    if output.ndim > 1 and bool((output.detach() <= 0).all()) and _are_rows(output.detach().exp()):
        return _Rule(lambda output: without_rounding(output, output.exp()))  # log-probabilities, as good as logits
    if _made_by(output, "Sigmoid"):
        note = f"the model gives probabilities: explained are the log-odds, since a sigmoid {hidden} nn.Sigmoid"
        return _Rule(_log_odds, "sigmoid", note)
    return None


def _are_rows(values: Float[Tensor, "b ..."]) -> bool:
    """Whether numbers over the classes of every sample, and every place of it, are in [0, 1] and sum to 1."""
    if values.ndim < 2 or values.shape[1] < 2 or not values.numel():
        return False
    slack = max(_SLACK, torch.finfo(values.dtype).eps)
    sums = values.double().sum(1)
    return bool((values >= 0).all() & (values <= 1 + slack).all() & ((sums - 1).abs() <= slack).all())


def _made_by(output: Tensor, function: str) -> bool:
    """Whether this function of torch gave the output, as far as autograd recorded it."""
    node = output.grad_fn
    while node is not None and node.name().startswith(_RESHAPED) and node.next_functions:
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith(f"{function}Backward")


def _log_probability(p: Float[Tensor, "b k *m"]) -> Float[Tensor, "b k *m"]:
    """``log p``, of a probability of 0 the least there is; in single precision or better."""
    exact = p.to(torch.promote_types(p.dtype, torch.float32))
    return without_rounding(exact.clamp(min=torch.finfo(exact.dtype).tiny).log(), p)


def _log_odds(p: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """``log p / (1 - p)``, in single precision or better; of 0 and 1 a finite number without gradient."""
    exact = p.to(torch.promote_types(p.dtype, torch.float32))
    limits = torch.finfo(exact.dtype)
    inside = exact.clamp(limits.tiny, 1 - limits.eps / 2)
    return inside.log() - (-inside).log1p()
