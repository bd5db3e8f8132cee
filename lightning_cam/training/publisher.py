"""Finished pictures to every logger that takes them, else to files; and every look to the record of the run."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_cam.data.batch import FixedBatch
from lightning_cam.no_trace import isolated_rng
from lightning_cam.record import Event, Record
from lightning_cam.records.events import EventTable
from lightning_cam.records.table import SampleTable
from lightning_cam.records.writer import Place, RunWriter, places
from lightning_cam.render.picture import Picture
from lightning_cam.render.style import Style
from lightning_cam.sinks.curves import begin_curves, takes_descriptions
from lightning_cam.sinks.files import files
from lightning_cam.sinks.registry import Overlays, find, names, options_of
from lightning_cam.training.notices import Notices


@dataclass(frozen=True, eq=False)
class Destination:
    """Where pictures go: a sink, and the logger or folder that it writes to."""

    owner: str
    write: Callable[..., None]
    place: Any


@dataclass(frozen=True, eq=False)
class Deferred:
    """A picture that is drawn at the end of the run, unless a newer one takes its place."""

    draw: Callable[[], Picture]
    record: Record


class Publisher:
    """Writes pictures and looks; a logger nobody taught is one warning, one that fails ends nothing."""

    def __init__(self, notices: Notices, tables: bool = True) -> None:
        self.notices = notices
        self.destinations: list[Destination] = []
        self.deferred: dict[str, Deferred] = {}  # by tag
        self.run = RunWriter()
        self.tables = (SampleTable(self.run.session), EventTable(self.run.session)) if tables else None
        self.places: list[Place] = []
        self.folder = Path()
        self.descriptions: Mapping[str, str] = {}  # of curves that begin, by tag

    def open(self, loggers: Iterable[Any], folder: Path) -> None:
        """Find where the pictures of this look go, and its record."""
        loggers = list(loggers)
        self.folder = folder
        self.places = places(loggers, folder)
        self.destinations = []
        for logger in loggers:
            owner = type(logger).__name__
            sink = find(logger)
            if sink is None:
                self.notices.warn(f"{owner} is not known to take pictures. Known: {', '.join(names())}.")
            else:
                self.destinations.append(Destination(owner, sink, logger))
        if not self.destinations:
            self.notices.say(f"no logger takes pictures, so they are written below {folder}")
            self.destinations = [Destination(str(folder), files, folder)]

    def close(self) -> None:
        """Write nothing from here on."""
        self.destinations, self.places = [], []

    def finish(self, loggers: Iterable[Any]) -> None:
        """Draw what was deferred, at the last look's places."""
        if not self.deferred:
            return
        self.open(loggers, self.folder)
        with isolated_rng():
            for tag in list(self.deferred):
                page = self.deferred.pop(tag)
                self.notices.attempt(False, f"the picture {tag}", self._draw, tag, page)
        self.close()

    def defer(self, tag: str, draw: Callable[[], Picture], record: Record) -> None:
        """Draw a picture of this Record at the end of the run, unless a newer one under its tag comes before."""
        self.deferred[tag] = Deferred(draw, record)

    def record(
        self, records: Sequence[Record], batch: FixedBatch, tag: str, style: Style, events: Sequence[Event] = ()
    ) -> None:
        """Add a look to the record of the run, wherever it is kept, and to the tables beside it.

        Args:
            records: what it found.
            batch: its samples.
            tag: first part of every tag.
            style: how the samples are shown.
            events: what moved more than noise.
        """
        self.run.begin_look()
        for place in self.places:
            self.notices.guarded(place.owner, self.run.write, place, records, batch, tag, style)
            if self.tables is not None:
                of_samples, of_events = self.tables
                self.notices.guarded(str(place.folder), of_samples.add, place.folder, records, batch, tag)
                self.notices.guarded(str(place.folder), of_events.add, place.folder, events, batch, tag)

    @property
    def wants_overlays(self) -> bool:
        """Whether any sink writes each sample's overlay by itself."""
        return any("overlays" in options_of(destination.write) for destination in self.destinations)

    def publish(
        self,
        tag: str,
        picture: Picture,
        step: int,
        record: Record | None = None,
        overlays: Overlays | None = None,
    ) -> None:
        """Write a picture under its tag.

        Args:
            tag: its path-like name.
            picture: the picture.
            step: its place on the tracker's axis.
            record: what it shows, for sinks that take a ``record``.
            overlays: each sample's own picture by name, for sinks that take ``overlays``.
        """
        self.deferred.pop(tag, None)
        extras = {"record": record, "overlays": overlays}
        for destination in self.destinations:
            # a sink takes what its signature names, so that a plain one has four parameters
            parameters = options_of(destination.write)
            options = {name: value for name, value in extras.items() if name in parameters}
            self.notices.guarded(
                destination.owner,
                destination.write,
                destination.place,
                tag,
                picture,
                step,
                **options,
            )

    def _draw(self, tag: str, page: Deferred) -> None:
        self.publish(tag, page.draw(), page.record.moment.step, page.record)

    def log_numbers(self, loggers: Iterable[Any], numbers: Mapping[str, float], step: int) -> None:
        """Write numbers to every logger that takes them."""
        if not numbers:
            return
        with isolated_rng():  # a tracker may draw numbers here too
            for logger in loggers:
                owner = type(logger).__name__
                told = dict(numbers)
                if self.descriptions and takes_descriptions(logger):
                    first = {name: told.pop(name, math.nan) for name in self.descriptions}
                    self.notices.guarded(owner, begin_curves, logger, first, self.descriptions, step)
                if hasattr(logger, "log_metrics"):
                    self.notices.guarded(owner, logger.log_metrics, told, step)
                elif hasattr(logger, "add_scalar"):  # a SummaryWriter by itself, as loops without a Trainer have
                    for name, value in told.items():
                        self.notices.guarded(owner, logger.add_scalar, name, value, step)
