"""A glance: the maps some batches before a look, of which nothing is written and nothing else kept."""

from typing import Any

from lightning_cam.record import Moment
from lightning_cam.training.look.join import join_records


def glance(watcher: Any) -> None:
    """Keep a Watcher's maps of now: how far they move until its next look, a few batches on, is noise too.

    The run's targets are asked with what they took up, and keep nothing of it.
    """
    memory, watcher.memory = watcher.memory, watcher.memory.aside()
    try:
        parts = watcher.look_here(watcher.begin_look(Moment(0, "a glance", ""), metrics=[]))
    finally:
        watcher.memory = memory
    # of each process's own samples, as these are what it compares them with
    records = join_records([part.records for part in parts])
    maps = {record.tag: (record.heat, record.predictions.classes) for record in records}
    memory.noise.keep(maps, min(part.samples.start for part in parts))
