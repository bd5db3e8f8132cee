"""Photographs of any mode, prepared as torchvision does."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from lightning_cam.cli.image_file import Preparation, open_image


def test_pictures_of_every_mode_open_right(tmp_path):
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8))
    grey = rgb.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.new("L", rgb.size, 0))
    palette = rgb.quantize(16)
    turned = rgb.getexif()
    turned[0x0112] = 6  # the camera was held upright
    white = Image.new("RGB", rgb.size, (255, 255, 255))
    cases = {
        "L.png": (grey, grey.convert("RGB"), {}),
        "1.png": (rgb.convert("1"), rgb.convert("1").convert("RGB"), {}),
        "deep.png": (deep, grey.convert("RGB"), {}),
        "float.tiff": (Image.fromarray(np.asarray(grey, np.float32) / 255), grey.convert("RGB"), {}),
        "LA.png": (grey.convert("LA"), grey.convert("RGB"), {}),
        "RGBA.png": (clear, white, {}),
        "P.png": (palette, palette.convert("RGB"), {}),
        "P.gif": (Image.new("P", rgb.size, 0), white, {"transparency": 0}),
        "CMYK.tiff": (rgb.convert("CMYK"), rgb, {}),
        "exif.png": (rgb, rgb.rotate(-90, expand=True), {"exif": turned}),
    }
    for name, (picture, expected, options) in cases.items():
        picture.save(tmp_path / name, **options)
        opened = open_image(tmp_path / name)
        assert opened.mode == "RGB" and np.array_equal(np.asarray(opened), np.asarray(expected)), name
    rgb.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:150])
    with pytest.raises(ValueError, match="not a picture that can be read"):
        open_image(tmp_path / "cut.png")


@pytest.mark.parametrize("size", [(300, 280), (260, 400), (100, 90)])
def test_a_photograph_is_prepared_as_torchvision_prepares_it(size):
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    photo = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    for entry in (torchvision.models.SqueezeNet1_1_Weights.DEFAULT, torchvision.models.EfficientNet_B1_Weights.IMAGENET1K_V2):
        prepared = Preparation.of(entry)
        assert torch.equal(prepared.tensor(photo)[0], entry.transforms()(photo))
        view = prepared.view(photo, prepared.size).float()  # resized once more by another filter, so alike but not equal
        shown = prepared.tensor(photo) * torch.tensor(prepared.std)[:, None, None] + torch.tensor(prepared.mean)[:, None, None]
        assert (view - 255 * shown).abs().mean() < 2
    assert Preparation.of(None, size=112) == Preparation(resize=128, size=112)
