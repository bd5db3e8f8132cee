"""Callbacks beside the one that looks: of other things than class activation maps, and of what a look shows."""

from lightning_cam.callbacks.alarm import ShortcutAlarm as ShortcutAlarm
from lightning_cam.callbacks.patch_map import PatchMap as PatchMap
