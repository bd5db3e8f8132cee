"""Plain files: for loggers that keep numbers only, and where there is no logger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

from lightning_cam.render.picture import Picture, encode
from lightning_cam.sinks.registry import register

Overlays = Mapping[str, UInt8[ndarray[Any, Any], "y x 3"]]


@register("CSVLogger")
def csv_folder(logger: Any, tag: str, picture: Picture, step: int, overlays: Overlays | None = None) -> None:
    """Write beside the CSV file."""
    _ = logger.experiment  # opened while its folder is empty; later it would warn that what is there will be deleted
    files(Path(logger.log_dir), tag, picture, step, overlays)


def files(folder: Path, tag: str, picture: Picture, step: int, overlays: Overlays | None = None) -> None:
    """Write ``<folder>/<tag>/step_000042.jpg``, and each sample's overlay as ``step_000042/<image name>_<method>.jpg``.

    A tag that ends in ``filmstrip`` is one file, rewritten.
    """
    ending = "jpg" if picture.encoding == "jpeg" else "png"
    place = folder / tag
    if place.name == "filmstrip":
        _write(place.with_suffix(f".{ending}"), picture.encode())
        return
    _write(place / f"step_{step:06d}.{ending}", picture.encode())
    for name, pixels in (overlays or {}).items():
        _write(place / f"step_{step:06d}" / f"{_plain(name)}_{place.name}.{ending}", encode(pixels, picture.encoding))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _plain(name: str) -> str:
    """A name without what a file system may not hold."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return plain.strip("_") or "sample"
