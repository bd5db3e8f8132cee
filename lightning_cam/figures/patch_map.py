"""Patches of large pictures at their places: true labels beside what the model predicts. n patches, p patients, h w panel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from lightning_cam.figures.patch_legend import LABELS, UNKNOWN, Key, PatchHeader, Swatch, probability_colours
from lightning_cam.figures.sheet import font_size, grid, laptop_shaped, margin
from lightning_cam.patches.placement import Placement, place_patches
from lightning_cam.patches.scores import PatchScores, score_patches
from lightning_cam.patches.spacing import check_size
from lightning_cam.patches.table import PatchTable
from lightning_cam.render.style import Style
from lightning_cam.render.text import Caption, strips

MOST = 24  # patients on a page, unless rows and columns say otherwise


@dataclass(frozen=True)
class PatchPage:
    """How many patients a page shows, and what is written on it.

    Args:
        rows: of patients; by default as many as there are patients, 24 at most.
        columns: of patients; by default as many as make the page laptop-shaped.
        patch_size: the side of a patch in the units of x and y; by default found by the distances of each patient.
        classes: names of label 0 and of label 1.
        title: the header's bold line; by default how many patients and patches there are.
        moment: what stands in front of the header's faint line, such as "epoch 3".

    Raises:
        ValueError: for rows or columns below 1, a size that is not above 0, or another number of names than two.
    """

    rows: int | None = None
    columns: int | None = None
    patch_size: int | float | None = None
    classes: Sequence[str] = ("negative", "positive")
    title: str = ""
    moment: str = ""

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name}={count!r}: expected at least 1.")
        check_size(self.patch_size)
        if isinstance(self.classes, str) or len(self.classes) != 2:
            raise ValueError(f"classes={self.classes!r}: expected two names, of label 0 and of label 1.")

    def shown(self, patients: int) -> int:
        """How many of so many patients are shown."""
        if self.rows is not None and self.columns is not None:
            return min(patients, self.rows * self.columns)
        return min(patients, max(MOST, self.rows or 0, self.columns or 0))

    def columns_of(self, cards: int, width: int, height: int) -> int:
        """How many cards of this size stand side by side."""
        if self.columns is not None:
            return self.columns
        if self.rows is not None:
            return math.ceil(cards / self.rows)
        return laptop_shaped(cards, width, height)


def patch_map(
    table: Any,
    page: PatchPage = PatchPage(),
    style: Style = Style(tile=240),  # noqa: B008 - frozen
) -> UInt8[Tensor, "3 height width"]:
    """Draw a panel a patient: each patch a square at its place, true labels at the left, predicted probabilities at the right.

    Both panels of a patient have one scale in x and y, y grows downwards as in pictures, and what is white is no patch. Where
    patches are smaller than a pixel, it shows their mean. AUC and Dice (from probability .5 on) stand below; a table without
    probabilities has the panel of labels alone.

    Args:
        table: a ``PatchTable``, or a dict of columns or data frame with ``patient_id``, ``x``, ``y``, ``target`` and, if the
            model has been asked, ``probability``.
        page: how many patients are shown, and the words.
        style: ``tile``, the longer side of a panel; ``colormap`` of the probabilities, by default from pale to dark; ``font``.

    Raises:
        ValueError: for a table that is none, naming the row.

    Example:
        >>> columns = {"patient_id": [1, 1, 2, 2], "x": [0, 50, 0, 0], "y": [0, 0, 0, 50], "target": [0, 1, 0, 1]}
        >>> patch_map(columns | {"probability": [0.2, 0.7, 0.4, 0.3]}).shape
        torch.Size([3, 671, 753])
    """
    if not isinstance(table, PatchTable):
        table = PatchTable.of(table)
    scores = None
    if table.probability is not None:
        scores = score_patches(table)
    part = table.of_first(page.shown(len(table.patients)))
    placement = place_patches(part, style.tile, page.patch_size)
    panels = _panels(part, placement, style)
    words = _captions(part, scores, page)
    strip = strips(words, panels.shape[-1], font_size(style), style.font).to(panels.device)
    gap = margin(style)
    # patients stand further apart than the two panels of one
    cards = F.pad(torch.cat([panels, strip], 2), (0, gap), value=255)
    columns = page.columns_of(len(cards), cards.shape[-1] + gap, cards.shape[-2] + gap)
    body = grid(cards, columns, gap)
    header = PatchHeader(_title(table, page), _summary(table, part, scores, page), _legend(part, page, style))
    return header.above(body, style)


def _panels(table: PatchTable, placement: Placement, style: Style) -> UInt8[Tensor, "p 3 h w"]:
    """The panels of each patient side by side."""
    covered = placement.covered
    labels = LABELS.to(table.x.device)
    panels = [_coloured(placement.mean(table.target), covered, labels)]
    if table.probability is not None:
        colours = probability_colours(style).to(table.x.device)
        panels.append(_coloured(placement.mean(table.probability), covered, colours))
    gap = margin(style) // 2
    return torch.cat([F.pad(panel, (0, gap), value=255) for panel in panels], 3)[..., :-gap]


def _coloured(
    values: Float[Tensor, "p h w"], covered: Bool[Tensor, "p h w"], colours: UInt8[Tensor, "256 3"]
) -> UInt8[Tensor, "p 3 h w"]:
    """Values in [0, 1] in their colours, grey where there is none, white where there is no patch."""
    index = (values.nan_to_num(0) * 255).round().long()
    pixels = colours[index]
    pixels = pixels.where(~values.isnan()[..., None], pixels.new_tensor(UNKNOWN))
    return pixels.masked_fill(~covered[..., None], 255).movedim(-1, 1)


def _captions(table: PatchTable, scores: PatchScores | None, page: PatchPage) -> list[Caption]:
    patients = len(table.patients)
    positive = (table.target == 1).long()
    labelled = (~table.target.isnan()).long()
    zeros = torch.zeros(patients, dtype=torch.long, device=table.x.device)
    counts = [
        zeros.index_put((table.patient,), part, accumulate=True) for part in (torch.ones_like(labelled), labelled, positive)
    ]
    captions = []
    for i, (count, known, hits) in enumerate(zip(*(part.tolist() for part in counts), strict=True)):
        share = ""
        if known:
            share = f"{100 * hits / known:.0f}% {page.classes[1]}"
        if scores is None:
            captions.append(Caption(f"{table.patients[i]}   {share}".rstrip(), _several(count, "patch", "es")))
            continue
        numbers = f"AUC {_number(scores.auc[i])} · Dice {_number(scores.dice[i])}"
        about = ", ".join(filter(None, [_several(count, "patch", "es"), share]))
        captions.append(Caption(f"{table.patients[i]}   {numbers}", about))
    return captions


def _number(value: Float[Tensor, ""]) -> str:
    if bool(value.isnan()):
        return "undefined"
    return f"{float(value):.2f}"


def _title(table: PatchTable, page: PatchPage) -> str:
    if page.title:
        return page.title
    return f"{_several(len(table.patients), 'patient')}, {_several(len(table), 'patch', 'es')}"


def _summary(table: PatchTable, part: PatchTable, scores: PatchScores | None, page: PatchPage) -> str:
    """The header's faint line: when, the means, and how many patients are not shown."""
    words = []
    if page.moment:
        words.append(page.moment)
    if scores is None:
        words.append("each patch at its place, white where there is none")
    else:
        words.append(f"mean AUC {_number(scores.auc.nanmean())}, Dice {_number(scores.dice.nanmean())}")
    if len(part.patients) < len(table.patients):
        words.append(f"the first {len(part.patients)} are shown")
    return " · ".join(words)


def _several(count: int, noun: str, ending: str = "s") -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{ending}"


def _legend(table: PatchTable, page: PatchPage, style: Style) -> list[Key]:
    """What the colours mean: of the true labels, of the predictions, and of what is neither."""
    negative, positive = page.classes
    labels = [Swatch(LABELS[:1], negative), Swatch(LABELS[-1:], positive)]
    unknown = bool(table.target.isnan().any())
    if table.probability is None:
        keys = [Key("true label", labels)]
    else:
        keys = [Key("left: true label", labels)]
        scale = [Swatch(probability_colours(style), "1", "0")]
        keys.append(Key(f"right: predicted probability of {positive}", scale))
        unknown = unknown or bool(table.probability.isnan().any())
    if unknown:
        keys.append(Key("", [Swatch(torch.tensor([UNKNOWN]), "none known")]))
    return keys
