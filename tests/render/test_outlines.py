"""Regions are drawn as thin lines at the size at which pictures are shown, and below signals as bars."""

import pytest
import torch
from pictures import noise, photo
from reference_outlines import strokes

from lightning_cam import Style
from lightning_cam.render import outlines as drawing
from lightning_cam.render import slices, views
from lightning_cam.render.curve import BORDER
from lightning_cam.render.outlines import DARK, bars, outlines, region_colours
from lightning_cam.render.overlay import fit

WHITE = torch.tensor(region_colours(1)[0])


def box(h, w, *ends):
    x0, y0, x1, y1 = ends
    mask = torch.zeros(1, 1, h, w, dtype=torch.bool)
    mask[..., y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_lines_are_those_of_the_definition(seed, monkeypatch):
    monkeypatch.setattr(drawing, "_FINE", 1)
    mask = torch.nn.functional.max_pool2d(noise(1, 1, 15, 18, seed=seed).gt(0.9).float(), 5, 1, 2).bool()
    layer = outlines(mask, (15, 18))
    light, dark = (torch.tensor(pixels) for pixels in strokes(mask[0, 0].tolist(), 1, 1))
    assert light.any() and dark.any()
    expected = light[..., None] * WHITE + (dark & ~light)[..., None] * 0.8 * torch.tensor(DARK)
    assert torch.allclose(layer.added[0], expected.permute(2, 0, 1).float())
    assert torch.allclose(layer.through[0, 0], 1 - light.float() - 0.8 * dark.float())


@pytest.mark.parametrize("tile", [64, 160, 320])
@pytest.mark.parametrize("ground", [0, 128, 255])
def test_a_line_is_thin_and_seen_on_light_and_dark_at_every_size(tile, ground):
    mask = box(224, 224, 56, 56, 168, 168)
    picture = torch.full((1, 3, tile, tile), ground, dtype=torch.uint8)
    drawn = outlines(mask, (tile, tile)).over(picture)[0, 0].int()
    row = drawn[tile // 2]
    touched = (row != ground).nonzero()[:, 0]
    # both sides of the box, and nothing between them or outside
    left, right = touched[touched < tile // 2], touched[touched >= tile // 2]
    most = 3 + tile // 60
    for side, edge in ((left, tile / 4), (right, 3 * tile / 4)):
        assert 0 < side[-1] - side[0] + 1 <= most
        assert (side - edge).abs().max() <= most
        # light and dark lie side by side, whatever the ground
        across = row[int(side[0]) : int(side[-1]) + 1]
        assert across.max() >= 235 and across.max() - across.min() >= 80
    assert torch.equal(drawn, drawn.T)


def test_no_region_is_lost_when_it_shrinks_and_none_is_drawn_where_there_is_none():
    mask = torch.zeros(2, 1, 2000, 1500, dtype=torch.bool)
    mask[0, 0, 701, 301] = True
    through = outlines(mask, (64, 48)).through
    seen = (through[0, 0] < 0.9).nonzero()
    assert len(seen) and bool(((seen - torch.tensor([22, 9])).abs() <= 2).all())
    assert through[1].eq(1).all()


def test_a_region_that_reaches_the_border_is_closed_there():
    drawn = outlines(box(100, 100, 50, 50, 100, 100), (100, 100)).over(torch.zeros(1, 3, 100, 100, dtype=torch.uint8))[0, 0]
    assert bool((drawn[52:98, 99] > 200).all()) and bool((drawn[99, 52:98] > 200).all())
    assert not drawn[:40].any() and not drawn[60:90, 60:90].any()


def test_each_region_has_a_colour_of_its_own():
    masks = torch.cat([box(80, 80, 5, 5, 35, 35), box(80, 80, 45, 45, 75, 75)], 1)
    drawn = outlines(masks, (80, 80)).over(torch.zeros(1, 3, 80, 80, dtype=torch.uint8))[0]
    assert drawn[:, 20, 5].tolist() == list(region_colours(2)[0])
    assert drawn[:, 60, 45].tolist() == list(region_colours(2)[1])
    for count in (1, 5, 9):
        assert len(set(region_colours(count))) == count


def test_images_and_overlays_have_outlines_and_heat_has_none():
    pictures, heat, mask = photo(2, 80, 80), noise(2, 3, 3), box(80, 80, 20, 20, 60, 60).expand(2, -1, -1, -1)
    style = Style(tile=80)
    plain, marked = (views.panels(pictures, heat, style, regions) for regions in (None, mask))
    assert plain.shape == marked.shape
    layer = outlines(mask, (80, 80))
    assert torch.equal(marked[..., :80], layer.over(pictures))
    assert torch.equal(marked[..., 82:162], plain[..., 82:162])
    assert torch.equal(marked[..., 164:], layer.over(plain[..., 164:]))
    assert torch.equal(views.flat(pictures, heat, style, mask), layer.over(views.flat(pictures, heat, style)))


def test_every_cell_of_a_filmstrip_has_them_at_its_own_size():
    pictures, heat, mask = photo(2, 80, 80), noise(3, 2, 3, 3), box(80, 80, 20, 20, 60, 60).expand(2, -1, -1, -1)
    plain, marked = (views.cells(pictures, heat, Style(tile=100), regions) for regions in (None, mask))
    assert torch.equal(marked, outlines(mask, (70, 70)).over(plain)) and not torch.equal(marked, plain)
    assert torch.equal(marked[0], outlines(mask, (70, 70)).over(fit(pictures, 70)))


def test_of_a_volume_each_slice_has_the_outline_that_lies_in_it():
    volume = photo(1, 32, 32)[:, :, None].expand(-1, -1, 6, -1, -1)
    heat = torch.zeros(1, 6, 4, 4)
    heat[0, 1], heat[0, 4] = 1.0, 0.9
    mask = torch.zeros(1, 1, 6, 32, 32, dtype=torch.bool)
    mask[0, 0, 4, 8:24, 8:24] = True
    style = Style(tile=64, slices=2, panels=("image",))
    index = slices.spread(slices.energy(heat, 6, 0.0), 2)
    assert index.tolist() == [[1, 4]]
    plain, marked = (views.panels(volume, heat, style, regions) for regions in (None, mask))
    differs = (plain != marked).any(1)[0]
    assert not differs[:, :50].any() and differs[:, 50:].any()
    hottest = torch.stack([heat, heat])
    strips = [views.cells(volume, hottest, style, regions) for regions in (None, mask)]
    assert torch.equal(*strips)  # the hottest slice is another
    strips = [views.cells(volume, hottest.flip(2), style, regions) for regions in (None, mask.flip(2))]
    assert torch.equal(*strips)
    hottest[:, :, 4] = 2
    strips = [views.cells(volume, hottest, style, regions) for regions in (None, mask)]
    assert not torch.equal(*strips)
    own = [views.flat(volume, heat, style, regions) for regions in (None, mask)]
    assert own[0].shape == own[1].shape and not torch.equal(*own)


@pytest.mark.parametrize("t", [7, 90, 700])
def test_below_a_signal_bars_stand_where_its_region_is(t):
    width = 200
    mask = noise(2, 2, t, seed=t) > 0.9
    mask[0, 0, t // 2] = True
    strip = bars(mask, width, Style(tile=64))
    lane = strip.shape[2] // 2
    room = width - 2 * BORDER - 1
    for i, r in ((0, 0), (1, 1)):
        colour = torch.tensor(region_colours(2)[r])[:, None]
        drawn = (strip[i, :, r * lane + lane // 2] == colour).all(0)
        # every time that is inside has its column, and a column without one has none
        columns = [BORDER + round(k * room / max(t - 1, 1)) for k in range(t) if mask[i, r, k]]
        assert bool(drawn[columns].all())
        spread = room / (2 * max(t - 1, 1)) + 1
        for x in range(width):
            if drawn[x]:
                assert min((abs(x - column) for column in columns), default=width) <= spread
    empty = bars(torch.zeros(1, 1, t, dtype=torch.bool), width, Style(tile=64))
    assert empty.flatten(2).unique(dim=2).shape[2] == 1


@pytest.mark.parametrize("norm", ["positive", "symmetric"])
def test_bars_hide_nothing_of_a_curve(norm):
    signals, heat = noise(2, 2, 60), noise(2, 6)
    mask = torch.zeros(2, 1, 60, dtype=torch.bool)
    mask[:, :, 20:40] = True
    style = Style(tile=64, norm=norm)
    for draw in (views.panels, views.flat):
        plain, marked = draw(signals, heat, style), draw(signals, heat, style, mask)
        added = marked.shape[2] - plain.shape[2]
        assert added > 0 and torch.equal(marked[:, :, :64], plain[:, :, :64])
        assert torch.equal(marked[:, :, 64 + added :], plain[:, :, 64:])
        assert (marked[:, :, 64 : 64 + added] == 255).all(1).any()
    cells = views.cells(signals, heat[None], style, mask)
    assert torch.equal(cells[..., :32, :], views.cells(signals, heat[None], style))
