"""The pages of a Record: its sheet, the filmstrip of the run up to it, and each sample's own picture.

b batch, t targets, n maps, m map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from lightning_cam.data.batch import FixedBatch
from lightning_cam.figures.captions import Remarks, captions, description, file_words, row_names
from lightning_cam.figures.cards import Cards
from lightning_cam.figures.filmstrip import Columns, film
from lightning_cam.figures.ranking import Ranking, rank
from lightning_cam.figures.sheet import laid_out, under_header, with_legend
from lightning_cam.heat import maximum
from lightning_cam.record import Record
from lightning_cam.render.picture import Picture, to_host
from lightning_cam.render.style import Style


@dataclass(frozen=True, eq=False)
class RunColumns:
    """The looks of a run that a filmstrip shows, and the extremes of all looks so far.

    Attributes:
        titles: the looks' names.
        heats: their maps, at last those of now.
        lowest: the smallest value of any look.
        highest: the largest.
        baseline: the first look's maps, NaN where they are of another class than those of now; None at the first look.
        jumps: which maps jumped since the look shown before; None where that is not known.
        jumped: which jumped at the look of now.
    """

    titles: Sequence[str]
    heats: Sequence[Float[Tensor, "n *m"]]
    lowest: float
    highest: float
    baseline: Float[Tensor, "n *m"] | None = None
    jumps: Bool[Tensor, "k n"] | None = None
    jumped: Bool[Tensor, "n"] | None = None


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
        ranking = self._ranking
        positions = ranking.positions(record.shown, record.score.shape[1])
        change = self._change
        remarks = Remarks(change, self.style.number, ranking.words)
        words = captions(self.batch, record, self.style.norm, remarks)
        target = self.target
        if record.note:
            # what is there in place of labels; the description has the whole sentence
            target += f" ({record.note.partition(',')[0]})"
        about = f"{record.moment.title} · step {record.moment.step} · target: {target}"
        if any(factor == factor for factor in change):
            about += " · (x): times the first look's peak"
        panels = self._cards.chosen(positions).panels(self._heat)
        columns = record.score.shape[1] if several else None
        return self._picture(laid_out(panels, [words[i] for i in positions], self.style, columns), about)

    def filmstrip(self) -> Picture:
        """Rows are samples, columns the looks of the run."""
        assert self.run is not None
        names = row_names(self.batch, self.record)
        shown = self.record.shown
        heats = [heat.to(self._heat.device) for heat in self.run.heats]
        about = f"by epochs trained, up to {self.record.moment.title}"
        jumps = self.run.jumps
        if jumps is not None:
            jumps = jumps[:, shown].to(self._heat.device)
            if bool(jumps.any()):
                about += " · blue corner: the map jumped since the column before"
        columns = Columns(
            self.run.titles,
            torch.stack([self._cards.normalized(heat) for heat in heats]),
            torch.stack([maximum(heat)[shown] for heat in heats]),
            jumps,
        )
        cards = self._cards
        return self._picture(film(cards.base, columns, [names[i] for i in shown], self.style, cards.regions), about)

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
        cards = Cards.of(self.batch.pictures, self.record.shown, maps, self.style, normalization, extremes)
        return cards.marked(self.batch.regions, maps)

    @property
    def _ranking(self) -> Ranking:
        b, t = self.record.score.shape
        if self.style.order == "batch":
            return Ranking(range(b), {})
        jumped = None
        if self.run is not None and self.run.jumped is not None:
            jumped = self.run.jumped.reshape(b, t)
        return rank(self.record, self.batch, jumped)

    @property
    def _change(self) -> list[float]:
        """Each map's strength now over its strength at the first look; NaN where either has none, empty outside a run."""
        if self.run is None or self.run.baseline is None:
            return []
        now, before = self.run.heats[-1], self.run.baseline
        if self.style.norm == "symmetric":
            now, before = now.abs(), before.abs()
        strength, start = maximum(now), maximum(before)
        factors: list[float] = (strength / start).where((strength > 0) & (start > 0), torch.nan).tolist()
        return factors

    @property
    def _headline(self) -> str:
        return f"{self.record.method} at {self.record.title}"

    def _picture(self, body: UInt8[Tensor, "3 h w"], about: str) -> Picture:
        """The page below its header, in whose second line stands what it is about."""
        if self._cards.regions is not None:
            body = with_legend(body, list(self.batch.regions), self.style)
        pixels = under_header(body, (self._headline, about), self.style)
        text = description(self.batch, self.record, self.target, self.style)
        return Picture(to_host(pixels), text, self.style.encoding)
