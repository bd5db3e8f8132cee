"""A record written without a model, for the tests that read it."""

from run_records import made_batch, made_record

from lightning_cam import Style
from lightning_cam.records.event_file import events
from lightning_cam.records.writer import PLUGIN, Place, RunWriter

SMALL = Style(tile=32)


def recorded(folder, looks=3, batch=None, writer=None, tag="cam", **options):
    """The Records of several looks, written below a folder; one or several a look, as ``options`` are those of a Record."""
    batch = made_batch() if batch is None else batch
    writer = RunWriter() if writer is None else writer
    written = []
    for step in range(looks):
        writer.begin_look()
        records = [made_record(len(batch), step=step, **options)]
        writer.write(Place(str(folder), folder), records, batch, tag, SMALL)
        written.extend(records)
    return written


def event_file(folder):
    """The one event file below a folder."""
    (path,) = folder.rglob("*tfevents*")
    return path


def ends(path):
    """Where each event of a file ends, in bytes; events whose bytes name the plugin are ours."""
    place, found = 0, []
    for event in events(path):
        place += 12 + len(event) + 4
        found.append((place, PLUGIN.encode() in event))
    return found
