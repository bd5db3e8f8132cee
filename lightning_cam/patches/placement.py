"""Which pixels of its patient's panel each patch covers. n patches, p patients, h w panel."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.patches.spacing import patch_sizes
from lightning_cam.patches.table import PatchTable

_FLATTEST, _STEEPEST = 0.5, 2.0  # height to width of a panel
_WHOLE = 4  # pixels from which on all patches of a patient have the same whole number of them
_UNITS = 2**30  # a value of 1 as a whole number


@dataclass(frozen=True, eq=False)
class Placement:
    """Where patches lie in panels of one size, a panel a patient, each patient as large as fits and to one scale in x and y.

    Attributes:
        patient: whose patch it is.
        left, right, top, bottom: the pixels it covers, its ends excluded; at least one.
        size: height and width of a panel.
        patients: how many there are.
    """

    patient: Int[Tensor, "n"]
    left: Int[Tensor, "n"]
    right: Int[Tensor, "n"]
    top: Int[Tensor, "n"]
    bottom: Int[Tensor, "n"]
    size: tuple[int, int]
    patients: int

    @property
    def covered(self) -> Bool[Tensor, "p h w"]:
        """Where there is any patch."""
        return self._sums(torch.ones_like(self.left)) > 0

    def mean(self, values: Float[Tensor, "n"]) -> Float[Tensor, "p h w"]:
        """The mean over the patches that cover a pixel; those of NaN do not count, and where there is no other it is NaN.

        Patches smaller than a pixel share it, so however many there are, this is their binning too. Sums are of whole numbers:
        exact, and the same in any order.

        Args:
            values: of the patches, 0 to 1.
        """
        known = ~values.isnan()
        total = self._sums((values.nan_to_num(0) * _UNITS).round().long())
        count = self._sums(known.long())
        return total.float() / _UNITS / count

    def _sums(self, weight: Int[Tensor, "n"]) -> Int[Tensor, "p h w"]:
        """The sum over the patches that cover each pixel, by their corners alone: as fast for large patches as for many."""
        h, w = self.size
        corners = weight.new_zeros(self.patients, h + 1, w + 1)
        for y, x, sign in (
            (self.top, self.left, 1),
            (self.top, self.right, -1),
            (self.bottom, self.left, -1),
            (self.bottom, self.right, 1),
        ):
            corners.index_put_((self.patient, y, x), sign * weight, accumulate=True)
        return corners.cumsum(1).cumsum(2)[:, :-1, :-1]


def place_patches(table: PatchTable, longest: int, patch_size: int | float | None = None) -> Placement:
    """Place the patches of every patient in a panel.

    Args:
        table: the patches.
        longest: the longer side of a panel, in pixels.
        patch_size: the side of a patch in the units of x and y; by default each patient's smallest usual spacing.
    """
    patient = table.patient
    patients = len(table.patients)
    sizes = patch_sizes(table, patch_size)
    x0, x1 = _ends(table.x, patient, patients)
    y0, y1 = _ends(table.y, patient, patients)
    width = x1 - x0 + sizes
    height = y1 - y0 + sizes
    ratio = float((height / width).median().clamp(_FLATTEST, _STEEPEST))
    h = round(longest * min(ratio, 1))
    w = round(longest / max(ratio, 1))
    scale = torch.minimum(w / width, h / height)
    # squares that differ by a pixel are seen where they are small, but for a division that gives 23.9999
    pixels = (sizes * scale + 1e-3).floor()
    scale = (pixels / sizes).where(pixels >= _WHOLE, scale)
    left, right = _edges((table.x - x0[patient], sizes[patient], scale[patient]), w, (width * scale)[patient])
    top, bottom = _edges((table.y - y0[patient], sizes[patient], scale[patient]), h, (height * scale)[patient])
    return Placement(patient, left, right, top, bottom, (h, w), patients)


def _ends(
    values: Float[Tensor, "n"], patient: Int[Tensor, "n"], patients: int
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"]]:
    """The smallest and the largest value of each patient."""
    empty = values.new_zeros(patients)
    low = empty.scatter_reduce(0, patient, values, "amin", include_self=False)
    high = empty.scatter_reduce(0, patient, values, "amax", include_self=False)
    return low, high


def _edges(
    patch: tuple[Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]], room: int, needed: Float[Tensor, "n"]
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """First and last pixel, the last excluded, of patches with a start, a size and a scale, in the middle of the room."""
    start, size, scale = patch
    margin = ((room - needed.round()) / 2).floor().clamp(min=0)
    # both ends are rounded alike, so that neighbours neither overlap nor leave a seam
    low = (margin + (start * scale).round()).long()
    high = (margin + ((start + size) * scale).round()).long()
    # one that is too small for a pixel is in that of its middle
    middle = (margin + (start + size / 2) * scale).floor().long()
    low = low.where(high > low, middle).clamp(0, room - 1)
    return low, torch.maximum(high, low + 1).clamp(max=room)
