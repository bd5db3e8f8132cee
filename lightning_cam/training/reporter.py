"""From Records to the loggers: pages drawn, and handed to the publisher."""

from dataclasses import replace

from lightning_cam.concepts import Concepts
from lightning_cam.data.batch import FixedBatch
from lightning_cam.figures.pages import RecordPages, RunColumns
from lightning_cam.record import Moment
from lightning_cam.render.picture import Picture, to_host
from lightning_cam.render.style import Style
from lightning_cam.training.history import History
from lightning_cam.training.publisher import Publisher


def report_record(pages: RecordPages, publisher: Publisher, tag: str) -> None:
    """Publish the sheet, and in a run its filmstrip; nothing where no sample has the target."""
    record = pages.record
    if not record.shown:
        return
    overlays = pages.overlays() if publisher.wants_overlays else None
    publisher.publish(f"{tag}/{record.tag}", pages.sheet(), record.moment.step, record, overlays)
    if pages.run is not None:
        publisher.publish(f"{tag}/{record.tag}/filmstrip", pages.filmstrip(), record.moment.step, record)


def report_concepts(
    concepts: Concepts, batch: FixedBatch, moment: Moment, style: Style, publisher: Publisher, tag: str
) -> None:
    """Publish every sample beside its concepts, over a legend."""
    if style.normalization is None and batch.normalization is not None:
        mean, std = batch.normalization
        style = replace(style, mean=mean, std=std)
    when = f"{moment.title} · step {moment.step}"
    pixels = concepts.picture(style, batch.names, dict(enumerate(batch.classes)), when)
    about = f"Deep feature factorization of `{concepts.layer}` on {len(batch)} samples, {batch.origin}."
    publisher.publish(f"{tag}/{concepts.layer}/concepts", Picture(to_host(pixels), about, style.encoding), moment.step)


def run_columns(history: History | None, columns: int) -> RunColumns | None:
    """The looks of a run that a filmstrip of so many columns shows."""
    if history is None:
        return None
    chosen = history.spread(columns)
    titles, heats = history.titles, history.heats
    return RunColumns([titles[i] for i in chosen], [heats[i] for i in chosen], history.lowest, history.highest)
