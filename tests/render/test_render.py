"""Colours, sizes and blending equal OpenCV's; sheets and strips are laid out as said."""

import cv2
import numpy as np
import pytest
import torch

from lightning_cam import Style, figures, render
from lightning_cam.figures.sheet import grid, panel_row, sheet, under_header
from lightning_cam.heat import maximum, rescale, resize, value_range
from lightning_cam.render import colormap, overlay
from lightning_cam.render.text import PAPER, RIGHT, WRONG, Caption, strips
from lightning_cam.render.typesetting import clip, typeset


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def photo(b=2, h=40, w=60, seed=0):
    return (noise(b, 3, h, w, seed=seed) * 255).round().to(torch.uint8)


def bgr(rgb):
    return np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()[..., ::-1])


@pytest.mark.parametrize("name", [name for name in colormap.names() if name != "blue_red"])
def test_every_colour_map_equals_opencv(name):
    values = torch.arange(256)
    ours = colormap.colour((values / 255)[None], name)[:, 0].T.numpy()
    code = getattr(cv2, f"COLORMAP_{name.upper()}")
    theirs = cv2.applyColorMap(values.numpy().astype(np.uint8)[:, None], code)[:, 0, ::-1]
    assert np.array_equal(ours, theirs)


def test_all_of_opencvs_colour_maps_are_there():
    assert {"jet", "viridis", "inferno", "turbo", "cividis", "twilight_shifted"} <= set(colormap.names())
    assert len(colormap.names()) == 1 + sum(name.startswith("COLORMAP_") for name in dir(cv2))


@pytest.mark.parametrize("size", [(224, 224), (37, 90), (3, 5), (8, 10)])
def test_resize_equals_opencv(size):
    heat = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(1))
    theirs = np.stack([cv2.resize(one.numpy(), size[::-1], interpolation=cv2.INTER_LINEAR) for one in heat])
    assert np.abs(resize(heat, size).numpy() - theirs).max() < 2e-6


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.3), (1.0, 1.0), (0.25, 1.5), (0.0, 1.0), (0.6, 0.4)])
def test_weighted_blend_equals_opencv_on_every_pair_of_values(weights):
    a = torch.arange(256, dtype=torch.uint8).repeat(256, 1)
    b = a.T.contiguous()
    ours = overlay.add_weighted(a.expand(3, -1, -1), b.expand(3, -1, -1), *weights)[0].numpy()
    theirs = cv2.addWeighted(a.numpy(), weights[0], b.numpy(), weights[1], 0)
    different = ours.astype(int) - theirs.astype(int)
    assert np.abs(different).max() <= 1  # a sum that lies on .5 in float32 may fall to either side
    assert (different != 0).mean() < 0.01


def test_weighted_overlay_is_the_weighted_sum_of_image_and_colours():
    style = Style(image_weight=0.6, heat_weight=0.4, colormap="jet")
    pictures, normalized = photo(), noise(2, 40, 60, seed=3)
    ours = render.blend(pictures, normalized, style)
    for picture, heat, mine in zip(pictures, normalized, ours, strict=True):
        hot = cv2.applyColorMap(np.rint(heat.numpy() * 255).astype(np.uint8), cv2.COLORMAP_JET)
        assert np.abs(bgr(mine).astype(int) - cv2.addWeighted(bgr(picture), 0.6, hot, 0.4, 0).astype(int)).max() <= 1


def test_opacity_grows_with_heat():
    pictures = photo(1)
    normalized = torch.zeros(1, 40, 60)
    normalized[0, :, 30:] = 1
    cold, hot = render.blend(pictures, normalized, Style(alpha=1.0)).split(30, 3)
    assert torch.equal(cold, pictures[..., :30])
    assert torch.equal(hot, colormap.colour(torch.ones(1, 40, 30), "inferno"))
    assert torch.equal(render.blend(pictures, normalized, Style(alpha=0.0)), pictures)


def test_weights_complete_each_other():
    assert Style(image_weight=0.6).weights == pytest.approx((0.6, 0.4))
    assert Style(heat_weight=0.3).weights == pytest.approx((0.7, 0.3))
    assert Style().weights is None


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colormap": "virdis"}, "No colour map 'virdis'. Did you mean 'viridis'"),
        ({"norm": "min-max"}, "expected one of positive, minmax, symmetric. Did you mean 'minmax'"),
        ({"scale": "imge"}, "Did you mean 'image'"),
        ({"scale": -1.0}, "above 0"),
        ({"panels": ("image", "heet")}, "Did you mean 'heat'"),
        ({"panels": ()}, "expected a list"),
        ({"alpha": 1.5}, "expected 0 to 1"),
        ({"alpha": 0.5, "image_weight": 0.5}, "not both"),
        ({"mean": (0.5,)}, "belong together"),
        ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
        ({"encoding": "webp"}, "expected one of jpeg, png"),
        ({"tile": 8}, "32 to 2048"),
        ({"font": "nowhere.ttf"}, "no such file"),
    ],
)
def test_a_wrong_style_is_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        Style(**options)


