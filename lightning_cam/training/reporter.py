"""From Records to the loggers: a look's record and its pages, drawn and handed to the publisher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from lightning_cam.concepts import Concepts
from lightning_cam.data.batch import FixedBatch
from lightning_cam.figures.pages import RecordPages, RunColumns
from lightning_cam.figures.part_bars import PartColumns, part_bars
from lightning_cam.figures.ranking import knows_places
from lightning_cam.record import Moment, Record
from lightning_cam.registry import did_you_mean
from lightning_cam.render.picture import Picture, to_host
from lightning_cam.render.style import Style
from lightning_cam.training.chunk import Attempt
from lightning_cam.training.history import History
from lightning_cam.training.look import LookResult, ShareRow
from lightning_cam.training.publisher import Publisher

# looks from which on a filmstrip is drawn at every fifth only: each version stays in an event file, a megabyte each
_EARLY = 8
_EVERY = 5


@dataclass(frozen=True, eq=False)
class Album:
    """Where and how the pages of a look are drawn.

    Attributes:
        publisher: hands them to the loggers.
        style: how maps are shown.
        target: the target in words.
        histories: the run so far, by the Records' tags; empty outside a run.
        tag: first part of every tag.
    """

    publisher: Publisher
    style: Style
    target: str
    histories: Mapping[str, History]
    tag: str


def report_look(result: LookResult, album: Album, attempt: Attempt) -> None:
    """Record the look, then draw and publish the pages of every Record and the concepts; one that fails costs only itself."""
    album.publisher.record(result.records, result.batch, album.tag, album.style, result.events)
    batch = result.batch.first(result.pictures)
    for record in (record.first(result.pictures) for record in result.records):
        if not record.shown:  # no sample has the target
            continue
        history = album.histories.get(record.tag)
        if history is not None:
            history = history.rows(slice(result.pictures), len(result.batch), record.score.shape[1])
        run = run_columns(history, album.style.filmstrip_columns)
        if run is None or run.baseline is None:
            warn_of_numbers(record, batch, album)
        pages = RecordPages(record, batch, album.style, album.target, run)
        what = f"the pictures of {record.tag}"
        attempt(what, report_sheet, pages, album)
        if run is not None:
            attempt(what, report_filmstrip, pages, album)
        if record.tag in result.shares:
            attempt(what, report_parts, record, result.shares[record.tag], album)
    for concepts in result.concepts:
        attempt(
            f"the picture of concepts at {concepts.layer}",
            report_concepts,
            concepts.first(result.pictures),
            batch,
            result.moment,
            album,
        )


def warn_of_numbers(record: Record, batch: FixedBatch, album: Album) -> None:
    """Warn where the style asks for a metric that was not measured at a first look; later ones may leave some out."""
    style = album.style
    there = ", ".join(record.values) or "none"
    if style.number is not None and style.number not in record.values:
        album.publisher.notices.warn(
            f"Style(number={style.number!r}): no such metric is measured at {record.tag}, so no caption tells it."
            f"{did_you_mean(style.number, list(record.values))} Measured: {there}. Name it in metrics=[...].",
            f"number of {record.tag}",
        )
    if style.order == "suspect" and batch.regions and not knows_places(record):
        album.publisher.notices.warn(
            f"Style(order='suspect') asks whether heat is in the regions, which only enrichment or energy_inside tell; at "
            f"{record.tag} are measured: {there}. Write metrics=['enrichment', ...].",
            f"order of {record.tag}",
        )


def report_sheet(pages: RecordPages, album: Album) -> None:
    """Publish the sheet of a Record, and with it each sample's own picture where a sink wants them."""
    record = pages.record
    overlays = None
    if album.publisher.wants_overlays:  # drawn and brought to the host only if somebody writes them
        overlays = pages.overlays()
    album.publisher.publish(f"{album.tag}/{record.tag}", pages.sheet(), record.moment.step, record, overlays)


def report_filmstrip(pages: RecordPages, album: Album) -> None:
    """Publish the run up to a Record, at once or, unless a newer one comes before, at the end of the run."""
    record = pages.record
    tag = f"{album.tag}/{record.tag}/filmstrip"
    place = album.histories[record.tag].looks[-1].place
    if place < _EARLY or place % _EVERY == 0:
        album.publisher.publish(tag, pages.filmstrip(), record.moment.step, record)
    else:
        album.publisher.defer(tag, pages.filmstrip, record)


def report_parts(record: Record, rows: Sequence[ShareRow], album: Album) -> None:
    """Publish the run's shares of the drift by parts of the net, a stacked bar a look."""
    titles, shares = zip(*rows, strict=True)
    parts = list(shares[-1])
    columns = PartColumns(titles, parts, torch.tensor([[row.get(part, torch.nan) for part in parts] for row in shares]))
    words = (f"What moved the maps: {record.method} at {record.title}", f"by epochs trained, up to {record.moment.title}")
    about = "The drift of the maps since the baseline, and the share of it that each part of the net accounts for."
    picture = Picture(to_host(part_bars(columns, words, album.style)), about, album.style.encoding)
    album.publisher.publish(f"{album.tag}/{record.tag}/parts", picture, record.moment.step, record)


def report_concepts(concepts: Concepts, batch: FixedBatch, moment: Moment, album: Album) -> None:
    """Publish every sample beside its concepts, over a legend."""
    style = album.style
    # the dataset's own, unless the user named another
    if style.normalization is None and batch.normalization is not None:
        mean, std = batch.normalization
        style = replace(style, mean=mean, std=std)
    when = f"{moment.title} · step {moment.step}"
    pixels = concepts.picture(style, batch.names, dict(enumerate(batch.classes)), when)
    about = f"Deep feature factorization of `{concepts.layer}` on {len(batch)} samples, {batch.origin}."
    picture = Picture(to_host(pixels), about, style.encoding)
    album.publisher.publish(f"{album.tag}/{concepts.layer}/concepts", picture, moment.step)


def run_columns(history: History | None, columns: int) -> RunColumns | None:
    """The looks of a run that a filmstrip of so many columns shows."""
    if history is None:
        return None
    places = history.spread(columns)
    looks = [history.looks[i] for i in places]
    titles = [look.title for look in looks]
    heats = [look.values for look in looks]
    baseline = None
    if len(history.looks) > 1:
        baseline = history.looks[0].values_of(history.looks[-1].classes)
    jumped = history.looks[-1].jumped
    return RunColumns(titles, heats, history.lowest, history.highest, baseline, _jumps(history, places), jumped)


def _jumps(history: History, places: Sequence[int]) -> Bool[Tensor, "k n"] | None:
    """Which maps jumped at each look that is shown, or at one that is not since the last one shown; None where nothing did."""
    nowhere = torch.zeros(len(history.looks[0].heat), dtype=torch.bool)
    jumped = torch.stack([nowhere if look.jumped is None else look.jumped for look in history.looks])
    if not bool(jumped.any()):
        return None
    starts = [0, *(place + 1 for place in places[:-1])]
    return torch.stack([jumped[start : end + 1].any(0) for start, end in zip(starts, places, strict=True)])
