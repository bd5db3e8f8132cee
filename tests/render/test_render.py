"""Blending equals OpenCV's; panels, words and encoded pictures are what was asked for."""

import cv2
import numpy as np
import pytest
import torch
from pictures import bgr, noise, photo

from lightning_cam import Style, render
from lightning_cam.figures.sheet import panel_row
from lightning_cam.heat import resize
from lightning_cam.render import colormap, overlay
from lightning_cam.render.text import PAPER, RIGHT, WRONG, Caption, strips
from lightning_cam.render.typesetting import clip, typeset


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


def test_panels_stand_in_the_order_asked_for():
    pictures, normalized = photo(1, 20, 30), noise(1, 2, 3)
    style = Style(panels=("overlay", "image"))
    row = panel_row(pictures, normalized, style)
    assert row.shape == (1, 3, 20, 62)
    assert torch.equal(row[..., 32:], pictures)
    assert torch.equal(row[..., :30], render.blend(pictures, render.shown(normalized, (20, 30)), style))


def test_verdict_is_a_colour_that_colour_blind_eyes_tell_apart():
    strip = {right: strips([Caption("cat 93%", "", right)], 200, 18, None)[0] for right in (True, False, None)}
    assert strip[True][:, 10, 0].tolist() == list(RIGHT)
    assert strip[False][:, 10, 0].tolist() == list(WRONG)
    assert strip[None][:, 10, 0].tolist() == list(PAPER)


def test_text_too_long_is_cut():
    cut = clip(typeset("a" * 100, 18, None), 100)
    assert cut.text.endswith("...")
    assert 90 < cut.length <= 100


@pytest.mark.parametrize(("encoding", "tolerance"), [("png", 0), ("jpeg", 40)])
def test_encoded_pictures_decode_to_themselves(encoding, tolerance):
    smooth = resize(noise(3, 4, 6), (48, 72))
    pixels = (smooth * 255).round().to(torch.uint8)
    picture = render.Picture(render.to_host(pixels), "", encoding)
    decoded = cv2.imdecode(np.frombuffer(picture.encode(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - picture.pixels.astype(int)).max() <= tolerance


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