def test_scales_say_whose_extremes_fill_the_colours():
    heat = torch.tensor([[[-1.0, 2.0]], [[0.5, 4.0]]])
    assert rescale(heat, *value_range(heat, "positive")).tolist() == [[[0, 1]], [[0.125, 1]]]
    assert rescale(heat, *value_range(heat, "minmax")).tolist() == [[[0, 1]], [[0, 1]]]
    assert rescale(heat, *value_range(heat, "positive", "batch")).tolist() == [[[0, 0.5]], [[0.125, 1]]]
    assert rescale(heat, *value_range(heat, "positive", "run", (-3.0, 8.0))).tolist() == [[[0, 0.25]], [[0.0625, 0.5]]]
    assert rescale(heat, *value_range(heat, "positive", 2.0)).tolist() == [[[0, 1]], [[0.25, 1]]]
    assert maximum(heat).tolist() == [2, 4]


def test_single_pixels_of_a_fine_map_do_not_leave_the_rest_dark():
    heat = torch.arange(10000.0).reshape(1, 100, 100) - 5000
    heat[0, -1, -1] = 1e6
    low, high = value_range(heat, "minmax")
    assert (low.item(), high.item()) == (-4900, 4899)
    assert [end.item() for end in value_range(heat, "positive")] == [0, 4899]
    assert [end.item() for end in value_range(heat, "symmetric")] == [-4900, 4900]
    assert [end.item() for end in value_range(heat, "positive", "batch")] == [0, 1e6]
    alone = torch.zeros(1, 100, 100)
    alone[0, 3, 4] = 2  # few pixels are all there is
    assert [end.item() for end in value_range(alone, "positive")] == [0, 2]
    coarse = heat[:, :63, :65] + 5000  # 4095 cells: the extremes themselves
    assert [end.item() for end in value_range(coarse, "positive")] == [0, coarse.max().item()]


def test_a_flat_or_broken_map_is_shown_as_nothing():
    for heat in (torch.zeros(1, 2, 2), torch.full((1, 2, 2), -1.0), torch.full((1, 2, 2), torch.nan)):
        assert rescale(heat, *value_range(heat, "positive")).abs().sum() == 0
    flat = torch.full((1, 2, 2), 3.0)
    assert rescale(flat, *value_range(flat, "minmax")).abs().sum() == 0


def test_normalisation_is_undone_and_channels_shown_sensibly():
    x = noise(2, 3, 4, 5)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    normal = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(render.to_rgb(normal, (mean, std)), (x * 255).round().to(torch.uint8))
    grey = render.to_rgb(x[:, :1], None)
    assert grey.shape == (2, 3, 4, 5)
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.equal(render.to_rgb(torch.cat([x, x[:, :1]], 1), None), render.to_rgb(x, None))
    assert render.to_rgb(noise(1, 7, 4, 5), None).shape == (1, 3, 4, 5)
    assert torch.equal(render.to_rgb(photo(), None), photo())
    with pytest.raises(ValueError, match="3 channels and the image 1"):
        render.to_rgb(x[:, :1], (mean, std))


def test_values_are_never_guessed_only_noticed():
    assert render.looks_normalized(torch.randn(1, 3, 4, 4))
    assert not render.looks_normalized(noise(1, 3, 4, 4))
    assert not render.looks_normalized(photo())


