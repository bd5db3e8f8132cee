"""Forward hooks on the watched layers: they record what a layer returns, or replace it, and do nothing else.

n changed samples, c channels, m map.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.capture.gradient import without_inference
from lightning_cam.model.call.entries import Path, at, describe, find_step, part, steps, with_part
from lightning_cam.model.layout import Layout
from lightning_cam.model.names import modules_by_name, split_call, split_keys
from lightning_cam.model.trace import Calls, find_map, layer_candidates


@dataclass(frozen=True)
class LayerOutput:
    """A layer's output as the rest of the model consumed it, and how it is read as maps.

    Attributes:
        output: the tensor that was handed on.
        layout: how it is read as maps.
        version: the tensor's version when it was handed on.
        call: which of the layer's calls this is, counted from 1; the last call wins.
        path: where the tensor is in what the layer returned, where that is a tuple or the like.
    """

    output: Tensor
    layout: Layout
    version: int
    call: int
    path: Path = ()

    @property
    def changed_in_place(self) -> bool:
        """Whether an in-place operation changed the output before it was consumed (DenseNet's ReLU)."""
        return self.output._version != self.version


@dataclass(eq=False)
class Recording:
    """What the watched layers return in one forward.

    Attributes:
        image: the shape of the images.
        calls: the calls of the forward so far, by whose patch embeddings tokens are counted.
        differentiable: whether what follows the layers is recorded for a backward.
        outputs: the layers' outputs, by the layer's name.
        unreadable: what a layer returned that holds no map, in words.
        times: how often each layer has run.
    """

    image: tuple[int, ...]
    calls: Calls
    differentiable: bool = True
    outputs: dict[str, LayerOutput] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)

    def __call__(self, layer: str, output: Any) -> Any:
        """Keep the output, and hand on a tensor of the same values by which a score can be differentiated."""
        self.times[layer] = self.times.get(layer, 0) + 1
        _, wanted = split_call(layer)
        if wanted is not None and self.times[layer] != wanted + 1:
            return None
        found = find_map(output, self.image, self.calls, split_keys(layer))
        if found is None:
            self.unreadable[layer] = _in_words(output, split_keys(layer))
            return None
        path, layout = found
        tensor = without_inference(at(output, path))
        if self.differentiable:
            tensor = self._begin_graph(tensor)
        # A clone, for an in-place operation behind the layer may neither meet a leaf nor rewrite what is kept. If it rewrites
        # the clone, the clone is what the rest of the net consumed: it is kept, with its version, so that this can be told.
        passed_on: Tensor = tensor.clone()
        self.outputs[layer] = LayerOutput(passed_on, layout, passed_on._version, self.times[layer], path)
        return with_part(output, path, passed_on)

    def _begin_graph(self, output: Tensor) -> Tensor:
        """From here on the model is recorded, also where it ran under no_grad up to here."""
        torch.set_grad_enabled(True)
        if self.outputs and output.requires_grad:
            return output  # a later layer stays connected to the earliest, where the graph was cut
        return output.detach().requires_grad_()

    def require(self, layers: Sequence[str]) -> None:
        """Raise ValueError, naming layers that do, where a layer returned no map."""
        for layer in layers:
            if layer not in self.outputs:
                raise ValueError(self._missing(layer))

    def _missing(self, layer: str) -> str:
        times = self.times.get(layer, 0)
        returned = self.unreadable.get(layer)
        if times and not returned:
            return f"The layer {split_call(layer)[0]!r} is called {times} times: name #0 to #{times - 1}, not {layer!r}."
        what = "did not run in this forward"
        if returned:
            what = f"returned {returned}; expected a map [b c u v] of more than one cell"
        return f"The layer {layer!r} {what}. Layers with a map: {layer_candidates(self.calls, layer)}."


@dataclass(eq=False)
class Replacement:
    """Changed maps handed on in place of what one call of one layer returned before, in the place where they were."""

    layer: str
    record: LayerOutput
    activation: Float[Tensor, "n c *m"]
    times: dict[str, int] = field(default_factory=dict)

    def __call__(self, layer: str, output: Any) -> Any:
        """The maps in the layer's own layout and precision."""
        self.times[layer] = self.times.get(layer, 0) + 1
        if (layer, self.times[layer]) != (self.layer, self.record.call):
            return None
        if self.activation.requires_grad:
            torch.set_grad_enabled(True)  # also where the model has a no_grad of its own
        tensor = at(output, self.record.path)
        changed = self.record.layout.from_map(self.activation.to(tensor), tensor)
        # an in-place operation behind the layer would write into the caller's tensor
        return with_part(output, self.record.path, changed.clone())


Action = Callable[[str, Any], Any]


@dataclass(eq=False)
class LayerHooks:
    """The hooks of a session; ``action`` is what they do with an output, None for nothing."""

    layers: Sequence[str]
    action: Action | None = None

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Hooks in; hooks out when the block ends, however it ends.

        Hooks on a module run after those that are global, so a call is in the list of calls before its output is read.
        """
        modules = modules_by_name(model)
        with ExitStack() as undo:
            for layer in self.layers:
                module = modules[split_call(layer)[0]]
                undo.callback(module.register_forward_hook(self._hook(layer)).remove)
            yield

    def _hook(self, layer: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            return None if self.action is None else self.action(layer, output)

        return hook


def _in_words(output: Any, keys: Sequence[str] = ()) -> str:
    """What a layer returned, or what is in the part that was named."""
    if keys:
        step = find_step(output, keys[0])
        if step is None:
            return f"{_in_words(output)}, which has no [{keys[0]}]"
        return f"at [{keys[0]}] {_in_words(part(output, step), keys[1:])}"
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    if steps(output):
        return describe(output)
    return f"a {type(output).__name__}"
