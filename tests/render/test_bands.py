"""Channels chosen for showing: which are drawn, how they are stretched, and what is said where they are not there."""

import numpy as np
import pytest
import torch
from nets import STRICT
from plain import watcher
from torch import nn

from lightning_cam import Style, explain, render
from lightning_cam.concepts import factorize
from lightning_cam.render.overlay import stretched

pytestmark = STRICT

SIZES = [(7, 9), (3, 5, 6)]


def scene(*shape, scale=3000.0):
    """Bands of different brightness, most of it dark, as reflectances are."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) ** 3
    return scale * values * torch.linspace(0.1, 1, shape[1]).reshape(1, -1, *(1,) * (len(shape) - 2))


def by_numpy(images):
    """Each band of each image between its percentiles, one at a time."""
    drawn = np.zeros(images.shape, np.float64)
    for i, image in enumerate(images.double().numpy()):
        for j, band in enumerate(image):
            low, high = np.percentile(band, [2, 98])
            drawn[i, j] = (band - low) / (high - low)
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("size", [*SIZES, (101,), (1, 2), (64, 80)])
def test_a_stretch_equals_numpys_percentiles(size):
    images = scene(2, 3, *size)
    assert torch.allclose(stretched(images).double(), by_numpy(images), rtol=1e-6, atol=1e-6)
    assert torch.allclose(stretched(images.double()), by_numpy(images), rtol=1e-12, atol=1e-12)
    assert torch.allclose(stretched(images * 7 - 3).double(), by_numpy(images), rtol=1e-4, atol=1e-4)


def test_places_of_a_large_image_are_counted_exactly():
    count = 2**20 + 37
    values = torch.arange(count, dtype=torch.float64).reshape(1, 1, count)
    drawn = stretched(values)[0, 0]
    low, high = 0.02 * (count - 1), 0.98 * (count - 1)
    for place in (0, 20_971, count - 1):
        assert float(drawn[place]) == pytest.approx((place - low) / (high - low), abs=1e-12)


def test_a_band_without_extent_is_black_and_one_of_few_values_is_shown():
    images = scene(2, 4, 20, 20)
    images[0, 0] = 5.0
    images[:, 1] = 0
    images[0, 1, 4, 4], images[0, 1, 5, 5] = 9.0, 3.0  # not 2 % of the places each
    drawn = render.to_rgb(images, None, [0, 1, 2])
    assert not drawn[0, 0].any()
    assert not stretched(images)[0, 0].any() and not stretched(images)[1, 1].any()
    assert drawn[0, 1, 4, 4] == 255 and drawn[0, 1, 5, 5] == 85 and drawn[0, 1].sum() == 340
    assert not drawn[1, 1].any() and drawn[0, 2].amax() == 255 == drawn[1, 0].amax()
    assert not render.to_rgb(torch.full((1, 5, 3, 3), torch.nan), None, [0]).any()


def test_values_that_are_not_finite_do_not_count():
    images = scene(1, 5, 12, 12)
    holed = images.clone()
    holed[0, 3, :3] = torch.nan
    holed[0, 3, 3, 0], holed[0, 3, 3, 1] = torch.inf, -torch.inf
    finite = holed[0, 3].isfinite()
    drawn = stretched(holed)[0, 3]
    low, high = np.percentile(holed[0, 3][finite].double().numpy(), [2, 98])
    assert torch.allclose(drawn[finite].double(), (holed[0, 3][finite].double() - low) / (high - low), atol=1e-6)
    shown = render.to_rgb(holed, None, [3])[0, 0]
    assert not shown[:3].any() and shown[3, 0] == 255 and shown[3, 1] == 0


@pytest.mark.parametrize("size", SIZES)
def test_bands_are_shown_in_their_order_and_one_in_grey(size):
    images = scene(2, 13, *size)
    drawn = render.to_rgb(images, None, [3, 2, 1])
    assert drawn.shape == (2, 3, *size) and drawn.dtype == torch.uint8
    expected = (by_numpy(images)[:, [3, 2, 1]].clamp(0, 1) * 255).round()
    assert (drawn.double() - expected).abs().max() <= 1 and (drawn.double() == expected).double().mean() > 0.99
    grey = render.to_rgb(images, None, (3,))
    assert all(torch.equal(grey[:, i], drawn[:, 0]) for i in range(3))
    assert torch.equal(
        render.to_rgb(images.to(torch.int16).float(), None, [3]), render.to_rgb(images.to(torch.int16), None, [3])
    )


def test_a_known_normalisation_is_undone_and_values_of_a_photograph_are_not_stretched():
    x = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(1)) * 0.6
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
    normal = (x - torch.tensor(mean).reshape(5, 1, 1)) / torch.tensor(std).reshape(5, 1, 1)
    assert torch.equal(render.to_rgb(normal, (mean, std), [4, 0, 2]), (x[:, [4, 0, 2]] * 255).round().to(torch.uint8))
    # reflectances, of which the mean and the deviation are known
    wide = tuple(10000 * value for value in mean), tuple(10000 * value for value in std)
    assert torch.equal(render.to_rgb(normal, wide, [4, 0, 2]), render.to_rgb(10000 * x, None, [4, 0, 2]))
    assert int(render.to_rgb(normal, wide, [4, 0, 2]).amax()) == 255
    # a normalisation that nobody knows of moves no percentile
    unknown = render.to_rgb(normal, None, [4, 0, 2]).int() - render.to_rgb(x, None, [4, 0, 2]).int()
    assert unknown.abs().max() <= 1
    pixels = (255 * x).to(torch.uint8)
    assert torch.equal(render.to_rgb(pixels, None, [4, 0, 2]), pixels[:, [4, 0, 2]])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
def test_without_bands_nothing_is_stretched(channels):
    x = scene(2, channels, 4, 5, scale=1.5)
    clipped = (x.clamp(0, 1) * 255).round()
    expected = clipped[:, :3] if channels in (3, 4) else clipped.mean(1, keepdim=True).round().expand(-1, 3, -1, -1)
    assert torch.equal(render.to_rgb(x, None), expected.to(torch.uint8))


def test_of_signals_the_channels_are_those_drawn():
    x = torch.randn(2, 12, 40, generator=torch.Generator().manual_seed(2))
    assert torch.equal(render.displayable(x, None, [7, 1, 0]), x[:, [7, 1, 0]])
    with pytest.raises(ValueError, match=r"12 channels, 0 to 11; choose from these, such as Style\(bands=\[11\]\)"):
        render.displayable(x, None, [12])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bands", [[], [1, 2], [0, 1, 2, 3], [-1, 0, 1], [True], [0.0], "321", 3])
def test_bands_are_checked_at_construction(bands):
    with pytest.raises(ValueError, match=r"bands=.*three channels, counted from 0.*bands=\[3, 2, 1\], or one for grey"):
        Style(bands=bands)
    assert Style(bands=[3, 2, 1]).bands == [3, 2, 1] and Style(bands=(0,)).bands == (0,)


# a model that eats five bands


def net(sides=2, channels=5):
    torch.manual_seed(0)
    conv, pool = ((nn.Conv2d, nn.AdaptiveAvgPool2d), (nn.Conv3d, nn.AdaptiveAvgPool3d))[sides - 2]
    return nn.Sequential(conv(channels, 6, 3, 2, 1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(6, 3))


@pytest.mark.parametrize("size", SIZES)
def test_bands_reach_every_picture_of_a_look(size, tmp_path):
    x = scene(2, 5, *size)
    style = Style(bands=[3, 2, 1], alpha=0.0, tile=32, encoding="png")
    found = explain(net(len(size)), x, layer="0")
    assert torch.equal(found.overlay(style), render.to_rgb(x, None, [3, 2, 1]))
    data = x, torch.tensor([0, 1])
    watching = watcher(net(len(size)), tmp_path, data, layer="0", style=style)
    watching.look(0)
    watching.look(1)
    assert len(list(tmp_path.rglob("*.png"))) >= 3


def test_concepts_are_drawn_on_the_bands(monkeypatch):
    drawn = []
    to_rgb = render.to_rgb
    monkeypatch.setattr(render, "to_rgb", lambda *args: drawn.append(args[2]) or to_rgb(*args))
    factorize(net(), scene(2, 5, 8, 8), concepts=2, layer="0").picture(Style(bands=[4]))
    assert drawn == [[4]]


def test_bands_that_are_not_there_are_named_with_the_line_to_write(tmp_path):
    x = scene(2, 2, 8, 8)
    watching = watcher(net(channels=2), tmp_path, (x, torch.tensor([0, 1])), layer="0", style=Style(bands=[3, 2, 1]))
    message = (
        r"Style\(bands=\[3, 2, 1\]\): the images have 2 channels, 0 to 1; choose from these, such as Style\(bands=\[1, 1, 1\]\)"
    )
    with pytest.raises(ValueError, match=message):
        watching.look(0)
    data = x, torch.tensor([0, 1])
    assert watcher(net(channels=2), tmp_path, data, layer="0", style=Style(bands=[1, 1, 1])).look(0)


def test_images_of_many_channels_outside_0_to_1_are_told_of_bands_and_shown_by_them_without_a_word(tmp_path):
    data = scene(2, 5, 8, 8), torch.tensor([0, 1])
    line = r"clipped; give Style\(bands=\[3, 2, 1\]\) to show three of the 5 channels, stretched, or Style\(mean"
    with pytest.warns(UserWarning, match=line):
        watcher(net(), tmp_path, data, layer="0").look(0)
    watcher(net(), tmp_path, data, layer="0", style=Style(bands=[3, 2, 1], tile=32)).look(0)
    three = data[0][:, :3], data[1]
    with pytest.warns(UserWarning, match=r"shown clipped; give Style\(mean=\.\.\., std=\.\.\.\)\.$"):
        watcher(net(channels=3), tmp_path, three, layer="0").look(0)