def test_grid_places_cards_row_by_row_with_gaps():
    cards = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 4)
    laid = grid(cards, 3, 1)
    assert laid.shape == (3, 2 * 3 + 1, 3 * 5 + 1)
    assert [int(laid[0, 1 + 3 * (i // 3), 1 + 5 * (i % 3)]) for i in range(6)] == [0, 1, 2, 3, 4, 255]
    assert laid[0, 0].unique().tolist() == [255]


def test_panels_stand_in_the_order_asked_for():
    pictures, normalized = photo(1, 20, 30), noise(1, 2, 3)
    style = Style(panels=("overlay", "image"))
    row = panel_row(pictures, normalized, style)
    assert row.shape == (1, 3, 20, 62)
    assert torch.equal(row[..., 32:], pictures)
    assert torch.equal(row[..., :30], render.blend(pictures, render.shown(normalized, (20, 30)), style))


def test_sixteen_samples_fit_a_laptop():
    words = [Caption(f"class {i} 93%", f"peak 1.2 · #{i}", i % 2 == 0) for i in range(16)]
    drawn = sheet(photo(16, 224, 224), noise(16, 7, 7), words, ("grad_cam at layer4", "epoch 3"), Style())
    height, width = drawn.shape[1:]
    assert 1.4 < width / height < 2.3
    assert width <= 2100


def test_verdict_is_a_colour_that_colour_blind_eyes_tell_apart():
    strip = {right: strips([Caption("cat 93%", "", right)], 200, 18, None)[0] for right in (True, False, None)}
    assert strip[True][:, 10, 0].tolist() == list(RIGHT)
    assert strip[False][:, 10, 0].tolist() == list(WRONG)
    assert strip[None][:, 10, 0].tolist() == list(PAPER)


def test_text_too_long_is_cut_and_accents_without_a_glyph_are_dropped():
    cut = clip(typeset("a" * 100, 18, None), 100)
    assert cut.text.endswith("...")
    assert 90 < cut.length <= 100
    assert typeset("Bär · 93%", 18, None).text == "Bar · 93%"


def test_filmstrip_has_a_row_a_sample_and_a_column_a_moment():
    pictures, style = photo(3, 32, 32), Style(tile=64)
    units = torch.stack([torch.full((3, 2, 2), float(i)) for i in (0, 1)])
    strip = figures.filmstrip(pictures, units, ["a long name that takes room", "dog", "cow"], ["start", "1"], ("t", "u"), style)
    cell, gap = 48, 3
    body = strip[:, -3 * (cell + gap) - gap : -gap, -3 * (cell + gap) - 2 * gap : -2 * gap]
    cells = body.reshape(3, 3, cell + gap, 3, cell + gap)[:, :, :cell, :, :cell]
    fitted = overlay.fit(pictures, 48)
    for i in range(3):
        assert torch.equal(cells[:, i, :, 0], fitted[i])
        assert torch.equal(cells[:, i, :, 1], fitted[i])  # no heat: nothing laid over
        assert not torch.equal(cells[:, i, :, 2], fitted[i])


def test_many_rows_of_a_filmstrip_stand_in_blocks():
    units = torch.zeros(5, 16, 2, 2)
    names = [f"row {i}" for i in range(16)]
    strip = figures.filmstrip(photo(16, 64, 64), units, names, ["start", "1", "2", "3", "4"], ("t", "u"), Style())
    assert 1.0 < strip.shape[2] / strip.shape[1] < 2.5


@pytest.mark.parametrize(("encoding", "tolerance"), [("png", 0), ("jpeg", 40)])
def test_encoded_pictures_decode_to_themselves(encoding, tolerance):
    smooth = resize(noise(3, 4, 6), (48, 72))
    pixels = (smooth * 255).round().to(torch.uint8)
    picture = render.Picture(render.to_host(pixels), "", encoding)
    decoded = cv2.imdecode(np.frombuffer(picture.encode(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - picture.pixels.astype(int)).max() <= tolerance


def test_signed_maps_are_centred_at_zero_by_whatever_scale():
    heat = torch.tensor([[[-1.0, 2.0, 0.0]], [[-4.0, 1.0, 0.0]]])
    assert rescale(heat, *value_range(heat, "symmetric"), 0.5).tolist() == [[[0.25, 1, 0.5]], [[0, 0.625, 0.5]]]
    assert rescale(heat, *value_range(heat, "symmetric", "batch"), 0.5).tolist() == [[[0.375, 0.75, 0.5]], [[0, 0.625, 0.5]]]
    assert rescale(heat, *value_range(heat, "symmetric", "run", (-8.0, 3.0)), 0.5).tolist()[0] == [[0.4375, 0.625, 0.5]]
    assert rescale(heat, *value_range(heat, "symmetric", 2.0), 0.5).tolist() == [[[0.25, 1, 0.5]], [[0, 0.75, 0.5]]]
    for blank in (torch.zeros(1, 2, 2), torch.full((1, 2, 2), torch.nan)):
        for scale in ("image", "batch", "run"):
            assert rescale(
                blank, *value_range(blank, "symmetric", scale), Style(norm="symmetric").neutral
            ).unique().tolist() == [0.5]
    half = torch.cat([heat[:1], torch.full((1, 1, 3), torch.nan)])
    assert rescale(half, *value_range(half, "symmetric", "batch"), 0.5).tolist() == [[[0.25, 1, 0.5]], [[0.5] * 3]]


def lightness(rgb):
    lab = cv2.cvtColor((rgb[None].numpy() / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    return lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])


def test_blue_red_is_balanced_about_a_neutral_middle():
    rgb = colormap.table("blue_red", torch.device("cpu"))
    assert colormap.colour(torch.full((1, 1, 1), 0.5), "blue_red").flatten().tolist() == rgb[128].tolist()
    assert int(rgb[128].max()) - int(rgb[128].min()) <= 1
    light, chroma = lightness(rgb)
    assert (np.diff(light[:129]) > -0.3).all() and (np.diff(light[128:]) < 0.3).all()  # 8 bits round
    for far in range(1, 128):
        assert abs(light[128 - far] - light[128 + far]) < 6
    assert chroma[0] > 50 and chroma[255] > 50
    blue, red = rgb[0].int(), rgb[255].int()
    assert blue[2] > blue[0] + 100 and red[0] > red[2] + 100


@pytest.mark.parametrize(("lost", "kept"), [("red", (0.0, 2.02344, -2.52581)), ("green", (0.494207, 0.0, 1.24827))])
def test_for_and_against_are_told_apart_by_colour_blind_eyes(lost, kept):
    """Simulated as by Vienot, Brettel and Mollon 1999: the missing cone's answer is made of the other two."""
    to_cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    rgb = (colormap.table("blue_red", torch.device("cpu")).numpy() / 255) ** 2.2
    cones = rgb @ to_cones.T
    cones[:, 0 if lost == "red" else 1] = cones @ np.array(kept)
    seen = np.clip(cones @ np.linalg.inv(to_cones).T, 0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    for far, apart in ((127, 60), (64, 30), (32, 12)):
        assert np.linalg.norm(lab[128 - far] - lab[128 + far]) > apart


def test_a_signed_style_has_its_own_colours_and_legend():
    assert Style().colours == "inferno" and Style(norm="symmetric").colours == "blue_red"
    assert Style(norm="symmetric", colormap="twilight").colours == "twilight"
    words = [Caption("a", "b")] * 8
    plain, signed = (sheet(photo(8), noise(8, 3, 3), words, ("t", "u"), Style(norm=norm)) for norm in ("positive", "symmetric"))
    ends = colormap.table("blue_red", torch.device("cpu"))[[0, 255]]
    header = signed[:, :60].flatten(1).T
    assert all((header == end).all(1).any() for end in ends)
    assert plain.shape == signed.shape


def test_signed_heat_lies_on_a_grey_picture_and_its_opacity_grows_with_its_size():
    pictures, style = photo(1), Style(norm="symmetric", alpha=1.0)
    normalized = torch.full((1, 40, 60), 0.5)
    normalized[..., 20:40], normalized[..., 40:] = 0.0, 1.0
    drawn = render.blend(pictures, normalized, style)
    luma = cv2.cvtColor(pictures[0].permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    assert np.abs(drawn[0, :, :, :20].numpy().astype(int) - luma[None, :, :20]).max() <= 1
    rgb = colormap.table("blue_red", torch.device("cpu"))
    assert torch.equal(drawn[0, :, :, 20:40], rgb[0][:, None, None].expand(-1, 40, 20))
    assert torch.equal(drawn[0, :, :, 40:], rgb[255][:, None, None].expand(-1, 40, 20))
    a_quarter = render.blend(pictures, torch.full((1, 40, 60), 0.625), style).float()
    grey = overlay.grey(pictures).float()
    hot = colormap.colour(torch.tensor([[0.75]]), "blue_red").float()  # value 0.25, whose root is 0.5
    assert (a_quarter - (0.75 * grey + 0.25 * hot)).abs().max() <= 0.51
    weighted = render.blend(pictures, normalized, Style(norm="symmetric", image_weight=0.5))
    assert torch.equal(weighted, overlay.add_weighted(pictures, colormap.colour(normalized, "blue_red"), 0.5, 0.5))


def test_the_colour_scale_takes_what_the_title_leaves():
    def coloured(title, width):
        header = under_header(torch.zeros(3, 1, width, dtype=torch.uint8), (title, ""), Style(tile=160))[:, :-1].int()
        return ((header.amax(0) - header.amin(0)) > 60).any(0).sum().item()

    assert coloured("grad_cam at layer4", 1200) > 200
    assert 100 < coloured("grad_cam at layer4", 500) <= 125
    assert coloured("attention_relevance at encoder.layers.encoder_layer_1.ln_1", 500) == 0
