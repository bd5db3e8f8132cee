"""``watch``: hook in, hook out. One forward becomes a Look; changed samples are run through the same hooks.

b batch, t targets, c channels, m map, n changed samples.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lightning_cam.capture.forward import Forward, LayerOutput
from lightning_cam.model.head import head_weight
from lightning_cam.model.names import modules_by_name, split_call
from lightning_cam.model.output import Output, find_logits, is_detections
from lightning_cam.model.trace import Call, layer_candidates, layout_of, record_calls
from lightning_cam.targets.target import Held, Target, aim


@contextmanager
def watch(model: nn.Module, names: list[str]) -> Iterator[Callable[..., Forward]]:
    """Hook the named layers and hand out ``look(images, target, label, regions, output, context)``.

    The first of the layers to run is cut off from what precedes it, so only what follows is recorded for the backward.
    Hooks are gone when the block ends, however it ends.
    """
    modules, run = modules_by_name(model), _Run(model, names)
    with ExitStack() as undo:
        for name in names:
            undo.callback(modules[split_call(name)[0]].register_forward_hook(run.hook(name)).remove)
        undo.callback(run.close)
        yield run.look


@dataclass(eq=False)
class _Run:
    """The state of one forward, shared by the hooks."""

    model: nn.Module
    names: list[str]
    open: bool = True
    image: tuple[int, ...] = ()
    calls: list[Call] = field(default_factory=list)
    kept: dict[str, LayerOutput] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    swap: tuple[str, int, Callable[[Tensor], Tensor]] | None = None  # layer, which of its calls, what to hand on instead

    def hook(self, name: str) -> Callable[..., Tensor | None]:
        """Keep a layer's output and hand on a clone, or hand on what is put in its place."""
        _, wanted = split_call(name)

        def keep(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            self.times[name] = self.times.get(name, 0) + 1
            if self.swap is not None:
                layer, call, put = self.swap
                return put(output) if (layer, call) == (name, self.times[name]) else None
            if wanted is not None and self.times[name] != wanted + 1:
                return None
            layout = layout_of(output, self.image, self.calls)
            if layout is None:
                self.unfit[name] = (
                    f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
                )
                return None
            torch.set_grad_enabled(True)  # the model runs under no_grad up to here and is recorded from here on
            if not self.kept or not output.requires_grad:  # the cut; or a branch that does not come from it
                output = output.detach().requires_grad_()
            # an in-place operation behind the layer must neither meet a leaf nor change what was kept
            handed: Tensor = output.clone()
            self.kept[name] = LayerOutput(handed, layout, handed._version, self.times[name])
            return handed

        return keep

    def look(
        self,
        images: Shaped[Tensor, "b ..."],
        target: Target,
        label: Tensor | None = None,
        regions: Mapping[str, Tensor] = MappingProxyType({}),
        output: Output = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Forward:
        """Run the model once and aim at the numbers explained."""
        for trunk in (torch.no_grad, torch.enable_grad):  # the second where the model has a no_grad of its own
            self.kept = {}
            with trunk(), context():
                result = find_logits(self._forward(images), output)
            for name in self.names:
                if name not in self.kept:
                    raise ValueError(_no_map(name, self.unfit.get(name), self.times.get(name, 0), self.calls))
            with torch.enable_grad():
                aimed = aim(target, result, label, partial(head_weight, self.calls, result))
            if aimed.score.requires_grad:
                break

        def again(look: Forward, layer: str, samples: slice, image: Tensor | None, activation: Tensor | None) -> Tensor:
            with context():
                changed = find_logits(self._changed(look, layer, samples, image, activation), output)
            n = len(next(given for given in (activation, image, look.images[samples]) if given is not None))
            assert look.aim.again is not None
            return look.aim.again(changed, samples, n).score

        def at(look: Forward, other: Shaped[Tensor, "b ..."]) -> Forward:
            return self.look(other, Held(look.aim), label, regions, output, context)

        kept = {name: self.kept[name] for name in self.names}
        return Forward(images, result, aimed, kept, self.calls, regions, again, at)

    def close(self) -> None:
        """Let go of everything; what is run now is no longer watched."""
        self.open, self.kept, self.calls = False, {}, []

    def _forward(self, images: Tensor) -> Any:
        if not self.open:
            raise RuntimeError("The look is over: rescore and with_image work while the layers are watched.")
        self.image, self.times, self.unfit = tuple(images.shape), {}, {}
        with record_calls(self.model, images.shape) as self.calls:
            return self.model(images.clone())  # a model may change its input

    def _changed(
        self, look: Forward, layer: str, samples: slice, image: Tensor | None, activation: Float[Tensor, "n c *m"] | None
    ) -> Any:
        kept = look.kept[layer]
        original = look.images[samples] if image is None else image
        if activation is not None and is_detections(look.output):  # as many images as results, where else one does for all
            original = original.expand(len(activation), *original.shape[1:])
        try:
            if activation is None:
                self.swap = ("", 0, lambda output: output)  # nothing is kept
                return self._forward(original)
            # a clone, since an in-place operation behind the layer would write into the caller's tensor
            self.swap = (layer, kept.calls, lambda output: kept.layout.from_map(activation.to(output), output).clone())
            return self._forward(original)
        finally:
            self.swap = None


def _no_map(name: str, returned: str | None, times: int, calls: list[Call]) -> str:
    if times and not returned:
        return f"The layer {split_call(name)[0]!r} is called {times} times: name #0 to #{times - 1}, not {name!r}."
    what = f"returned {returned}; expected a map [b c u v] of more than one cell" if returned else "did not run in this forward"
    return f"The layer {name!r} {what}. Layers with a map: {layer_candidates(calls, name)}."
