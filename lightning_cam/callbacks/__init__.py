"""Callbacks of other things than class activation maps."""

from lightning_cam.callbacks.patch_map import PatchMap as PatchMap
