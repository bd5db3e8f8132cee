"""How a layer's output is read as maps [b c *m]: channels first or last, or tokens on a grid. b batch, c channels, n tokens."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

_MOST_PREFIX = 16  # class token, distillation token, registers
_SKEW = 1.6  # strides of the two image sides may differ by rounding, not by more


@dataclass(frozen=True)
class Layout:
    """Where batch and channels are, and for tokens how many come before the grid."""

    batch: int
    channel: int
    grid: tuple[int, ...]
    prefix: int | None = None  # None where the output is no row of tokens

    def to_map(self, output: Shaped[Tensor, "..."]) -> Shaped[Tensor, "b c *m"]:
        """The output as maps; prefix tokens are left out."""
        moved = output.movedim((self.batch, self.channel), (0, 1))
        return moved if self.prefix is None else moved[:, :, self.prefix :].unflatten(2, self.grid)

    def from_map(self, maps: Shaped[Tensor, "b c *m"], like: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Maps as an output; prefix tokens are taken from ``like``, whose batch may be one."""
        if self.prefix is not None:
            before = like.movedim((self.batch, self.channel), (0, 1))[:, :, : self.prefix]
            maps = torch.cat([before.expand(len(maps), -1, -1), maps.flatten(2)], 2)
        return maps.movedim((0, 1), (self.batch, self.channel))


def infer_layout(shape: tuple[int, ...], image: tuple[int, ...], patches: Iterable[tuple[int, ...]] = ()) -> Layout | None:
    """Read an output's shape against the image's, [b c *sides]; None if it holds no map of more than one cell.

    Args:
        shape: the output's shape.
        image: the image's shape.
        patches: grids of the model's patch embeddings, finest first, by which tokens are counted.
    """
    b, sides = image[0], image[2:]
    if len(shape) == len(image) and shape[0] == b:
        first, last = shape[2:], shape[1:-1]
        channels_last = _skew(sides, first) > _SKEW >= _skew(sides, last) and math.prod(last) > 1
        grid = last if channels_last else first
        return Layout(0, len(shape) - 1 if channels_last else 1, grid) if math.prod(grid) > 1 else None
    if len(shape) == 3 and len(sides) > 1 and b in shape[:2]:
        batch = 0 if shape[0] == b else 1
        n = shape[1 - batch]
        for grid in (*_merged(patches), *_by_aspect(n, sides)):
            if 1 < math.prod(grid) <= n <= math.prod(grid) + _MOST_PREFIX:
                return Layout(batch, 2, grid, n - math.prod(grid))
    return None


def _skew(sides: tuple[int, ...], grid: tuple[int, ...]) -> float:
    """By what factor the strides of height and width differ."""
    if len(sides) < 2:
        return 1.0
    strides = [side / cells for side, cells in zip(sides[-2:], grid[-2:], strict=True)]
    return max(strides) / min(strides)


def _merged(patches: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The grids of the patch embeddings, and those after merging 2 x 2 up to five times."""
    return [tuple(cells >> halvings for cells in grid) for grid in patches for halvings in range(6) if min(grid) >> halvings]


def _by_aspect(n: int, sides: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Two-dimensional grids of the image's own aspect, with no prefix or few."""
    found: list[tuple[int, ...]] = []
    for prefix in range(min(_MOST_PREFIX, n)):
        u = round(math.sqrt((n - prefix) * sides[-2] / sides[-1]))
        if u and (n - prefix) % u == 0 and len(sides) == 2 and u * sides[-1] == (n - prefix) // u * sides[-2]:
            found.append((u, (n - prefix) // u))
    return found


def spatial_dims(model: nn.Module) -> int:
    """How many sides the model's images have: those of its first convolution; two, if it has none."""
    dims = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
    return next((n for module in model.modules() for kind, n in dims.items() if isinstance(module, kind)), 2)
