"""Pictures, volumes and signals as panels and cells. b samples, c channels, s sides, m map, n moments, h w y x picture.

What is drawn on is called base: RGB images [b 3 h w], RGB volumes or videos [b 3 d h w], or signals [b c t] as they are. Its r
regions, if it has any, are masks of its sides: pictures get their outlines, signals bars below.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from lightning_cam.render import slices
from lightning_cam.render.colormap import colour
from lightning_cam.render.curve import curves
from lightning_cam.render.outlines import Layer, bars, outlines
from lightning_cam.render.overlay import Normalization, blend, denormalized, fit, select_bands, shown, to_rgb
from lightning_cam.render.style import Style

_GAP = 2

Regions = Bool[Tensor, "b r *s"] | None


def displayable(
    images: Shaped[Tensor, "b c *s"],
    normalization: Normalization | None,
    bands: Sequence[int] | None = None,
) -> Shaped[Tensor, "b k *s"]:
    """The model's input as it is drawn on: all of it, or some of its channels.

    Raises:
        ValueError: for an input of no, or more than three, sides, a normalisation of another number of channels, or a channel
            that it does not have.
    """
    if not 3 <= images.ndim <= 5:
        raise ValueError(f"Signals [b c t], images [b c h w] and volumes [b c d h w] can be shown; got {tuple(images.shape)}.")
    if images.ndim == 3:
        return select_bands(denormalized(images, normalization), bands)
    return to_rgb(images, normalization, bands)


def panels(
    base: Shaped[Tensor, "b c *s"], normalized: Float[Tensor, "b *m"], style: Style, regions: Regions = None
) -> UInt8[Tensor, "b 3 y x"]:
    """What a card of a sheet shows of each sample.

    Images stand side by side, volumes as rows of slices below their numbers, signals as a line above a strip of heat.
    """
    if base.ndim == 4:
        return panel_row(fit(base, style.tile), normalized, style, regions)
    if base.ndim == 5:
        return _slice_rows(base, normalized, style, regions)
    return _curve_rows(base, normalized, style, regions)


def panel_row(
    pictures: UInt8[Tensor, "b 3 h w"], normalized: Float[Tensor, "b u v"], style: Style, regions: Regions = None
) -> UInt8[Tensor, "b 3 h x"]:
    """The style's panels side by side."""
    heat = shown(normalized, pictures.shape[-2:])
    layer = _outlined(regions, pictures)
    spaced = [F.pad(_panel(panel, (pictures, heat), style, layer), (0, _GAP), value=255) for panel in style.panels]
    return torch.cat(spaced, 3)[..., :-_GAP]


def overlays(base: Shaped[Tensor, "b c *s"], normalized: Float[Tensor, "b *m"], style: Style) -> UInt8[Tensor, "b 3 *o"]:
    """Heat over each sample at its own size: images, whole volumes; signals as lines."""
    if base.ndim == 3:
        return curves(base, normalized, (style.tile, 3 * style.tile), style)
    heat = shown(normalized, base.shape[2:])
    if base.ndim == 4:
        return blend(base, heat, style)
    return blend(base.movedim(2, 1), heat, style).movedim(1, 2)


def flat(
    base: Shaped[Tensor, "b c *s"], normalized: Float[Tensor, "b *m"], style: Style, regions: Regions = None
) -> UInt8[Tensor, "b 3 y x"]:
    """Heat over each sample as one picture, such as a file holds: of a volume, the slices that hold the heat."""
    if base.ndim == 3:
        return _with_bars(overlays(base, normalized, style), regions, style)
    if base.ndim == 4:
        return _below(_outlined(regions, base), overlays(base, normalized, style))
    pictures, heat, index = _sliced(base, normalized, style)
    layer = _outlined(_at(regions, index), pictures)
    row = _joined(_below(layer, blend(pictures, heat, style)))
    return torch.cat([slices.tags(index, base.shape[2], row.shape[-1], style), row], 2)


def cells(
    base: Shaped[Tensor, "b c *s"], normalized: Float[Tensor, "n b *m"], style: Style, regions: Regions = None
) -> UInt8[Tensor, "k b 3 h w"]:
    """A filmstrip's cells: each sample alone, then with the heat of each moment.

    Of a volume the one slice is shown that holds most heat over all moments, so that a row stays comparable.
    """
    if base.ndim == 3:
        size = round(0.5 * style.tile), round(1.4 * style.tile)
        lines = [curves(base, heat, size, style) for heat in (None, *normalized)]
        return torch.stack([_with_bars(line, regions, style) for line in lines])
    if base.ndim == 5:
        base, normalized, index = _hottest_slice(base, normalized, style)
        regions = _at(regions, index)
        if regions is not None:
            regions = regions[:, 0]
    small = fit(base, max(48, round(0.7 * style.tile)))
    # a view: the pictures are not copied
    every_moment = small.expand(len(normalized), -1, -1, -1, -1)
    hot = blend(every_moment, shown(normalized, small.shape[-2:]), style)
    return _below(_outlined(regions, small), torch.cat([small[None], hot]))


