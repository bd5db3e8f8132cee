"""The layer watched when none is named, found by tracing one forward."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lightning_cam.model.head import find_head
from lightning_cam.model.output import Output, find_logits, is_detections
from lightning_cam.model.trace import Call, call_title, layout_of, record_calls

# What only shrinks, copies or drops a map, or is part of a block: the map shown is the one before it.
_PASSIVE = (
    nn.Identity,
    nn.Flatten,
    nn.Linear,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
)


@dataclass(frozen=True)
class _Trace:
    """One forward: its calls, and by their positions the maps they returned and what linear layers were given."""

    calls: list[Call]
    maps: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    pyramids: list[int] = field(default_factory=list)  # of calls that returned several maps
    output: Any = None

    def feeds(self, i: int, score: Any) -> bool:
        """Whether the score depends on a call's map; taken as given where no gradient can tell."""
        layout = self.calls[i].layout
        if i not in self.maps or layout is None or not isinstance(score, Tensor) or not score.requires_grad:
            return True
        (gradient,) = torch.autograd.grad(score.square().sum(), self.maps[i], retain_graph=True, allow_unused=True)
        return gradient is not None and bool(layout.to_map(gradient).any())


def find_default_layer(model: nn.Module, images: Tensor, output: Output = None) -> str:
    """The layer watched when none is named: the last that returns a map on which the classifier depends.

    Found by tracing one forward of one image. Pooling and the like, single linear layers and a convolutional head are left
    aside, and so is what has no gradient on its map: the last block of a transformer with a class token. Of a segmentation it
    is the coarsest map (a U-Net's bottleneck, DeepLab's backbone), of a detector the last map of the backbone.

    Raises:
        ValueError: if no module returns a map.
    """
    trace = _traced(model, images[:1].clone(), output)
    find = _of_detector if is_detections(trace.output) else _of_dense if _is_dense(trace.output, images) else _of_classifier
    maps, score = find(trace)
    fit = [i for i in maps if not isinstance(trace.calls[i].module, _PASSIVE)]
    if not fit:
        raise ValueError("No module of this model returns a spatial map [b c u v]; name a layer, or a tensor with one.")
    return call_title(trace.calls, next((i for i in reversed(fit) if trace.feeds(i, score)), fit[-1]))


def _of_classifier(trace: _Trace) -> tuple[list[int], Any]:
    """Maps before the classifier, and what tells on which of them it depends."""
    logits = trace.output
    head = find_head(trace.calls, logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None)
    if head is None:
        return _maps(trace.calls), logits
    at = trace.calls.index(head)
    before = trace.calls[:at] if isinstance(head.module, nn.modules.conv._ConvNd) else trace.calls
    # what the head is given tells more than the logits: a head fresh from zeros lets no gradient through
    return _maps(before), trace.inputs.get(at, logits)


def _of_dense(trace: _Trace) -> tuple[list[int], Any]:
    """The coarsest maps of a model with logits at every place: behind them, each place of a map mostly tells of itself."""
    maps = _maps(trace.calls)
    cells = {i: torch.Size(trace.calls[i].map_shape[1:]).numel() for i in maps}
    fewest = min(cells.values(), default=0)
    coarsest = [i for i in maps if cells[i] == fewest]
    parts = _parts(trace.calls, maps)
    return [i for i in coarsest if parts[i] == parts[coarsest[0]]], trace.output


def _of_detector(trace: _Trace) -> tuple[list[int], Any]:
    """Maps of the backbone, the first part of the model that has any, before it hands on several at once as a pyramid."""
    maps = _maps(trace.calls)
    parts = _parts(trace.calls, maps)
    backbone = [i for i in maps if parts[i] == parts[maps[0]]]
    before = [i for i in backbone if i < min(trace.pyramids, default=len(trace.calls))]
    return before or backbone, torch.cat([one["scores"] for one in trace.output])


def _maps(calls: list[Call]) -> list[int]:
    return [i for i, call in enumerate(calls) if call.layout and call.name]


def _parts(calls: list[Call], maps: list[int]) -> dict[int, list[str]]:
    """In which part of the model each map is: its module's name, up to the level at which the maps' names first differ."""
    paths = [calls[i].name.split(".") for i in maps]
    depth = next((d for d, names in enumerate(zip(*paths, strict=False)) if len(set(names)) > 1), 0)
    return {i: path[: depth + 1] for i, path in zip(maps, paths, strict=True)}


def _is_dense(output: Any, images: Tensor) -> bool:
    return isinstance(output, Tensor) and output.ndim == images.ndim


def _traced(model: nn.Module, one: Tensor, output: Output) -> _Trace:
    with record_calls(model, one.shape) as calls, torch.enable_grad():
        trace = _Trace(calls)
        handle = register_module_forward_hook(_keep(trace, one.shape))  # runs after the recording of the call
        try:
            return replace(trace, output=find_logits(model(one), output))
        finally:
            handle.remove()


def _keep(trace: _Trace, image: Sequence[int]) -> Callable[..., Any]:
    """Keep what a call returned if it is a map, connected to what follows, and what a linear layer was given."""

    def keep(module: nn.Module, args: Any, result: Any) -> Tensor | None:
        calls, at = trace.calls, len(trace.calls) - 1
        if not calls or calls[at].module is not module:
            return None
        if isinstance(module, nn.Linear):
            trace.inputs[at] = args[0]
        if isinstance(result, Mapping | list | tuple):
            several = list(result.values() if isinstance(result, Mapping) else result)
            if sum(layout_of(one, image, calls) is not None for one in several) > 1:
                trace.pyramids.append(at)
        if calls[at].layout is None:
            return None
        torch.set_grad_enabled(True)  # also where the model has a no_grad of its own
        if not result.requires_grad:
            result = result.detach().requires_grad_()
        handed: Tensor = result.clone()
        trace.maps[at] = handed
        return handed

    return keep
