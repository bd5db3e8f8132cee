"""Seen: what one forward showed. ``watch``: hook in, hook out.

b batch, t targets, c channels, u v map, h w image, k class.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_cam import layers
from lightning_cam.layers import Call
from lightning_cam.output import Output, pick
from lightning_cam.target import Aim, Target, aim

# fp16 gradients of a logit by a pooled map fall into the subnormal range; a power of two is exact to undo.
_HALF_SCALE = 1024.0


@dataclass(frozen=True, eq=False)
class Look:
    """One forward, watched at one or several layers, and the numbers explained."""

    images: Float[Tensor, "b ..."]
    output: Any
    aim: Aim
    kept: Mapping[str, Tensor]  # by layer: the tensor the rest of the model consumed
    calls: list[Call]
    rewritten: frozenset[str]  # layers whose output an in-place operation changed before it was consumed
    regions: Mapping[str, Bool[Tensor, "b h w"]]
    _gradients: dict[int, dict[str, Tensor | None]] = field(default_factory=dict)

    def seen(self, layer: str, position: int = 0) -> "Seen":
        """The look at one layer, for the target at one position."""
        return Seen(self, layer, position)

    def gradient(self, layer: str, position: int) -> Tensor | None:
        """One backward for all layers, stopping at the earliest; taken once per target."""
        if position not in self._gradients:
            score = self.aim.score[:, position]
            if not score.requires_grad:
                raise ValueError(
                    f"The score has no gradient with respect to {', '.join(self.kept)}: the target or the model's output "
                    "is detached (a forward wholly under no_grad, .detach(), argmax). Use a method without gradients "
                    "(activation_mean, cam), or an output that stays connected."
                )
            scale = _HALF_SCALE if any(kept.dtype == torch.float16 for kept in self.kept.values()) else 1.0
            found = torch.autograd.grad(
                score.float().sum() * scale if scale != 1.0 else score.sum(),
                list(self.kept.values()),
                retain_graph=True,
                allow_unused=True,
            )
            self._gradients[position] = {
                name: None if g is None else _at_least_float(g) / scale for name, g in zip(self.kept, found, strict=True)
            }
        return self._gradients[position][layer]


@dataclass(frozen=True, eq=False)
class Seen:
    """What one forward showed at one layer, for one number explained: all that a method needs.

    Values are float32 (float64 for a float64 model) on the model's device.
    """

    look: Look
    layer: str
    position: int = 0

    @property
    def image(self) -> Float[Tensor, "b ..."]:
        """The input."""
        return self.look.images

    @property
    def logits(self) -> Any:
        """The model's output, [b k] for a classifier, detached."""
        return self.look.output.detach() if isinstance(self.look.output, Tensor) else self.look.output

    @property
    def score(self) -> Float[Tensor, "b"]:
        """The number explained."""
        return self.look.aim.score[:, self.position].detach()

    @property
    def classes(self) -> Int[Tensor, "b"] | None:
        """The class whose logit is explained, where it is one."""
        return None if self.look.aim.classes is None else self.look.aim.classes[:, self.position]

    @cached_property
    def activation(self) -> Float[Tensor, "b c u v"]:
        """The layer's output as the rest of the model consumed it."""
        return _at_least_float(self.look.kept[self.layer].detach())

    @cached_property
    def gradient(self) -> Float[Tensor, "b c u v"]:
        """The score's gradient by the activation; the backward runs when this is first read.

        Raises:
            ValueError: if the score does not depend on the layer.
        """
        gradient = self.look.gradient(self.layer, self.position)
        if gradient is None:
            raise ValueError(
                f"The layer {self.layer!r} does not feed the explained score, so its gradient does not exist. "
                f"Layers with a map: {layers.candidates(self.look.calls, self.layer)}."
            )
        return gradient

    @property
    def regions(self) -> Mapping[str, Bool[Tensor, "b h w"]]:
        """Where the object, or anything else worth naming, is in each image: masks by name; may be empty."""
        return self.look.regions

    @property
    def head(self) -> Call | None:
        """The classifier behind the layer, if it is one linear layer or 1x1 convolution and nothing else with weights."""
        after = [call.name for call in self.look.calls]
        start = len(after) - after[::-1].index(self.layer)
        weighted = [call for call in self.look.calls[start:] if call.name and any(True for _ in call.module.parameters(False))]
        classes = self.logits.shape[1] if isinstance(self.logits, Tensor) and self.logits.ndim == 2 else None
        return layers.head_call(weighted, classes) if len(weighted) == 1 else None


@contextmanager
def watch(model: nn.Module, names: list[str]) -> Iterator[Callable[..., Look]]:
    """Hook the named layers and hand out ``look(images, target, label, regions, output, context)``.

    The first of the layers to run is cut off from what precedes it, so only what follows is recorded for the backward.
    Hooks are gone when the block ends, however it ends.
    """
    modules = layers.named(model)
    kept: dict[str, Tensor] = {}
    before: dict[str, int] = {}
    unfit: dict[str, str] = {}

    def hook(name: str) -> Callable[..., Tensor | None]:
        def keep(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[-1] * output.shape[-2] == 1:
                what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
                unfit[name] = what
                return None
            torch.set_grad_enabled(True)  # the model runs under no_grad up to here and is recorded from here on
            if not kept or not output.requires_grad:  # the cut; or a branch that does not come from it
                output = output.detach().requires_grad_()
            # an in-place operation behind the layer must neither meet a leaf nor change what was kept
            kept[name] = output.clone()
            before[name] = kept[name]._version
            return kept[name]

        return keep

    def look(
        images: Tensor,
        target: Target,
        label: Tensor | None = None,
        regions: Mapping[str, Tensor] = MappingProxyType({}),
        output: Output = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Look:
        for trunk in (torch.no_grad, torch.enable_grad):  # the second where the model has a no_grad of its own
            kept.clear()
            with layers.calls_of(model) as calls, trunk(), context():
                result = pick(model(images.clone()), output)  # a model may change its input
            for name in names:
                if name not in kept:
                    raise ValueError(_no_map(name, unfit.get(name), calls))
            with torch.enable_grad():
                aimed = aim(target, result, label)
            if aimed.score.requires_grad:
                break
        rewritten = frozenset(name for name in names if kept[name]._version != before[name])
        return Look(images, result, aimed, {name: kept[name] for name in names}, calls, rewritten, regions)

    with ExitStack() as undo:
        for name in names:
            undo.callback(modules[name].register_forward_hook(hook(name)).remove)
        undo.callback(kept.clear)
        yield look


def _no_map(name: str, returned: str | None, calls: list[Call]) -> str:
    what = f"returned {returned}; expected a map [b c u v] of more than one cell" if returned else "did not run in this forward"
    return f"The layer {name!r} {what}. Layers with a map: {layers.candidates(calls, name)}."


def _at_least_float(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