def _panel(
    panel: str, shown_there: tuple[UInt8[Tensor, "*b 3 h w"], Float[Tensor, "*b h w"]], style: Style, layer: Layer | None
) -> UInt8[Tensor, "*b 3 h w"]:
    pictures, heat = shown_there
    if panel == "image":
        return _below(layer, pictures)
    if panel == "heat":
        return colour(heat, style.colours)
    return _below(layer, blend(pictures, heat, style))


def _outlined(regions: Bool[Tensor, "*b r y x"] | None, pictures: UInt8[Tensor, "*b 3 h w"]) -> Layer | None:
    """The regions' outlines for pictures of this size; None without any."""
    if regions is None:
        return None
    h, w = pictures.shape[-2:]
    return outlines(regions, (h, w))


def _below(layer: Layer | None, pictures: UInt8[Tensor, "*k 3 h w"]) -> UInt8[Tensor, "*k 3 h w"]:
    if layer is None:
        return pictures
    return layer.over(pictures)


def _with_bars(curve: UInt8[Tensor, "b 3 h w"], regions: Regions, style: Style) -> UInt8[Tensor, "b 3 y w"]:
    if regions is None:
        return curve
    return torch.cat([curve, bars(regions, curve.shape[-1], style)], 2)


def _at(regions: Regions, index: Int[Tensor, "b s"]) -> Bool[Tensor, "b s r h w"] | None:
    """The regions in these slices of each volume."""
    if regions is None:
        return None
    return slices.take(regions, index)


def _curve_rows(
    signals: Float[Tensor, "b c t"], normalized: Float[Tensor, "b m"], style: Style, regions: Regions
) -> UInt8[Tensor, "b 3 y x"]:
    """A signal's line, with its heat if the style has an overlay, above a strip of heat."""
    h = style.tile
    w = 3 * style.tile
    rows = []
    if "overlay" in style.panels:
        rows.append(_with_bars(curves(signals, normalized, (h, w), style), regions, style))
    elif "image" in style.panels:
        rows.append(_with_bars(curves(signals, None, (h, w), style), regions, style))
    if "heat" in style.panels:
        strip = colour(shown(normalized, [w])[:, None], style.colours)
        rows.append(strip.expand(-1, -1, max(6, style.tile // 10), -1))
    return _stacked(rows)


def _slice_rows(
    base: UInt8[Tensor, "b 3 d h w"], normalized: Float[Tensor, "b m u v"], style: Style, regions: Regions
) -> UInt8[Tensor, "b 3 y x"]:
    """A row of slices a panel, below the slices' numbers."""
    pictures, heat, index = _sliced(base, normalized, style)
    # several slices stand where there is one picture, so they are smaller
    tile = max(48, round(0.75 * style.tile))
    small = fit(pictures.flatten(0, 1), tile).unflatten(0, index.shape)
    heat = shown(heat, small.shape[-2:])
    layer = _outlined(_at(regions, index), small)
    rows = _stacked([_joined(_panel(panel, (small, heat), style, layer)) for panel in style.panels])
    return torch.cat([slices.tags(index, base.shape[2], rows.shape[-1], style), rows], 2)


def _sliced(
    base: UInt8[Tensor, "b 3 d h w"], normalized: Float[Tensor, "b m u v"], style: Style
) -> tuple[Tensor, Tensor, Tensor]:
    """The slices of each volume that hold its heat, [b s 3 h w], their heat [b s h w], and their numbers [b s]."""
    d = base.shape[2]
    index = slices.spread(slices.energy(normalized, d, style.neutral), style.slices)
    heat = slices.take(shown(normalized, (d, *normalized.shape[2:])), index)
    return slices.take(base, index), shown(heat, base.shape[3:]), index


def _hottest_slice(
    base: UInt8[Tensor, "b 3 d h w"], normalized: Float[Tensor, "n b m u v"], style: Style
) -> tuple[UInt8[Tensor, "b 3 h w"], Float[Tensor, "n b u v"], Int[Tensor, "b 1"]]:
    """Of each volume the slice that holds most heat over all moments, its heat at each, and its number."""
    d = base.shape[2]
    over_time = torch.stack([slices.energy(heat, d, style.neutral) for heat in normalized]).sum(0)
    index = over_time.argmax(1, keepdim=True)
    heats = [slices.take(shown(heat, (d, *heat.shape[2:])), index)[:, 0] for heat in normalized]
    return slices.take(base, index)[:, 0], torch.stack(heats), index


def _stacked(rows: list[Tensor]) -> UInt8[Tensor, "b 3 y x"]:
    """Rows below each other."""
    return torch.cat([F.pad(row, (0, 0, 0, _GAP), value=255) for row in rows], 2)[:, :, :-_GAP]


def _joined(pictures: UInt8[Tensor, "b s 3 h w"]) -> UInt8[Tensor, "b 3 h x"]:
    """Slices side by side."""
    return F.pad(pictures, (0, _GAP), value=255).permute(0, 2, 3, 1, 4).flatten(3)[..., :-_GAP]
