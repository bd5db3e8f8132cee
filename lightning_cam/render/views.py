"""Pictures, volumes and signals as panels and cells. b samples, c channels, s sides, m map, n moments, h w y x picture.

What is drawn on is called base: RGB images [b 3 h w], RGB volumes or videos [b 3 d h w], or signals [b c t] as they are.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from lightning_cam.render import slices
from lightning_cam.render.colormap import colour
from lightning_cam.render.curve import curves
from lightning_cam.render.overlay import Normalization, blend, denormalized, fit, shown, to_rgb
from lightning_cam.render.style import Style

_GAP = 2


def displayable(images: Shaped[Tensor, "b c *s"], normalization: Normalization | None) -> Shaped[Tensor, "b k *s"]:
    """The model's input as it is drawn on.

    Raises:
        ValueError: for an input of no, or more than three, sides, or a normalisation of another number of channels.
    """
    if not 3 <= images.ndim <= 5:
        raise ValueError(f"Signals [b c t], images [b c h w] and volumes [b c d h w] can be shown; got {tuple(images.shape)}.")
    return denormalized(images, normalization) if images.ndim == 3 else to_rgb(images, normalization)


def panels(base: Shaped[Tensor, "b c *s"], unit: Float[Tensor, "b *m"], style: Style) -> UInt8[Tensor, "b 3 y x"]:
    """What a card of a sheet shows of each sample.

    Images stand side by side, volumes as rows of slices below their numbers, signals as a line above a strip of heat.
    """
    if base.ndim == 4:
        return panel_row(fit(base, style.tile), unit, style)
    if base.ndim == 5:
        return _slice_rows(base, unit, style, max(48, round(0.75 * style.tile)))
    h, w = style.tile, 3 * style.tile
    rows = []
    if "image" in style.panels or "overlay" in style.panels:
        rows.append(curves(base, unit if "overlay" in style.panels else None, (h, w), style))
    if "heat" in style.panels:
        strip = colour(shown(unit, [w])[:, None], style.colours).expand(-1, -1, max(6, style.tile // 10), -1)
        rows.append(strip)
    return torch.cat([F.pad(row, (0, 0, 0, _GAP), value=255) for row in rows], 2)[:, :, :-_GAP]


def panel_row(pictures: UInt8[Tensor, "b 3 h w"], unit: Float[Tensor, "b u v"], style: Style) -> UInt8[Tensor, "b 3 h x"]:
    """The style's panels side by side."""
    heat = shown(unit, pictures.shape[-2:])
    return torch.cat([F.pad(_panel(p, pictures, heat, style), (0, _GAP), value=255) for p in style.panels], 3)[..., :-_GAP]


def overlays(base: Shaped[Tensor, "b c *s"], unit: Float[Tensor, "b *m"], style: Style) -> UInt8[Tensor, "b 3 *o"]:
    """Heat over each sample at its own size: images, whole volumes; signals as lines."""
    if base.ndim == 3:
        return curves(base, unit, (style.tile, 3 * style.tile), style)
    heat = shown(unit, base.shape[2:])
    if base.ndim == 4:
        return blend(base, heat, style)
    return blend(base.movedim(2, 1), heat, style).movedim(1, 2)


def flat(base: Shaped[Tensor, "b c *s"], unit: Float[Tensor, "b *m"], style: Style) -> UInt8[Tensor, "b 3 y x"]:
    """Heat over each sample as one picture, such as a file holds: of a volume, the slices that hold the heat."""
    if base.ndim < 5:
        return overlays(base, unit, style)
    pictures, heat, at = _sliced(base, unit, style)
    row = _joined(blend(pictures, heat, style))
    return torch.cat([slices.tags(at, base.shape[2], row.shape[-1], style), row], 2)


def cells(base: Shaped[Tensor, "b c *s"], units: Float[Tensor, "n b *m"], style: Style) -> UInt8[Tensor, "k b 3 h w"]:
    """A filmstrip's cells: each sample alone, then with the heat of each moment.

    Of a volume the one slice is shown that holds most heat over all moments, so that a row stays comparable.
    """
    n = len(units)
    if base.ndim == 3:
        size = round(0.5 * style.tile), round(1.4 * style.tile)
        return torch.stack([curves(base, each, size, style) for each in (None, *units)])
    if base.ndim == 5:
        over = torch.stack([slices.energy(one, base.shape[2], style.neutral) for one in units]).sum(0)
        at = over.argmax(1, keepdim=True)
        units = torch.stack([slices.take(shown(one, (base.shape[2], *one.shape[2:])), at)[:, 0] for one in units])
        base = slices.take(base, at)[:, 0]
    small = fit(base, max(48, round(0.7 * style.tile)))
    hot = blend(small.expand(n, -1, -1, -1, -1), shown(units, small.shape[-2:]), style)
    return torch.cat([small[None], hot])


def _panel(
    panel: str, pictures: UInt8[Tensor, "*b 3 h w"], heat: Float[Tensor, "*b h w"], style: Style
) -> UInt8[Tensor, "*b 3 h w"]:
    if panel == "image":
        return pictures
    return colour(heat, style.colours) if panel == "heat" else blend(pictures, heat, style)


def _sliced(base: UInt8[Tensor, "b 3 d h w"], unit: Float[Tensor, "b m u v"], style: Style) -> tuple[Tensor, Tensor, Tensor]:
    """The slices of each volume that hold its heat, [b s 3 h w], their heat [b s h w], and their numbers [b s]."""
    d = base.shape[2]
    at = slices.spread(slices.energy(unit, d, style.neutral), style.slices)
    heat = slices.take(shown(unit, (d, *unit.shape[2:])), at)
    return slices.take(base, at), shown(heat, base.shape[3:]), at


def _slice_rows(
    base: UInt8[Tensor, "b 3 d h w"], unit: Float[Tensor, "b m u v"], style: Style, tile: int
) -> UInt8[Tensor, "b 3 y x"]:
    pictures, heat, at = _sliced(base, unit, style)
    small = fit(pictures.flatten(0, 1), tile).unflatten(0, at.shape)
    heat = shown(heat, small.shape[-2:])
    rows = [F.pad(_joined(_panel(panel, small, heat, style)), (0, 0, 0, _GAP), value=255) for panel in style.panels]
    return torch.cat([slices.tags(at, base.shape[2], rows[0].shape[-1], style), *rows], 2)[:, :, :-_GAP]


def _joined(pictures: UInt8[Tensor, "b s 3 h w"]) -> UInt8[Tensor, "b 3 h x"]:
    """Slices side by side."""
    return F.pad(pictures, (0, _GAP), value=255).permute(0, 2, 3, 1, 4).flatten(3)[..., :-_GAP]
