"""The table of events: what moved more than noise, a row an event, in a CSV file beside the table of samples."""

from collections.abc import Sequence
from pathlib import Path

from lightning_cam.data.batch import FixedBatch
from lightning_cam.record import Event
from lightning_cam.records import csv_file
from lightning_cam.records.table import cell, read_table

FILE = "events.csv"
_COLUMNS = ("session", "look", "step", "epoch", "map", "event", "sample", "name", "target", "change", "floor")
_WORDS = ("session", "look", "map", "event", "name")


class EventTable:
    """Writes the table of one run, or of the part of it up to a resume.

    Args:
        session: names the run, as in its record.
    """

    def __init__(self, session: str) -> None:
        self.session = session

    def add(self, folder: Path, events: Sequence[Event], batch: FixedBatch, tag: str) -> None:
        """Add the events of a look to ``<folder>/<tag>/events.csv``, by one write.

        Args:
            folder: of the run.
            events: what moved; without any there is nothing to write.
            batch: the samples.
            tag: first part of every tag.

        Raises:
            OSError: where the disk takes no more.
        """
        if not events:
            return
        path = folder / tag / FILE
        rows = [_row(event, batch, self.session) for event in events]
        if not csv_file.mend(path):
            rows.insert(0, _COLUMNS)
        csv_file.append(path, rows)


def events(log_dir: str | Path, tag: str = "cam") -> list[dict[str, str | float]]:
    """Every event of a run, oldest first: a sample whose map ``jumped``, or a look at which ``all moved``.

    Each is a dict of ``session``, ``look``, ``step``, ``epoch``, ``map`` (``<layer>/<method>``), ``event``, ``sample`` (its
    number in the watched batch) and ``name`` (both empty of the whole batch), ``target``, ``change`` (the cosine distance from
    the look before, of the whole batch its median) and ``floor`` (the same by noise alone).

    Args:
        log_dir: the run's folder, such as ``trainer.log_dir``.
        tag: the callback's.
    """
    path = Path(log_dir) / tag / FILE
    if not path.is_file():
        return []
    return read_table(path, words=_WORDS)


def _row(event: Event, batch: FixedBatch, session: str) -> tuple[str, ...]:
    sample, name, what = "", "", "all moved"
    if event.sample is not None:
        sample, what = str(event.sample), "jumped"
        name = batch.names[event.sample] if batch.names else f"sample {event.sample}"
    moment = event.moment
    epoch = "" if moment.epoch is None else f"{moment.epoch:g}"
    words = (session, moment.title, str(moment.step), epoch, event.tag, what, sample, name, str(event.target))
    return *(cell(word) if i in (1, 4, 7) else word for i, word in enumerate(words)), repr(event.change), repr(event.floor)
