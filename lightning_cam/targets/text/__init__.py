"""Words as targets: the likeness of an image to prompts, by a model of two towers."""

from lightning_cam.targets.text.prompts import text as text
