"""The order of an image's axes: named, or told by the model's first convolution."""

import pytest
import torch
from torch import nn

from lightning_cam import Batch, explain
from lightning_cam.data.axes import axes_of, channels_second, parse_axes
from lightning_cam.data.collated import read_batch

VIDEO = torch.rand(2, 5, 3, 4, 6)


@pytest.mark.parametrize("axes", ["b t c h w", "btchw"])
def test_channels_come_second_and_go_back(axes):
    moved, order = channels_second(VIDEO, axes)
    assert torch.equal(moved, VIDEO.movedim(2, 1)) and torch.equal(moved.permute(order), VIDEO)


@pytest.mark.parametrize(("axes", "shape"), [("b h w c", (2, 6, 5, 3)), ("c b h w", (5, 2, 3, 6)), ("b h c w", (2, 3, 5, 6))])
def test_any_order(axes, shape):
    images = torch.rand(2, 5, 3, 6)
    moved, order = channels_second(images, axes)
    assert moved.shape == shape and torch.equal(moved.permute(order), images)


def test_the_usual_order_moves_nothing():
    moved, order = channels_second(VIDEO, "b c d h w")
    assert moved is VIDEO and order is None


@pytest.mark.parametrize("axes", ["b t h w", "c h w", "b c", "b c h h", ""])
def test_axes_that_are_none_are_refused_at_construction(axes):
    with pytest.raises(ValueError, match=r"Batch\(axes='.*'\): expected the names of all axes.*such as 'b t c h w'"):
        Batch(axes=axes)
    assert parse_axes("b t c h w") == list("btchw")


def test_axes_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"names 4 axes; the images are \(2, 5, 3, 4, 6\)"):
        read_batch((VIDEO, torch.arange(2)), Batch(axes="b c h w"))
    assert read_batch((VIDEO, torch.arange(2)), Batch(axes="b t c h w")).images.shape == (2, 3, 5, 4, 6)


@pytest.mark.parametrize(
    ("shape", "sides", "channels", "expected"),
    [
        ((2, 16, 3, 32, 32), 3, 3, "b t c h w"),
        ((2, 3, 16, 32, 32), 3, 3, None),
        ((2, 3, 3, 32, 32), 3, 3, None),
        ((2, 16, 3, 32, 32), 3, None, None),
        ((2, 1, 64, 64, 64), 3, 64, None),
        ((2, 32, 32, 3), 2, 3, "b h w c"),
        ((2, 1, 32, 32), 2, 3, None),
        ((2, 5), 2, 3, None),
        ((5,), 2, 3, None),
    ],
)
def test_the_first_convolution_tells_where_channels_are(shape, sides, channels, expected):
    assert axes_of(shape, sides, channels) == expected


def test_pictures_with_channels_last_are_read():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.conv(x.movedim(3, 1)).relu().mean((2, 3)))

    torch.manual_seed(0)
    model, x = Last(), torch.rand(2, 9, 7, 3)
    explanation = explain(model, x, layer="conv")
    assert explanation.heat.shape == (2, 7, 5) and explanation.overlay().shape == (2, 3, 9, 7)


PAIRS = torch.rand(3, 2, 13, 6, 5)


def test_frames_for_a_model_of_pictures_are_told_of_axes():
    with pytest.raises(ValueError, match=r"No images \[b c h w\].*Batch\(axes='b t c h w'\)"):
        read_batch((VIDEO, torch.arange(2)), Batch())


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        ({"image": PAIRS, "mask": PAIRS[:, 0, 0]}, dict()),
        ((0, {"pair": PAIRS}), dict(image=lambda batch: batch[1]["pair"])),
    ],
)
def test_several_pictures_a_sample_are_told_to_choose_which_is_shown(batch, options):
    """The model is given them all, as networks that detect what has changed are."""
    with pytest.raises(ValueError, match=r"If a sample has several of them, choose which is shown: Batch\(picture=") as error:
        read_batch(batch, Batch(**options))
    line = str(error.value).rpartition("Batch(")[2].rstrip(".").removesuffix(")")
    read = read_batch(batch, Batch(**options, **eval(f"dict({line})")))
    assert torch.equal(read.pictures, PAIRS[:, 0]) and torch.equal(read.images, PAIRS)
