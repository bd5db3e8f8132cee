"""Where the patches are in a row of tokens, told by the concatenation that made it. b batch, n tokens, c channels."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from lightning_cam.model.layout import Layout, infer_layout

_JOINING = (torch.cat, torch.concat, torch.concatenate, torch.hstack, torch.ops.aten.cat.default)
# They have a faster way without gradient, of other rounding, which they leave while any function mode is on.
_FASTER_WITHOUT_MODE = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


class _Joins(TorchFunctionMode):
    """Meets the concatenations of a forward. Nothing of torch is replaced, and nothing is computed otherwise."""

    def __init__(self, image: Sequence[int], rows: dict[int, Layout], patches: Callable[[], Iterable[tuple[int, ...]]]) -> None:
        super().__init__()
        self.image = tuple(image)
        self.rows = rows
        self.patches = patches
        self.entered = ExitStack()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        joined = func(*args, **kwargs)
        if func in _JOINING:
            self.note(args[0] if args else kwargs["tensors"], joined)
        return joined

    def note(self, parts: Sequence[Tensor], joined: Tensor) -> None:
        """Where the patches are in rows that were joined; nothing where none of the parts, or several, may be the patches."""
        if any(part.ndim != 3 for part in parts):
            return
        dim = next((dim for dim in (0, 1) if parts[0].shape[dim] != joined.shape[dim]), None)
        if dim is None or joined.shape[1 - dim] != self.image[0]:
            return
        lengths = [part.shape[dim] for part in parts]
        readings = [None if _is_learnt(part) else self.read(part.shape[dim]) for part in parts]
        fitting = [(i, layout) for i, layout in enumerate(readings) if layout is not None]
        if len(fitting) == 1:
            i, layout = fitting[0]
            prefix = (layout.prefix or 0) + sum(lengths[:i])
            self.rows[sum(lengths)] = replace(layout, prefix=prefix, suffix=layout.suffix + sum(lengths[i + 1 :]))

    def read(self, count: int) -> Layout | None:
        """So many tokens as patches, alone or joined before; None where they are none."""
        if count in self.rows:
            return self.rows[count]
        grids = list(self.patches())
        for grid in grids:
            if math.prod(grid) == count > 1:
                return Layout(0, 2, grid, 0)
        layout = None
        if not grids:  # patches cut by no convolution
            layout = infer_layout((self.image[0], count, 1), self.image)
        if layout is None or layout.prefix:
            return None
        return layout

    def leave_before(self, module: nn.Module, args: Any) -> None:
        """Switch off before a module that would run otherwise, unless it would for another mode all the same."""
        if isinstance(module, _FASTER_WITHOUT_MODE) and _get_current_function_mode() is self:
            self.entered.close()


@contextmanager
def record_joins(
    image: Sequence[int], rows: dict[int, Layout], patches: Callable[[], Iterable[tuple[int, ...]]]
) -> Iterator[None]:
    """Record how rows of tokens are read, by their number, while class, register or detection tokens are joined to patches.

    The number alone does not tell: a class token before the patches makes as many as a register behind them. What is joined
    later counts, as it does for the layers that run then. Behind the first attention of torch's own nothing is recorded.

    Args:
        image: the images' shape.
        rows: what is found is written into it.
        patches: gives the grids of the patch embeddings that have run.
    """
    joins = _Joins(image, rows, patches)
    handle = register_module_forward_pre_hook(joins.leave_before)
    try:
        with joins.entered:
            joins.entered.enter_context(joins)
            yield
    finally:
        handle.remove()


def _is_learnt(tokens: Tensor) -> bool:
    """Whether tokens are a parameter, as it is or expanded to the batch, and so none of the image."""
    return isinstance(tokens if tokens._base is None else tokens._base, nn.Parameter)
