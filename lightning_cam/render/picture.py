"""Picture: what a sink is given. One transfer to the host."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from lightning_cam.render.style import Encoding

FILE_ENDINGS: Mapping[Encoding, str] = {"jpeg": "jpg", "png": "png"}

# of brightness and of colour
_JPEG_QUALITY = (92, 92)
# of a run's pages, of which there may be hundreds: three fifths of the bytes, and no difference that one sees
_PAGE_QUALITY = (78, 55)


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture on the host, its description in Markdown, and how it is best stored."""

    pixels: UInt8[np.ndarray[Any, Any], "h w 3"]
    description: str = ""
    encoding: Encoding = "jpeg"
    overlays: Callable[[], Mapping[str, UInt8[np.ndarray[Any, Any], "y x 3"]]] = dict  # each sample's, by name

    def encode(self) -> bytes:
        """The file's bytes: JPEG of quality 78, of its colours 55, with full colour resolution; or PNG."""
        return encode(self.pixels, self.encoding, _PAGE_QUALITY)


def to_host(pixels: UInt8[Tensor, "*b 3 h w"]) -> UInt8[np.ndarray[Any, Any], "*b h w 3"]:
    """Bring pixels from the device: the one transfer of a picture."""
    # turned on the device, where it is cheap
    return pixels.movedim(-3, -1).contiguous().cpu().numpy()


def encode(pixels: UInt8[np.ndarray[Any, Any], "h w 3"], encoding: Encoding, quality: tuple[int, int] = _JPEG_QUALITY) -> bytes:
    """Encode RGB pixels through OpenCV.

    Args:
        pixels: of one picture.
        encoding: as JPEG or PNG.
        quality: a JPEG's, of brightness and of colour, 0 to 100.

    Raises:
        OSError: if OpenCV cannot.

    Example:
        >>> encode(np.zeros((4, 6, 3), np.uint8), "png")[1:4]
        b'PNG'
    """
    suffix = f".{encoding}"
    options: list[int] = []
    if encoding == "jpeg":
        brightness, colour = quality
        options = [cv2.IMWRITE_JPEG_QUALITY, brightness]
        if colour != brightness:
            options += [cv2.IMWRITE_JPEG_LUMA_QUALITY, brightness, cv2.IMWRITE_JPEG_CHROMA_QUALITY, colour]
        # small coloured type blurs when chroma is halved; older OpenCV has no such option
        if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"):
            options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    ok, data = cv2.imencode(suffix, bgr, options)
    if not ok:
        raise OSError(f"OpenCV could not encode a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels as {encoding}.")
    return bytes(data)
