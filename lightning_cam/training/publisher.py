"""Pictures to every logger that takes them, else to files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_cam.render.picture import Picture
from lightning_cam.sinks.files import files
from lightning_cam.sinks.registry import find, names
from lightning_cam.training.notices import Notices


def publish(loggers: Iterable[Any], folder: Path, pictures: Mapping[str, Picture], step: int, notices: Notices) -> None:
    """Write every picture under its tag; a logger nobody taught is one warning, one that fails ends nothing."""
    served = False
    for logger in loggers:
        sink = find(logger)
        if sink is None:
            notices.warn(f"{type(logger).__name__} is not known to take pictures. Known: {', '.join(names())}.")
            continue
        served = True
        for tag, picture in pictures.items():
            notices.guarded(type(logger).__name__, sink, logger, tag, picture, step)
    if not served:
        notices.say(f"no logger takes pictures, so they are written below {folder}")
        for tag, picture in pictures.items():
            notices.guarded(str(folder), files, folder, tag, picture, step)
