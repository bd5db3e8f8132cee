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

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures, which most weights have seen


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
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a picture that can be read: {error}") from error
    if picture.mode.startswith(("I", "F")):  # deep grey, which Pillow would clip at 255
        values = np.asarray(picture, np.float64)
        top = 65535 if values.max() > 255 else 255 if values.max() > 1 else 1
        return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        picture = Image.new("RGB", picture.size, (255, 255, 255))
        picture.paste(clear, mask=clear.getchannel("A"))
    return picture.convert("RGB")


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
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or not all(std > 0 for std in self.std):
            given = f"--mean {' '.join(map(str, self.mean))} --std {' '.join(map(str, self.std))}"
            raise ValueError(f"{given}: expected three values each, or one each for grey pictures, and std above 0.")

    @classmethod
    def of(cls, entry: Any, **given: Any) -> "Preparation":
        """What torchvision's weights prescribe (or the usual, without), and over it what is given and not None."""
        preset: Any = entry.transforms() if entry is not None else None
        usual: dict[str, Any] = {}
        if hasattr(preset, "crop_size"):
            usual = {"resize": preset.resize_size[0], "size": preset.crop_size[0], "interpolation": preset.interpolation}
            usual |= {"mean": tuple(preset.mean), "std": tuple(preset.std)}
        given = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items() if v is not None}
        if "size" in given and "resize" not in given:
            given["resize"] = round(given["size"] * usual.get("resize", 256) / usual.get("size", 224))
        return cls(**(usual | given))

    def tensor(self, photo: Image.Image) -> Float[Tensor, "1 c s s"]:
        """The model's input, as torchvision's own preset makes it."""
        grey = photo.convert("L") if len(self.mean) == 1 else photo
        small = transforms.center_crop(transforms.resize(grey, [self.resize], self.interpolation), [self.size])
        prepared: Tensor = transforms.normalize(transforms.to_tensor(small), list(self.mean), list(self.std))
        return prepared[None]

    def view(self, photo: Image.Image, side: int) -> UInt8[Tensor, "1 3 s s"]:
        """What of the photograph the model sees, in the photograph's own detail."""
        half = min(photo.size) * self.size / self.resize / 2
        x, y = photo.width / 2, photo.height / 2
        box = (max(0, x - half), max(0, y - half), min(photo.width, x + half), min(photo.height, y + half))
        return to_tensor(photo.resize((side, side), Image.Resampling.LANCZOS, box))[None]


def blank(channels: int, size: int) -> Float[Tensor, "1 c s s"]:
    """An empty input, to trace a model with."""
    return torch.zeros(1, channels, size, size)
