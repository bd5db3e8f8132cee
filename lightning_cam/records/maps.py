"""Raw maps as 8 or 16 bit numbers with a scale and their sign, and back. b batch, t targets, m map."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.heat import condense

MOST_CELLS = 4096  # of a map; larger ones are averaged down to about so many
_FINE = 8192  # cells of all maps of a look together, up to which each has 16 bits

# The steps on either side of zero. The codes beyond are infinity, with its sign, and below these NaN.
_STEPS = {torch.int8: 126, torch.int16: 32766}


@dataclass(frozen=True, eq=False)
class CodedMaps:
    """Maps whose values are ``codes * scale / steps``.

    Zero stays zero and no value changes its sign; a value is off by at most half a step, which is 1/252 of the largest absolute
    value of its map with 8 bits and 1/65532 with 16, beside rounding in the precision of the maps.

    Attributes:
        codes: signed, of 8 or 16 bits.
        scale: the largest finite absolute value of each map; 0 where there is none.
    """

    codes: Int[Tensor, "b t *m"]
    scale: Float[Tensor, "b t"]

    @property
    def steps(self) -> int:
        """The code of a map's largest absolute value."""
        return _STEPS[self.codes.dtype]


def code(heat: Float[Tensor, "b t *m"]) -> CodedMaps:
    """Maps in 16 bits where they are few and small, in 8 where not; those of over 4096 cells are averaged down before.

    Example:
        >>> coded = code(torch.tensor([[[0.0, -0.5, 2.0]]]))
        >>> coded.codes.tolist(), coded.scale.tolist()
        ([[[0, -8192, 32766]]], [[2.0]])
    """
    heat = condense(heat.flatten(0, 1), MOST_CELLS).unflatten(0, heat.shape[:2])
    kind = torch.int16
    if heat.numel() > _FINE:
        kind = torch.int8
    values = at_least_single(heat).flatten(2)
    finite = values.isfinite()
    scale = values.where(finite, 0).abs().amax(2)
    steps = _STEPS[kind]
    codes = (values / scale.where(scale > 0, 1)[..., None] * steps).round()
    codes = codes.where(finite, values.sign() * (steps + 1))
    codes = codes.where(~values.isnan(), -(steps + 2))
    return CodedMaps(codes.to(kind).reshape(heat.shape), scale)


def decode(coded: CodedMaps) -> Float[Tensor, "b t *m"]:
    """The maps, in the precision of their scale.

    Raises:
        ValueError: for codes of another type.

    Example:
        >>> decode(code(torch.tensor([[[0.0, torch.nan, -torch.inf, 2.0]]]))).tolist()
        [[[0.0, nan, -inf, 2.0]]]
    """
    if coded.codes.dtype not in _STEPS:
        raise ValueError(f"Maps are coded in 8 or 16 bits; got {coded.codes.dtype}.")
    codes = coded.codes.to(coded.scale.dtype)
    scale = coded.scale.reshape(*coded.scale.shape, *[1] * (codes.ndim - 2))
    values = codes / coded.steps * scale
    infinite = torch.full_like(values, torch.inf).copysign(codes)
    values = values.where(codes.abs() <= coded.steps, infinite)
    return values.where(codes >= -(coded.steps + 1), torch.nan)


def at_least_single(values: Tensor) -> Tensor:
    """Values of half precision in single, others as they are."""
    if values.dtype.itemsize < torch.float32.itemsize:
        return values.float()
    return values
