"""Loggers that offer ``log_image`` as Lightning's WandbLogger does."""

from typing import Any

from lightning_cam.render.picture import Picture
from lightning_cam.sinks.registry import register


@register("*")
def log_image(logger: Any, tag: str, picture: Picture, step: int) -> None:
    """Hand over uint8 pixels; the step becomes the tracker's own step metric."""
    logger.log_image(key=tag, images=[picture.pixels], step=step)
