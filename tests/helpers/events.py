"""What TensorBoard reads back."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_events(place: str | Path) -> EventAccumulator:
    """Every picture and scalar of an event file, or of a folder with one: a logger's ``log_dir``."""
    return EventAccumulator(str(place), {"images": 0, "scalars": 0}).Reload()
