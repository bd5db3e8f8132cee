"""Plain files: for loggers that keep numbers only, and where there is no logger."""

from pathlib import Path
from typing import Any

from lightning_cam.render.picture import FILE_ENDINGS, Picture, encode
from lightning_cam.sinks.registry import Overlays, register


@register("CSVLogger")
def csv_folder(
    logger: Any,
    tag: str,
    picture: Picture,
    step: int,
    overlays: Overlays | None = None,
) -> None:
    """Write beside the CSV file."""
    _ = logger.experiment  # opened while its folder is empty; later it would warn that what is there will be deleted
    files(Path(logger.log_dir), tag, picture, step, overlays)


def files(
    folder: Path,
    tag: str,
    picture: Picture,
    step: int,
    overlays: Overlays | None = None,
) -> None:
    """Write ``<folder>/<tag>/step_000042.jpg``, and each sample's overlay as ``step_000042/<image name>_<method>.jpg``.

    A tag that ends in ``filmstrip`` is one file, rewritten.
    """
    ending = FILE_ENDINGS[picture.encoding]
    place = folder / tag
    # it shows the run so far, so the newest replaces the one before
    if place.name == "filmstrip":
        _write(place.with_suffix(f".{ending}"), picture.encode())
        return
    stem = f"step_{step:06d}"
    _write(place / f"{stem}.{ending}", picture.encode())
    if overlays is None:
        return
    for name, pixels in overlays.items():
        path = place / stem / f"{_plain(name)}_{place.name}.{ending}"
        _write(path, encode(pixels, picture.encoding))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _plain(name: str) -> str:
    """A name without what a file system may not hold."""
    plain = ""
    for letter in name:
        if letter.isalnum() or letter in "-_.":
            plain += letter
        else:
            plain += "_"
    # a name of nothing but other signs would leave none
    return plain.strip("_") or "sample"
