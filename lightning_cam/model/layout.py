"""How a layer's output is read as maps [b c *m]: channels first or last, or tokens on a grid. b batch, c channels, n tokens."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

_MOST_PREFIX = 16  # class token, distillation token, registers
_MOST_MERGES = 5
_SKEW = 1.6  # strides of the two image sides may differ by rounding, not by more


@dataclass(frozen=True)
class Layout:
    """Where batch and channels are, and for tokens how many come before the grid and behind it."""

    batch: int
    channel: int
    grid: tuple[int, ...]
    prefix: int | None = None  # None where the output is no row of tokens
    suffix: int = 0  # registers or detection tokens behind the patches

    @property
    def extra(self) -> int:
        """How many tokens have no place on the grid."""
        return (self.prefix or 0) + self.suffix

    def to_map(self, output: Shaped[Tensor, "..."]) -> Shaped[Tensor, "b c *m"]:
        """The output as maps; tokens before and behind the grid are left out."""
        maps: Tensor = output.movedim((self.batch, self.channel), (0, 1))
        if self.prefix is not None:
            patches = maps[:, :, self.prefix : maps.shape[2] - self.suffix]
            maps = patches.unflatten(2, self.grid)
        return maps

    def to_extra(self, output: Shaped[Tensor, "..."]) -> Shaped[Tensor, "b c p"]:
        """The tokens before the grid and those behind it, in the order of maps; none where there are none."""
        tokens: Tensor = output.movedim((self.batch, self.channel), (0, 1)).flatten(2)
        before = tokens[:, :, : self.prefix or 0]
        behind = tokens[:, :, tokens.shape[2] - self.suffix :]
        return torch.cat([before, behind], 2)

    def from_map(self, maps: Shaped[Tensor, "b c *m"], like: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Maps as an output; tokens beside the grid are taken from ``like``, whose batch may be one."""
        if self.prefix is not None:
            extra = self.to_extra(like).expand(len(maps), -1, -1)
            maps = torch.cat([extra[:, :, : self.prefix], maps.flatten(2), extra[:, :, self.prefix :]], 2)
        return maps.movedim((0, 1), (self.batch, self.channel))


def infer_layout(shape: tuple[int, ...], image: tuple[int, ...], patches: Iterable[tuple[int, ...]] = ()) -> Layout | None:
    """Read an output's shape against the image's, [b c *sides]; None if it holds no map of more than one cell.

    Args:
        shape: the output's shape.
        image: the image's shape.
        patches: grids of the model's patch embeddings, finest first, by which tokens are counted.

    Example:
        >>> infer_layout((2, 17, 192), (2, 3, 64, 64))
        Layout(batch=0, channel=2, grid=(4, 4), prefix=1, suffix=0)
    """
    b, sides = image[0], image[2:]
    if len(shape) == len(image) and shape[0] == b:
        return _map_layout(shape, sides)
    if len(shape) == 3 and len(sides) > 1 and b in shape[:2]:
        return _token_layout(shape, image, patches)
    return None


def is_split_tokens(shape: tuple[int, ...], image: tuple[int, ...], tokens: tuple[int, ...], layout: Layout) -> bool:
    """Whether an output is a row of tokens split over an attention's heads, which is no map though it has as many sides.

    Queries, keys and values, and what norms them, are [b heads n d] or [b n heads d]: n as in a row of tokens that was returned
    before, and ``heads * d`` its channels, a multiple of them or a part. Probabilities have n twice. Maps behind tokens that
    fit this by chance are told by their sides, which stand to the image's as one stride does, on both sides alike; where n
    counts tokens beside the grid too, it is no side of a map.

    Args:
        shape: the output's shape, four sides.
        image: the image's shape, four sides.
        tokens: the shape of the row of tokens.
        layout: how the row is read.
    """
    if layout.prefix is None:
        return False
    n = tokens[1 - layout.batch]
    channels = tokens[layout.channel]
    like_a_picture = layout.extra == 0 and _skew(image[2:], shape[2:]) <= _SKEW
    if like_a_picture or n not in shape[1:3]:
        return False
    width = math.prod(shape[1:]) // n
    return shape[1:].count(n) == 2 or channels % width == 0 or width % channels == 0


def _map_layout(shape: tuple[int, ...], sides: tuple[int, ...]) -> Layout | None:
    first, last = shape[2:], shape[1:-1]
    # channels first, unless only the sides before the last stand to the image's as one stride does
    layout = Layout(0, 1, first)
    if _skew(sides, first) > _SKEW >= _skew(sides, last):
        layout = Layout(0, len(shape) - 1, last)
    if math.prod(layout.grid) > 1:
        return layout
    return None


def _token_layout(shape: tuple[int, ...], image: tuple[int, ...], patches: Iterable[tuple[int, ...]]) -> Layout | None:
    batch = 1
    if shape[0] == image[0]:
        batch = 0
    n = shape[1 - batch]
    for grid in (*_merged(patches), *_by_aspect(n, image[2:])):
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
    grids = []
    for grid in patches:
        for halvings in range(_MOST_MERGES + 1):
            if min(grid) >> halvings:
                grids.append(tuple(cells >> halvings for cells in grid))
    return grids


def _by_aspect(n: int, sides: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Two-dimensional grids of the image's own aspect, with no prefix or few."""
    if len(sides) != 2:
        return []
    grids: list[tuple[int, ...]] = []
    for prefix in range(min(_MOST_PREFIX, n)):
        patches = n - prefix
        # exactly the image's aspect: almost fits almost any number
        u = round(math.sqrt(patches * sides[0] / sides[1]))
        if u and patches % u == 0 and u * sides[1] == patches // u * sides[0]:
            grids.append((u, patches // u))
    return grids


def spatial_dims(model: nn.Module) -> int:
    """How many sides the model's images have: those of its first convolution; two, if it has none."""
    return image_form(model)[0]


def image_form(model: nn.Module) -> tuple[int, int | None]:
    """How many sides and channels the model's images have: those of its first convolution; two sides, if it has none."""
    for module in model.modules():
        for sides, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1):
            if isinstance(module, kind):
                return sides, module.in_channels
    return 2, None
