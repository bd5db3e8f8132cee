"""One forward whose maps stay connected to what follows them, so that it can be asked which of them a score depends on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lightning_cam.model.attention_parts import record_attention_parts
from lightning_cam.model.call.entries import at, with_part
from lightning_cam.model.trace import Calls, layout_of, record_calls


@dataclass(frozen=True)
class TracedForward:
    """One forward.

    Attributes:
        calls: its calls, in the order in which they returned.
        attention_parts: positions of the calls that are parts of an attention.
        maps: the maps returned, by their calls' positions.
        inputs: what linear layers were given, by their calls' positions.
        pyramids: positions of calls that returned several maps.
        held: the maps that calls returned alone within a tuple or the like, by their positions.
        logits: what the model gave.
    """

    calls: Calls
    attention_parts: set[int]
    maps: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    pyramids: list[int] = field(default_factory=list)
    held: dict[int, Tensor] = field(default_factory=dict)
    logits: Any = None

    def shows(self, i: int, image: Tensor) -> bool:
        """Whether a call's map comes from the image, which was recorded; assumed where no gradient can tell."""
        if i not in self.maps or not image.requires_grad:
            return True
        (gradient,) = torch.autograd.grad(self.maps[i].sum(), image, retain_graph=True, allow_unused=True)
        return gradient is not None

    def feeds(self, i: int, score: Any) -> bool:
        """Whether the score depends on a call's map; assumed where no gradient can tell."""
        layout = self.calls[i].layout
        if i not in self.maps or layout is None or not isinstance(score, Tensor) or not score.requires_grad:
            return True
        if not score.numel():  # a detector that finds nothing
            return True
        (gradient,) = torch.autograd.grad(score.square().sum(), self.maps[i], retain_graph=True, allow_unused=True)
        return gradient is not None and bool(layout.to_map(gradient).any())

    def is_added_to(self, i: int, j: int) -> bool:
        """Whether what a call returned in a tuple or the like is another's map and more: what leads past a residual branch."""
        if i not in self.maps or j not in self.held or self.maps[i].shape != self.held[j].shape:
            return False
        branch, total = self.maps[i], self.held[j]
        (gradient,) = torch.autograd.grad(total.sum(), branch, retain_graph=True, allow_unused=True)
        return gradient is not None and bool((gradient == 1).all()) and not torch.equal(branch, total)


def trace_forward(model: nn.Module, image: tuple[int, ...], run: Callable[[], Any], within: bool = False) -> TracedForward:
    """Trace one forward.

    Args:
        model: the model whose modules are traced.
        image: the shape of its input, [b c *sides].
        run: runs the model on it and returns its logits.
        within: whether a module that returns a tuple, list or dict counts as one that returns the first map in there.
    """
    with record_calls(model, image) as calls, record_attention_parts(calls) as parts, torch.enable_grad():
        forward = TracedForward(calls, parts)
        # registered last, so that it runs after the recording of the call
        handle = register_module_forward_hook(_keep_in(forward, image, within))
        try:
            return replace(forward, logits=run())
        finally:
            handle.remove()


def _keep_in(forward: TracedForward, image: Sequence[int], within: bool) -> Callable[..., Any]:
    """Keep what a call returned if it is a map, connected to what follows, and what a linear layer was given."""

    def keep(module: nn.Module, args: Any, output: Any) -> Any:
        position = len(forward.calls) - 1
        if position < 0 or forward.calls[position].module is not module:
            return None
        if isinstance(forward.calls[position].layer, nn.Linear):
            forward.inputs[position] = args[0]
        call = forward.calls[position]
        count = _count_maps(output, image, forward.calls)
        if count > 1:
            forward.pyramids.append(position)
        elif call.held is not None:
            forward.held[position] = at(output, call.held.path)
        if within and call.held is not None:
            call = forward.calls[position] = call.held
        if call.layout is None:
            return None
        torch.set_grad_enabled(True)  # also where the model has a no_grad of its own
        tensor = at(output, call.path)
        if not tensor.requires_grad:
            # a copy, since what was made in inference mode may have no gradient itself
            tensor = tensor.detach().clone().requires_grad_()
        # an in-place operation behind the layer must not meet a leaf
        forward.maps[position] = tensor.clone()
        return with_part(output, call.path, forward.maps[position])

    return keep


def _count_maps(output: Any, image: Sequence[int], calls: Calls) -> int:
    """How many maps are in a list or dict."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if not isinstance(output, list | tuple):
        return 0
    return sum(layout_of(item, image, calls) is not None for item in output)
