"""A glance: the maps some batches before a look, of which nothing is written and nothing else kept."""

from typing import Any

from lightning_cam.record import Moment


def glance(watcher: Any) -> None:
    """Keep a Watcher's maps of now: how far they move until its next look, a few batches on, is noise too.

    The run's targets are asked with what they took up, and keep nothing of it.
    """
    memory, watcher.memory = watcher.memory, watcher.memory.aside()
    try:
        records = watcher.compute(Moment(0, "a glance", ""), metrics=[]).records
    finally:
        watcher.memory = memory
    memory.noise.keep(records)
