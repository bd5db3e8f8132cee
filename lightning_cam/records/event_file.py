"""TensorBoard's event files, as far as a record needs them: one event behind the other, each with its length.

An event stands as ``length, checksum of the length, event, checksum of the event``. The last one of a file that is still being
written, or whose writer was killed, may be cut short.
"""

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct("<QI")
_CHECKSUM = 4  # bytes, behind the event


class DamagedFile(ValueError):
    """A length that nobody wrote: where the next event begins is not known."""


def event_of(values: list[Any], step: int) -> Any:
    """An event with these summaries, of now."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Event(summary=Summary(value=values), step=step, wall_time=time.time())


def append(path: Path, event: Any) -> None:
    """Add an event to a file, which is made if it is not there; the file is closed afterwards.

    Raises:
        OSError: for a disk that is full or not to be written to; the file may then end within an event.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        writer = RecordWriter(file)
        # every event file begins with its version
        if file.tell() == 0:
            writer.write(Event(wall_time=event.wall_time, file_version="brain.Event:2").SerializeToString())
        writer.write(event.SerializeToString())


def events(path: Path) -> Iterator[bytes]:
    """The whole events of a file, serialized, in their order; one that is cut short is none.

    The checksum of a length is checked, that of an event is not: in Python it takes a second for some megabytes.

    Raises:
        DamagedFile: where a length is not what was written.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            length, checksum = _LENGTH.unpack(head)
            if masked_crc32c(head[:8]) != checksum:
                raise DamagedFile(f"{path} is damaged at byte {file.tell() - _LENGTH.size}; what follows there is not read.")
            # before anything of that length is made
            if length + _CHECKSUM > size - file.tell():
                return
            yield file.read(length)
            file.read(_CHECKSUM)
