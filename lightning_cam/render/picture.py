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

_JPEG_QUALITY = 92


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture on the host, its description in Markdown, and how it is best stored."""

    pixels: UInt8[np.ndarray[Any, Any], "h w 3"]
    description: str = ""
    encoding: Encoding = "jpeg"
    overlays: Callable[[], Mapping[str, UInt8[np.ndarray[Any, Any], "y x 3"]]] = dict  # each sample's, by name

    def encode(self) -> bytes:
        """The file's bytes: JPEG of quality 92 with full colour resolution, or PNG."""
        return encode(self.pixels, self.encoding)


def to_host(pixels: UInt8[Tensor, "*b 3 h w"]) -> UInt8[np.ndarray[Any, Any], "*b h w 3"]:
    """Bring pixels from the device: the one transfer of a picture."""
    # turned on the device, where it is cheap
    return pixels.movedim(-3, -1).contiguous().cpu().numpy()


def encode(pixels: UInt8[np.ndarray[Any, Any], "h w 3"], encoding: Encoding) -> bytes:
    """Encode RGB pixels through OpenCV.

    Raises:
        OSError: if OpenCV cannot.

    Example:
        >>> encode(np.zeros((4, 6, 3), np.uint8), "png")[1:4]
        b'PNG'
    """
    suffix = f".{encoding}"
    options: list[int] = []
    if encoding == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        # small coloured type blurs when chroma is halved; older OpenCV has no such option
        if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"):
            options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    ok, data = cv2.imencode(suffix, bgr, options)
    if not ok:
        raise OSError(f"OpenCV could not encode a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels as {encoding}.")
    return bytes(data)
