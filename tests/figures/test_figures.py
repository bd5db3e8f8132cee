"""Sheets and filmstrips are laid out as said, with their headers and captions."""

import torch
from pictures import noise, photo

from lightning_cam import Style, figures
from lightning_cam.figures.filmstrip import Columns, strength_bars
from lightning_cam.figures.sheet import grid, sheet, under_header
from lightning_cam.render import colormap, overlay
from lightning_cam.render.text import Caption


def test_grid_places_cards_row_by_row_with_gaps():
    cards = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 4)
    laid = grid(cards, 3, 1)
    assert laid.shape == (3, 2 * 3 + 1, 3 * 5 + 1)
    assert [int(laid[0, 1 + 3 * (i // 3), 1 + 5 * (i % 3)]) for i in range(6)] == [0, 1, 2, 3, 4, 255]
    assert laid[0, 0].unique().tolist() == [255]


def test_sixteen_samples_fit_a_laptop():
    words = [Caption(f"class {i} 93%", f"peak 1.2 · #{i}", i % 2 == 0) for i in range(16)]
    drawn = sheet(photo(16, 224, 224), noise(16, 7, 7), words, ("grad_cam at layer4", "epoch 3"), Style())
    height, width = drawn.shape[1:]
    assert 1.4 < width / height < 2.3
    assert width <= 2100


def test_filmstrip_has_a_row_a_sample_and_a_column_a_moment():
    pictures, style = photo(3, 32, 32), Style(tile=64)
    units = torch.stack([torch.full((3, 2, 2), float(i)) for i in (0, 1)])
    columns = Columns(["start", "1"], units, torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 3.0]]))
    strip = figures.filmstrip(pictures, columns, ["a long name that takes room", "dog", "cow"], ("t", "u"), style)
    cell, gap = 48, 3
    high = cell + 4 * gap
    body = strip[:, -3 * high - gap : -gap, -3 * (cell + gap) - 2 * gap : -2 * gap]
    rows = body.reshape(3, 3, high, 3, cell + gap)
    cells = rows[:, :, :cell, :, :cell]
    bars = rows[0, :, cell + gap : cell + 2 * gap, :, :cell]
    lengths = [[int((bars[row, 0, column] < 100).sum()) for column in range(3)] for row in range(3)]
    assert lengths == [[0, cell // 2, cell], [0, cell, cell // 2], [0, 0, cell]]
    fitted = overlay.fit(pictures, 48)
    for i in range(3):
        assert torch.equal(cells[:, i, :, 0], fitted[i])
        assert torch.equal(cells[:, i, :, 1], fitted[i])  # no heat: nothing laid over
        assert not torch.equal(cells[:, i, :, 2], fitted[i])


def test_a_bar_tells_a_map_s_strength_as_a_share_of_its_row_s_strongest():
    strength = torch.tensor([[4.0, -1.0, 1e-6, 0.0], [1.0, -2.0, 5.0, torch.nan]])
    bars = strength_bars(strength, 40, 3)
    assert bars.shape == (3, 4, 3, 6, 40) and bars[:, :, :, :3].unique().tolist() == [255]
    assert bars[0].unique().tolist() == [255]  # the images have none
    lengths = (bars[1:, :, 0, 4] < 100).sum(2)
    # faint is another thing than none: its beginning is seen
    assert lengths.tolist() == [[40, 0, 2, 0], [10, 0, 40, 0]]
    assert torch.equal(strength_bars(7 * strength, 40, 3), bars)


def test_many_rows_of_a_filmstrip_stand_in_blocks():
    units = torch.zeros(5, 16, 2, 2)
    names = [f"row {i}" for i in range(16)]
    columns = Columns(["start", "1", "2", "3", "4"], units, torch.ones(5, 16))
    strip = figures.filmstrip(photo(16, 64, 64), columns, names, ("t", "u"), Style())
    assert 1.0 < strip.shape[2] / strip.shape[1] < 2.5


def test_a_signed_style_has_its_own_colours_and_legend():
    assert Style().colours == "inferno" and Style(norm="symmetric").colours == "blue_red"
    assert Style(norm="symmetric", colormap="twilight").colours == "twilight"
    words = [Caption("a", "b")] * 8
    plain, signed = (sheet(photo(8), noise(8, 3, 3), words, ("t", "u"), Style(norm=unit)) for unit in ("positive", "symmetric"))
    ends = colormap.table("blue_red", torch.device("cpu"))[[0, 255]]
    header = signed[:, :60].flatten(1).T
    assert all((header == end).all(1).any() for end in ends)
    assert plain.shape == signed.shape


def test_the_colour_scale_takes_what_the_title_leaves():
    def coloured(title, width):
        header = under_header(torch.zeros(3, 1, width, dtype=torch.uint8), (title, ""), Style(tile=160))[:, :-1].int()
        return ((header.amax(0) - header.amin(0)) > 60).any(0).sum().item()

    assert coloured("grad_cam at layer4", 1200) > 200
    assert 100 < coloured("grad_cam at layer4", 500) <= 125
    assert coloured("attention_relevance at encoder.layers.encoder_layer_1.ln_1", 500) == 0
