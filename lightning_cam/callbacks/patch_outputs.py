"""What the model says of each patch: out of what the user's own step returns, or caught while it runs. b batch, k class."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lightning_cam.model.call.entries import describe
from lightning_cam.model.output import find_logits
from lightning_cam.training.trainer.compat import is_redirected

_NAMES = ("probabilities", "probability", "probs", "prob", "logits", "logit")


@dataclass(frozen=True, eq=False)
class PatchOutput:
    """The numbers of the positive class, on the device.

    Attributes:
        given: as the model gave them.
        activated: after a softmax over the classes, or a sigmoid of one number.
        proper: whether what was given may be probabilities: in [0, 1], and of several classes with the sum 1; NaN may be any.
        source: where they are from, in words.
    """

    given: Float[Tensor, "b"]
    activated: Float[Tensor, "b"]
    proper: Bool[Tensor, ""]
    source: str

    @classmethod
    def of(cls, output: Shaped[Tensor, "b ..."], positive: int | None, source: str) -> "PatchOutput":
        """Read an output [b], [b 1] or [b k].

        Raises:
            ValueError: for more than two classes of which none is named, or a class that there is not.
        """
        values = output.detach().float()
        if values.ndim == 1 or values.shape[1] == 1:
            values = values.flatten()
            return cls(values.clone(), values.sigmoid(), _in_unit(values).all(), source)
        k = values.shape[1]
        if positive is None and k > 2:
            raise ValueError(
                f"{source[0].upper()}{source[1:]} has {k} numbers a patch. Say which class is the positive one, "
                "PatchMap(positive=1), or where its probability is, PatchMap(output=...)."
            )
        chosen = 1 if positive is None else positive
        if chosen >= k:
            raise ValueError(f"PatchMap(positive={chosen}): the model has {k} classes, 0 to {k - 1}.")
        slack = 4 * k * torch.finfo(output.dtype if output.is_floating_point() else torch.float32).eps
        total = values.sum(1)
        proper = _in_unit(values).all() & (((total - 1).abs() <= slack) | total.isnan()).all()
        return cls(values[:, chosen].clone(), values.softmax(1)[:, chosen], proper, source)


@dataclass(eq=False)
class OutputWatch:
    """Catches what the module, or else a part of it, gives while its own step runs; nothing is run for it.

    Attributes:
        calls: name and numbers of every call so far that gave a row a sample, ``""`` for the module itself; no feature maps,
            which would stay in memory.
    """

    calls: list[tuple[str, Tensor]] = field(default_factory=list)
    _steps: list[bool] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def attach(self, module: nn.Module) -> None:
        """Hooks in, until ``detach``."""
        self.detach()
        self._handles = [part.register_forward_hook(self._caught(name)) for name, part in _parts(module)]
        self._handles.append(module.register_forward_pre_hook(self._begins))
        self._handles.append(module.register_forward_hook(self._ends))

    def detach(self) -> None:
        """Hooks out; what was caught is let go."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._steps = []
        self.calls = []

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _begins(self, module: nn.Module, args: Any) -> None:
        # under DDP the step itself is a call of the module, and what it returns need not be its output
        self._steps.append(is_redirected(module))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _ends(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._steps.pop():
            self.calls += [("", logits) for logits in _logits(output)]

    def _caught(self, name: str) -> Callable[..., None]:
        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.calls += [(name, logits) for logits in _logits(output)]

        return hook  # type: ignore[no-any-return]


def read_output(output: Any, key: Any, watch: OutputWatch, rows: int) -> tuple[Tensor, str]:
    """What a step says of its patches, and where it is from, in words.

    Args:
        output: what the step returned.
        key: where the numbers are in it: key, position, attribute or callable; None to find them.
        watch: what was caught while it ran.
        rows: how many patches there are.

    Raises:
        ValueError: where there is nothing that is a number, or logits, a patch.
    """
    if key is not None:
        named: Any = _entry(output, key)
        if not _fits(named, rows):
            expected = f"expected [b], [b 1] or [b k] of {rows} patches"
            raise ValueError(f"PatchMap(output={_word(key)}): {expected}; got {_shape(named)}.")
        return named, "what validation_step returns"
    for name in _NAMES if isinstance(output, Mapping) else ():
        value: Any = output.get(name)
        if _fits(value, rows):
            return value, f"{name!r} of what validation_step returns"
    found = [(name, logits) for name, logits in watch.calls if _fits(logits, rows)]
    own = [logits for name, logits in found if not name]
    if own:
        return own[0], "the output of the module"
    if found:
        name, logits = found[-1]
        return logits, f"the output of {name!r}"
    raise ValueError(
        f"Nothing in the validation step says anything of its {rows} patches: neither the module nor a part of it gave [b], "
        "[b 1] or [b k]. Return them, return {'logits': logits}, and name them: PatchMap(output='logits')."
    )


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts that a step calls where it does not call the module: no losses and no metrics, which give numbers too."""
    for name, part in module.named_children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{inner}", item) for inner, item in part.named_children())
        elif not _is_measure(part):
            yield name, part


def _is_measure(part: nn.Module) -> bool:
    names = {kind.__name__ for kind in type(part).__mro__}
    return bool(names & {"_Loss", "Metric", "MetricCollection"})


def _entry(output: Any, key: Any) -> Any:
    if output is None:
        raise ValueError(
            f"PatchMap(output={_word(key)}): validation_step returned nothing. Return {{'logits': logits}} from it."
        )
    if callable(key):
        return key(output)
    try:
        if isinstance(output, Mapping) or isinstance(key, int):
            return output[key]
        return getattr(output, key)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(
            f"PatchMap(output={key!r}): what validation_step returned has no such entry; it is {describe(output)}."
        ) from None


def _logits(output: Any) -> Iterator[Tensor]:
    """The logits of an output, if it has any; whatever a part returns, it must not end the user's step."""
    try:
        logits = find_logits(output, None)
    except Exception:
        return
    if isinstance(logits, Tensor) and 1 <= logits.ndim <= 2:
        yield logits


def _fits(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and 1 <= value.ndim <= 2 and len(value) == rows


def _in_unit(values: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    return ((values >= 0) & (values <= 1)) | values.isnan()


def _word(key: Any) -> str:
    return getattr(key, "__name__", repr(key))


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"Tensor{list(value.shape)}"
    return type(value).__name__
