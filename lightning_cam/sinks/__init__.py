"""Sinks: ``(logger, tag, picture, step) -> None``, found by the logger's class name."""

from lightning_cam.sinks.files import csv_folder as csv_folder
from lightning_cam.sinks.files import files as files
from lightning_cam.sinks.log_image import log_image as log_image
from lightning_cam.sinks.registry import Sink as Sink
from lightning_cam.sinks.registry import find as find
from lightning_cam.sinks.registry import names as names
from lightning_cam.sinks.registry import register as register
from lightning_cam.sinks.registry import unregister as unregister
from lightning_cam.sinks.tensorboard import tensorboard as tensorboard
