"""PastLook: what a run keeps of a look. n maps, the targets of all samples."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_EXACT_CELLS = 512  # a map of more cells is kept in half precision: 64 looks at sixteen samples then take 2 MiB at most


@dataclass(frozen=True, eq=False)
class PastLook:
    """What is kept of a look: its heading, its number, its maps, whose values are ``heat * scale``, and what they explain.

    Attributes:
        classes: the class that each map explains, -1 where it is of none, or not known.
        epoch: how many epochs were trained; None where that is not known.
        change: how far each map is from that of the look before, as drift is; None where there was none.
        jumped: which of them moved more than noise and more than others; None likewise.
    """

    title: str
    place: int
    heat: Float[Tensor, "n *m"]
    scale: float
    classes: Int[Tensor, "n"]
    epoch: float | None = None
    change: Float[Tensor, "n"] | None = None
    jumped: Bool[Tensor, "n"] | None = None

    @property
    def values(self) -> Float[Tensor, "n *m"]:
        """The maps in single precision."""
        if self.heat.dtype == torch.float32:
            return self.heat
        return self.heat.float() * self.scale

    def rows(self, maps: slice | Tensor) -> "PastLook":
        """The same of some of the maps."""
        change = None if self.change is None else self.change[maps]
        jumped = None if self.jumped is None else self.jumped[maps]
        return replace(self, heat=self.heat[maps], classes=self.classes[maps], change=change, jumped=jumped)

    def values_of(self, classes: Int[Tensor, "n"]) -> Float[Tensor, "n *m"]:
        """The maps in single precision; NaN where another class than these was explained."""
        other = (self.classes != classes) & (self.classes >= 0) & (classes >= 0)
        return self.values.masked_fill(other.reshape(-1, *[1] * (self.heat.ndim - 1)), torch.nan)


def stored(title: str, place: int, heat: Float[Tensor, "n *m"], classes: Int[Tensor, "n"] | None = None) -> PastLook:
    """Single precision for small maps; for others half, scaled so that neither large nor small values are lost."""
    heat = heat.cpu().float()
    classes = of_no_class(heat) if classes is None else classes.cpu().int()
    if heat[0].numel() <= _EXACT_CELLS:
        return PastLook(title, place, heat, 1.0, classes)
    finite = heat[heat.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    # a power of two, so that rounding is the same in whatever company a map is kept; of maps of zeros 1
    scale = 2.0 ** math.ceil(math.log2(scale)) if scale else 1.0
    return PastLook(title, place, (heat / scale).half(), scale, classes)


def of_no_class(heat: Float[Tensor, "n *m"]) -> Int[Tensor, "n"]:
    """Classes where none is known."""
    return torch.full((len(heat),), -1, dtype=torch.int32)
