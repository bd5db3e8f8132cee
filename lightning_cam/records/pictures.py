"""The watched samples as small pictures, once a run. b samples, c channels, s sides, d slices, h w picture."""

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from lightning_cam.data.batch import FixedBatch
from lightning_cam.render.curve import curves
from lightning_cam.render.overlay import fit
from lightning_cam.render.picture import encode, to_host
from lightning_cam.render.style import Style
from lightning_cam.render.views import displayable

SIDE = 224  # pixels, of a longer side at most


def sample_pictures(batch: FixedBatch, style: Style) -> list[bytes]:
    """Each sample as it is shown, as JPEG; none for an input that cannot be shown.

    Args:
        batch: the samples.
        style: their normalisation, bands, and how many slices of a volume stand side by side.
    """
    if not 3 <= batch.pictures.ndim <= 5:
        return []
    base = displayable(batch.pictures, style.normalization or batch.normalization, style.bands)
    return [encode(pixels, "jpeg") for pixels in to_host(_drawn(base, style))]


def _drawn(base: Shaped[Tensor, "b c *s"], style: Style) -> UInt8[Tensor, "b 3 h w"]:
    if base.ndim == 3:
        return curves(base, None, (SIDE // 2, SIDE), style)
    if base.ndim == 4:
        return _small(base)
    d = base.shape[2]
    # in the middle of as many equal parts
    parts = min(style.slices, d)
    index = ((torch.arange(parts) + 0.5) * d / parts).long()
    chosen = base[:, :, index.to(base.device)].movedim(2, 1)
    small = _small(chosen.flatten(0, 1)).unflatten(0, chosen.shape[:2])
    row: UInt8[Tensor, "b 3 h w"] = small.movedim(1, 3).flatten(3)
    return row


def _small(pictures: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 y x"]:
    """Not larger than they are."""
    return fit(pictures, min(SIDE, max(pictures.shape[-2:])))
