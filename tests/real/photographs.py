"""Where real photographs and weights are, and how they are read."""

import csv
import os
from pathlib import Path

import pytest
import torchvision
from PIL import Image
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

from lightning_cam.cli.image_file import MEAN, STD

DATA = Path(os.environ.get("LIGHTNING_CAM_DATA") or Path(__file__).parents[2] / "../shared/data")
NEEDS_DATA = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real photographs and weights at {DATA}; LIGHTNING_CAM_DATA names another place"
)

cropped = torchvision.models.SqueezeNet1_0_Weights.DEFAULT.transforms()  # Resize 256, CenterCrop 224, ImageNet's normalisation
whole = Compose([Resize((224, 224), InterpolationMode.BILINEAR), ToTensor(), Normalize(MEAN, STD)])


def table(path):
    with (DATA / path).open(newline="") as file:
        return list(csv.DictReader(file))


def picture(path):
    return Image.open(DATA / path).convert("RGB")
