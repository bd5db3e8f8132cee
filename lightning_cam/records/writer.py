"""Looks into the event files of a run: appended, never rewritten."""

import os
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_cam.data.batch import FixedBatch
from lightning_cam.record import Record
from lightning_cam.records.contents import record_tree, samples_key, samples_tree
from lightning_cam.records.event_file import append, event_of
from lightning_cam.records.layout import VERSION, pack
from lightning_cam.records.pictures import sample_pictures
from lightning_cam.render.style import Style

PLUGIN = "lightning_cam"  # the name under which TensorBoard would look for who shows it
_TENSORBOARD = {"TensorBoardLogger", "SummaryWriter"}


@dataclass(frozen=True, eq=False)
class Place:
    """Where a record is kept: with a TensorBoard logger's events, or in a file of its own in a folder."""

    owner: str
    folder: Path
    writer: Any = None


def places(loggers: Iterable[Any], folder: Path) -> list[Place]:
    """Every TensorBoard logger; without one the folder of the run's files, which is a CSV logger's own if there is one."""
    found = []
    for logger in loggers:
        names = {kind.__name__ for kind in type(logger).__mro__}
        if names & _TENSORBOARD:
            writer = getattr(logger, "experiment", logger)  # a SummaryWriter is its own
            if hasattr(writer, "_get_file_writer"):
                found.append(Place(type(logger).__name__, Path(writer.get_logdir()), writer))
        elif "CSVLogger" in names:
            _ = logger.experiment  # opened while its folder is empty, as the pictures' sink does
            folder = Path(logger.log_dir)
    return found or [Place(str(folder), folder)]


class RunWriter:
    """Writes the record of one run, or of the part of it up to a resume.

    Attributes:
        session: names the run; later ones come later in the alphabet.
        looks: how many looks there were.
    """

    def __init__(self) -> None:
        # not drawn from a generator that the training may draw from
        self.session = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        self.looks = 0
        self._written: set[tuple[Path, str]] = set()  # which samples' pictures are where
        self._files: dict[Path, Path] = {}  # the file in each folder

    def begin_look(self) -> None:
        """Count a look, which may then be written at several places."""
        self.looks += 1

    def write(self, place: Place, records: Sequence[Record], batch: FixedBatch, tag: str, style: Style) -> None:
        """Write a look, and before the first its samples.

        Args:
            place: where.
            records: what the look found; without any there is nothing to write.
            batch: its samples.
            tag: first part of every tag.
            style: how the samples are shown.

        Raises:
            OSError: where the disk takes no more.
        """
        if not records:
            return
        samples = samples_key(batch)
        step = records[0].moment.step
        if (place.folder, samples) not in self._written:
            tree = {"kind": "samples", "samples": samples, **samples_tree(batch)}
            self._add(place, [_summary(f"{tag}/samples", pack(tree, sample_pictures(batch, style)))], step)
            self._written.add((place.folder, samples))
        look = {"kind": "look", "session": self.session, "look": self.looks, "tag": tag, "samples": samples}
        # all in one event, so that a look is there as a whole or not at all
        values = [_summary(f"{tag}/{record.tag}/record", pack(look | {"record": record_tree(record)})) for record in records]
        self._add(place, values, step)

    def _add(self, place: Place, values: list[Any], step: int) -> None:
        event = event_of(values, step)
        if place.writer is not None:
            place.writer._get_file_writer().add_event(event, step)
            # else it waits for a queue to fill, and a run that is killed has lost it
            place.writer.flush()
            return
        path = self._files.setdefault(place.folder, place.folder / self._file_name())
        try:
            append(path, event)
        except OSError:
            # it may end within an event, behind which nothing would be read
            del self._files[place.folder]
            raise

    def _file_name(self) -> str:
        unique = f"{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}"
        return f"events.out.tfevents.{unique}.{self.session[-8:]}.{self.looks}.{PLUGIN}"


def _summary(tag: str, blobs: list[bytes]) -> Any:
    """A sequence of blobs under a tag of its own: one that other values have would lose them their plugin."""
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name=PLUGIN, content=f'{{"version":{VERSION}}}'.encode())
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(blobs))])
    return summary_pb2.Summary.Value(
        # names may hold what is no text, and this field takes text alone
        tag=tag.encode("utf-8", "backslashreplace").decode(),
        metadata=summary_pb2.SummaryMetadata(plugin_data=plugin, data_class=summary_pb2.DATA_CLASS_BLOB_SEQUENCE),
        tensor=TensorProto(dtype=DT_STRING, string_val=blobs, tensor_shape=shape),
    )
