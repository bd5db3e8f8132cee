"""A photograph from a file, prepared for the model and for showing. c channels, s side in pixels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from lightning_cam.render.text import to_tensor

# of ImageNet's pictures, by which most published weights were trained
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def open_image(path: str | Path) -> Image.Image:
    """Read a picture of any mode as RGB: turned as its EXIF data says, on white where it is transparent.

    Raises:
        ValueError: if the file is no picture, or a damaged one.
        OSError: if it is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No image file {path}.")
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            picture.load()  # a damaged file is noticed only when its pixels are read
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a picture that can be read: {error}") from error
    if picture.mode.startswith(("I", "F")):
        return _scaled_to_bytes(picture)
    bands = picture.getbands()
    if "A" in bands or "a" in bands or "transparency" in picture.info:
        return _on_white(picture)
    return picture.convert("RGB")


def _scaled_to_bytes(picture: Image.Image) -> Image.Image:
    """Deep grey in the range of a byte, which Pillow by itself would clip at 255."""
    values = np.asarray(picture, np.float64)
    scaled = values / _white(float(values.max())) * 255
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8)).convert("RGB")


def _white(largest: float) -> int:
    """The value that stands for white, of which such a file says nothing: by the largest value in it."""
    if largest > 255:
        return 65535
    if largest > 1:
        return 255
    return 1


def _on_white(picture: Image.Image) -> Image.Image:
    transparent = picture.convert("RGBA")
    page = Image.new("RGB", picture.size, (255, 255, 255))
    page.paste(transparent, mask=transparent.getchannel("A"))
    return page


@dataclass(frozen=True)
class Preparation:
    """What becomes of a photograph before the model sees it: Resize, CenterCrop, Normalize.

    Args:
        resize: the shorter side after resizing.
        size: the side of the square cut from the middle.
        mean: of the normalisation; three values, or one for a model of grey pictures.
        std: likewise.
        interpolation: how it is resized.
    """

    resize: int = 256
    size: int = 224
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ValueError(
                f"--resize {self.resize} --size {self.size}: a square can be cut from the middle if size <= resize."
            )
        channels = len(self.mean)
        if channels not in (1, 3) or len(self.std) != channels or not all(std > 0 for std in self.std):
            values = f"--mean {' '.join(map(str, self.mean))} --std {' '.join(map(str, self.std))}"
            raise ValueError(f"{values}: expected three values each, or one each for grey pictures, and std above 0.")

    @classmethod
    def of(cls, entry: Any, **options: Any) -> "Preparation":
        """What torchvision's weights prescribe, with some of it replaced.

        Args:
            entry: a member of a torchvision weights enum; None for the values most networks are trained with.
            options: values of ``Preparation`` that replace those; None replaces nothing.

        Raises:
            ValueError: for a square larger than the resized picture, or a normalisation that fits no picture.

        Example:
            >>> Preparation.of(None, size=112).resize
            128
        """
        prescribed = _prescribed(entry)
        replaced = {name: value for name, value in options.items() if value is not None}
        for name in ("mean", "std"):
            if name in replaced:
                replaced[name] = tuple(replaced[name])
        if "size" in replaced and "resize" not in replaced:  # of the picture the same part as before
            resize = prescribed.get("resize", cls.resize)
            size = prescribed.get("size", cls.size)
            replaced["resize"] = round(replaced["size"] * resize / size)
        return cls(**(prescribed | replaced))

    def tensor(self, photo: Image.Image) -> Float[Tensor, "1 c s s"]:
        """The model's input, as torchvision's own preset makes it."""
        if len(self.mean) == 1:
            photo = photo.convert("L")
        resized = transforms.resize(photo, [self.resize], self.interpolation)
        square = transforms.center_crop(resized, [self.size])
        values = transforms.to_tensor(square)
        prepared: Tensor = transforms.normalize(values, list(self.mean), list(self.std))
        return prepared[None]

    def view(self, photo: Image.Image, side: int) -> UInt8[Tensor, "1 3 s s"]:
        """What of the photograph the model sees, in the photograph's own detail."""
        half = min(photo.size) * self.size / self.resize / 2
        x = photo.width / 2
        y = photo.height / 2
        box = (
            max(0, x - half),
            max(0, y - half),
            min(photo.width, x + half),
            min(photo.height, y + half),
        )
        return to_tensor(photo.resize((side, side), Image.Resampling.LANCZOS, box))[None]


def _prescribed(entry: Any) -> dict[str, Any]:
    if entry is None:
        return {}
    preset = entry.transforms()
    if not hasattr(preset, "crop_size"):  # a preset of another kind than ImageNet's, as that of segmentation
        return {}
    return {
        "resize": preset.resize_size[0],
        "size": preset.crop_size[0],
        "interpolation": preset.interpolation,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def blank(channels: int, size: int) -> Float[Tensor, "1 c s s"]:
    """An empty input, to trace a model with."""
    return torch.zeros(1, channels, size, size)
