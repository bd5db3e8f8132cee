"""The layer watched when none is named, found by tracing one forward."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.head import find_head
from lightning_cam.model.output import find_queries, is_detections
from lightning_cam.model.trace import Call, call_title
from lightning_cam.model.traced_forward import TracedForward, trace_forward

_ADAPTIVE = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
# What only shrinks, copies or drops a map, or is part of a block: the map shown is the one before it.
_PASSIVE = (
    nn.Identity,
    nn.Flatten,
    nn.Linear,
    nn.modules.dropout._DropoutNd,
    *_ADAPTIVE,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
)


def find_default_layer(
    model: nn.Module,
    images: Tensor,
    run: Callable[[Tensor], Any],
    picture: tuple[int, ...] | None = None,
) -> str:
    """The layer watched when none is named: the last that returns a map of the image on which the classifier depends.

    Found by tracing one forward of one image. Pooling and the like, single linear layers and a convolutional head are left
    aside, and so are the parts of an attention (queries, keys and values, their norms and projections) and what has no gradient
    on its map: the last block of a transformer with a class token. Of a block that hands on a tuple it is the block, not the
    last branch in it. Of a segmentation it is the coarsest map (a U-Net's bottleneck, DeepLab's and PSPNet's backbone), of a
    detector the last map of the backbone. A map of one channel, such as one of anomalies, only where there is no other.

    Args:
        model: the model, in evaluation mode.
        images: what it is given, [b c *sides]; the first is enough.
        run: runs the model on images and returns its logits.
        picture: the shape [c *sides] of what the images stand for, where they are no pictures themselves.

    Raises:
        ValueError: if no module returns a map.
    """
    image = (1, *(picture or images.shape[1:]))
    first = images[:1].clone()
    if first.is_floating_point():
        first.requires_grad_()

    def trace(within: bool) -> _Search:
        forward = trace_forward(model, image, lambda: run(first.clone()), within)
        return _Search(forward, first, *_candidates(forward, len(image)))

    # what modules return within tuples and the like counts only where no other maps are: they are these again, mostly
    search = trace(within=False)
    if not search.fit:
        search = trace(within=True)
    if not search.fit:
        raise ValueError("No module of this model returns a spatial map [b c u v]; name a layer, or a tensor with one.")
    found = search.last()
    block = _block_around(search.forward, found)
    if block is not None:
        within = trace(within=True)
        if block in within.fit and within.tells(block):
            found = block
    return call_title(search.forward.calls, found)


@dataclass(frozen=True)
class _Search:
    """The maps of one forward among which a layer is sought.

    Attributes:
        forward: the forward.
        image: what it was given.
        maps: positions of the maps.
        score: the numbers that tell on which of them the model depends.
    """

    forward: TracedForward
    image: Tensor
    maps: list[int]
    score: Any

    @property
    def fit(self) -> list[int]:
        """Positions of the maps that may be watched."""
        return [i for i in self.maps if not _is_passive(self.forward.calls[i])]

    def tells(self, i: int) -> bool:
        """Whether a map comes from the image, and the score from it."""
        return self.forward.shows(i, self.image) and self.forward.feeds(i, self.score)

    def last(self) -> int:
        """The last map that comes from the image and feeds the score."""
        # one channel is a picture of what was found, such as a map of anomalies: it has no channels to weigh
        wide = [i for i in self.fit if self.forward.calls[i].map_shape[0] > 1]
        order = [*reversed(wide), *(i for i in reversed(self.fit) if i not in wide)]
        # the words of a text tower may be as many as a grid has cells
        for i in order:
            if self.tells(i):
                return i
        # behind a no_grad of the model's own nothing tells what comes from the image
        for i in order:
            if self.forward.feeds(i, self.score):
                return i
        # the score may depend on none, as in a detector without a detection; a name is still asked for
        return order[0]


def _block_around(forward: TracedForward, i: int) -> int | None:
    """The block of which a module is the residual branch, where it hands its map on within a tuple or the like."""
    name = forward.calls[i].name
    around = (j for j in forward.held if j > i and name.startswith(f"{forward.calls[j].name}."))
    return next((j for j in around if forward.is_added_to(i, j)), None)


def _candidates(forward: TracedForward, dimensions: int) -> tuple[list[int], Any]:
    """Positions of maps, and the numbers that tell on which of them the model depends."""
    logits = forward.logits
    queries = find_queries(logits)
    if queries is not None:
        return _of_queries(forward, queries.logits.shape[1]), queries.logits
    if is_detections(logits):
        return _of_detector(forward), torch.cat([detections["scores"] for detections in logits])
    if isinstance(logits, Tensor) and logits.ndim == dimensions:
        return _of_dense(forward), logits
    return _of_classifier(forward)


def _of_classifier(forward: TracedForward) -> tuple[list[int], Any]:
    """Maps before the classifier."""
    calls, logits = forward.calls, forward.logits
    classes = None
    if isinstance(logits, Tensor) and logits.ndim == 2:
        classes = logits.shape[1]
    maps = _maps(forward)
    head = find_head(calls, classes)
    if head is None:
        return maps, logits
    position = calls.index(head)
    if isinstance(head.layer, nn.modules.conv._ConvNd):
        maps = [i for i in maps if i < position]
    # what the head is given tells more than the logits: a head fresh from zeros lets no gradient through
    return maps, forward.inputs.get(position, logits)


def _of_dense(forward: TracedForward) -> list[int]:
    """The coarsest maps of a model with logits at every place: behind them, each place of a map mostly tells of itself."""
    calls, maps = forward.calls, _maps(forward)
    parts = _parts(calls, maps)
    # as in PSPNet, UPerNet and PAN: what a decoder pools to a size of its own, or to one channel, only adds to finer maps
    pooled: list[list[int]] = []
    bottlenecks = []
    for i in maps:
        channels, *grid = calls[i].map_shape
        if isinstance(calls[i].layer, _ADAPTIVE):
            pooled.append(grid)
        if grid not in pooled and channels > 1 and not _is_passive(calls[i]):
            bottlenecks.append(i)
    maps = bottlenecks or maps
    fewest = min((math.prod(calls[i].map_shape[1:]) for i in maps), default=0)
    coarsest = [i for i in maps if math.prod(calls[i].map_shape[1:]) == fewest]
    return [i for i in coarsest if parts[i] == parts[coarsest[0]]]


def _of_detector(forward: TracedForward) -> list[int]:
    """Maps of the backbone, the first part of the model that has any, before it hands on several at once as a pyramid."""
    maps = _maps(forward)
    parts = _parts(forward.calls, maps)
    return _before_pyramid(forward, [i for i in maps if parts[i] == parts[maps[0]]])


def _of_queries(forward: TracedForward, count: int) -> list[int]:
    """Maps of the backbone, the largest part of the model around its first map in which nothing has a row a query."""
    calls = forward.calls
    # such rows may be read as a map, where there are as many as a grid has cells
    rows = [i for i, call in enumerate(calls) if call.shape and len(call.shape) == 3 and call.shape[1] == count]
    maps = [i for i in _maps(forward) if i not in rows]
    if not maps or not rows:
        return _of_detector(forward)
    first = calls[maps[0]].name.split(".")
    depth = max(_shared_levels(first, calls[i].name.split(".")) for i in rows)
    backbone = [i for i in maps if _shared_levels(first, calls[i].name.split(".")) > depth]
    return _before_pyramid(forward, backbone)


def _shared_levels(first: list[str], second: list[str]) -> int:
    """How many levels two dotted names have in common, from their beginning on."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def _before_pyramid(forward: TracedForward, backbone: list[int]) -> list[int]:
    pyramid = min(forward.pyramids, default=len(forward.calls))
    return [i for i in backbone if i < pyramid] or backbone


def _maps(forward: TracedForward) -> list[int]:
    """Positions of the calls that returned a map, without the parts of an attention unless there is nothing else to watch."""
    maps = [i for i, call in enumerate(forward.calls) if call.layout and call.name]
    usual = [i for i in maps if i not in forward.attention_parts]
    if all(_is_passive(forward.calls[i]) for i in usual):
        return maps
    return usual


def _is_passive(call: Call) -> bool:
    return isinstance(call.layer, _PASSIVE)


def _parts(calls: list[Call], maps: list[int]) -> dict[int, list[str]]:
    """In which part of the model each map is: its module's name, up to the level at which the maps' names first differ."""
    # a model wrapped in others shares the first levels of all its names, and itself returns a map where it is dense
    paths = {i: calls[i].name.split(".") for i in maps}
    depth = 0
    for level in range(max(map(len, paths.values()), default=0)):
        names = {path[level] for path in paths.values() if len(path) > level}
        if len(names) > 1:
            depth = level
            break
    return {i: path[: depth + 1] for i, path in paths.items()}
