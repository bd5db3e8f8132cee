"""Every look of a run out of its event files, without TensorBoard and its sampling."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_cam.record import Moment, Record
from lightning_cam.records.contents import WatchedSamples, record_of, samples_of
from lightning_cam.records.event_file import DamagedFile, events
from lightning_cam.records.layout import UnknownVersion, unpack
from lightning_cam.records.writer import PLUGIN

# what takes apart bytes that the checksum vouches for, but that this package did not write
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError)


@dataclass(frozen=True, eq=False)
class RecordedLook:
    """One look of a run.

    Attributes:
        records: a Record for each layer and method, as in training but for the rounding of maps (see
            ``lightning_cam.records.maps``), and on the CPU.
        samples: what they are of; None where that part of the record is lost.
        tag: the first part of its tags, ``cam`` by default.
        time: when it was written, in seconds since 1970.
        session: names the run it is of; a resumed run has another name, which comes later in the alphabet.
        number: which look of its session it is, from 1; numbers are missing where looks failed or are lost.
        samples_key: names the samples.
    """

    records: tuple[Record, ...]
    samples: WatchedSamples | None
    tag: str
    time: float
    session: str
    number: int
    samples_key: str

    @property
    def moment(self) -> Moment:
        """When it took place."""
        return self.records[0].moment


@dataclass(frozen=True, eq=False)
class RunRecord:
    """All that was recorded below a folder.

    Attributes:
        looks: in the order of their sessions, and of their numbers within each.
    """

    looks: tuple[RecordedLook, ...]

    @property
    def samples(self) -> WatchedSamples | None:
        """The samples of the first look."""
        return self.looks[0].samples

    def series(self, tag: str) -> list[Record]:
        """The Records of one layer and method in fits, by ``<layer>/<method>``; those of a validate or test are left out."""
        records = [record for look in self.looks for record in look.records]
        return [record for record in records if record.tag == tag and record.moment.fitting]


def read(log_dir: str | Path) -> RunRecord:
    """Every look that was recorded in a folder or below it, whoever wrote the event files it is in.

    A run may be read while it is being written. The last look of a run that was killed may be lost, and what is damaged is left
    out with a warning. Looks of a resumed run follow those of the run it goes on with, also where both have the same epochs;
    what several loggers wrote of one look is given once.

    Args:
        log_dir: a logger's ``log_dir``, a folder with several of these, or one event file.

    Raises:
        ValueError: where there is no such folder or no record in it, or one of a later layout.

    Example:
        >>> from lightning_cam import Watcher
        >>> watcher = Watcher(resnet18(num_classes=5), torch.rand(2, 3, 64, 64), target="predicted", folder=folder)
        >>> heat = watcher.look(step=0)[0].heat
        >>> recorded = read(folder).looks[0].records[0].heat
        >>> torch.allclose(recorded, heat, rtol=0, atol=float(heat.abs().max()) / 65000)
        True
    """
    samples: dict[str, WatchedSamples] = {}
    looks: dict[tuple[str, int], RecordedLook] = {}
    for path in _event_files(Path(log_dir)):
        for content in _contents(path):
            if isinstance(content, RecordedLook):
                # the first of several copies
                looks.setdefault((content.session, content.number), content)
            else:
                samples |= content
    if not looks:
        raise ValueError(
            f"no look is recorded in {log_dir}: expected a folder with the event files of a run that CAMCallback or Watcher "
            "watched, such as trainer.log_dir."
        )
    return RunRecord(tuple(replace(looks[key], samples=samples.get(looks[key].samples_key)) for key in sorted(looks)))


def _event_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ValueError(f"there is no folder {place}; expected one with the event files of a run, such as trainer.log_dir.")
    # by their names, which begin with the time
    return sorted((path for path in place.rglob("*tfevents*") if path.is_file()), key=lambda path: (path.name, path))


def _contents(path: Path) -> Iterator[RecordedLook | dict[str, WatchedSamples]]:
    """The looks and samples of a file; what is damaged is one warning."""
    lost = 0
    try:
        for event in events(path):
            # most are pictures and numbers of others, which need not be taken apart
            if PLUGIN.encode() not in event:
                continue
            try:
                content = _content(event)
            except UnknownVersion as error:
                raise UnknownVersion(f"{path}: {error}") from None
            except _DAMAGE:
                lost += 1
            else:
                if content is not None:
                    yield content
    except DamagedFile as error:
        warnings.warn(str(error), stacklevel=3)
    if lost:
        warnings.warn(f"{path}: {lost} looks of the record are damaged and left out.", stacklevel=3)


def _content(event: bytes) -> RecordedLook | dict[str, WatchedSamples] | None:
    """What an event holds of a record, if anything."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        parsed = Event.FromString(event)
    except DecodeError:
        raise ValueError("no event") from None
    values = [value for value in parsed.summary.value if value.metadata.plugin_data.plugin_name == PLUGIN]
    if not values:
        return None
    parts = [unpack(list(value.tensor.string_val)) for value in values]
    head, files = parts[0]
    if head["kind"] == "samples":
        return {str(head["samples"]): samples_of(head, files)}
    records = tuple(record_of(tree["record"]) for tree, _ in parts)
    texts = [head[name] for name in ("tag", "session", "samples")]
    if not all(isinstance(text, str) for text in texts) or type(head["look"]) is not int:
        raise ValueError("a look without a name")
    tag, session, key = texts
    return RecordedLook(records, None, tag, parsed.wall_time, session, head["look"], key)
