"""The pages of a Record: its sheet, the filmstrip of the run up to it, and each sample's own picture.

b batch, t targets, n maps, m map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from lightning_cam.data.batch import FixedBatch
from lightning_cam.figures.captions import captions, description, file_words, row_names
from lightning_cam.figures.cards import Cards
from lightning_cam.figures.filmstrip import Columns, filmstrip
from lightning_cam.figures.sheet import sheet
from lightning_cam.heat import maximum
from lightning_cam.record import Record
from lightning_cam.render.picture import Picture, to_host
from lightning_cam.render.style import Style


@dataclass(frozen=True, eq=False)
class RunColumns:
    """The looks of a run that a filmstrip shows, and the extremes of all looks so far."""

    titles: Sequence[str]
    heats: Sequence[Float[Tensor, "n *m"]]
    lowest: float
    highest: float


@dataclass(frozen=True, eq=False)
class RecordPages:
    """The pages of one Record.

    Attributes:
        record: what they show.
        batch: its samples.
        style: how.
        target: the target in words.
        run: the run up to this look; None outside a run.
    """

    record: Record
    batch: FixedBatch
    style: Style
    target: str
    run: RunColumns | None = None

    def sheet(self) -> Picture:
        """A card for each sample and target, those of absent targets left out."""
        record = self.record
        # a row a sample only where no card is left out, or a column would mix targets
        several = record.score.shape[1] > 1 and len(record.shown) == record.score.numel()
        words = captions(self.batch, record, self.style.norm)
        target = self.target
        if record.note:
            # what is there in place of labels; the description has the whole sentence
            target += f" ({record.note.partition(',')[0]})"
        pixels = sheet(
            self._cards.base,
            self._cards.normalized(self._heat),
            [words[i] for i in record.shown],
            (self._headline, f"{record.moment.title} · step {record.moment.step} · target: {target}"),
            self.style,
            columns=record.score.shape[1] if several else None,
        )
        return self._picture(pixels)

    def filmstrip(self) -> Picture:
        """Rows are samples, columns the looks of the run."""
        assert self.run is not None
        names = row_names(self.batch, self.record)
        heats = [heat.to(self._heat.device) for heat in self.run.heats]
        columns = Columns(
            self.run.titles,
            torch.stack([self._cards.normalized(heat) for heat in heats]),
            torch.stack([maximum(heat)[self.record.shown] for heat in heats]),
        )
        pixels = filmstrip(
            self._cards.base,
            columns,
            [names[i] for i in self.record.shown],
            (self._headline, f"by epochs trained, up to {self.record.moment.title}"),
            self.style,
        )
        return self._picture(pixels)

    def overlays(self) -> Mapping[str, UInt8[ndarray[Any, Any], "y x 3"]]:
        """Each sample's own picture, by its name; by name and target where there are several."""
        names = self.batch.names
        targets = self.record.score.shape[1]
        if targets > 1:
            words = file_words(self.record.target_names or [""] * targets)
            names = tuple(f"{name}_{word}" for name in names for word in words)
        pixels = to_host(self._cards.pictures(self._heat))
        return dict(zip([names[i] for i in self.record.shown], pixels, strict=True))

    @property
    def _heat(self) -> Float[Tensor, "n *m"]:
        return self.record.heat.flatten(0, 1)

    @cached_property
    def _cards(self) -> Cards:
        normalization = self.style.normalization or self.batch.normalization
        extremes = (torch.inf, -torch.inf)
        if self.run is not None:
            extremes = self.run.lowest, self.run.highest
        maps = self.record.score.numel()
        return Cards.of(self.batch.pictures, self.record.shown, maps, self.style, normalization, extremes)

    @property
    def _headline(self) -> str:
        return f"{self.record.method} at {self.record.title}"

    def _picture(self, pixels: UInt8[Tensor, "3 height width"]) -> Picture:
        about = description(self.batch, self.record, self.target, self.style)
        return Picture(to_host(pixels), about, self.style.encoding)
