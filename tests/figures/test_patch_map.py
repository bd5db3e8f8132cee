"""The page of patches: every pixel of a small table where it belongs, and what is written beside."""

import importlib
import math

import pytest
import torch

from lightning_cam import Style, figures
from lightning_cam.figures import patch_legend
from lightning_cam.figures.patch_legend import LABELS, UNKNOWN, probability_colours
from lightning_cam.figures.patch_map import MOST, PatchPage, patch_map
from lightning_cam.patches import PatchTable
from lightning_cam.render import colormap, text, typesetting

WHITE = (255, 255, 255)
SMALL = Style(tile=60)
CELLS = {  # two patients in three rows of three patches of twenty pixels, some of them missing
    "a": [[0, 1, None], [1, math.nan, 0], [None, 1, 1]],
    "b": [[1, 1, 1], [None, None, None], [0, 0, 0]],
}


def small(**more):
    rows = [
        (patient, 100 * column, 100 * row, label, 0.1 * row + 0.3 * column)
        for patient, cells in CELLS.items()
        for row, labels in enumerate(cells)
        for column, label in enumerate(labels)
        if label is not None
    ]
    names = ("patient_id", "x", "y", "target", "probability")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) | more


def colour_of(colours, value):
    if math.isnan(value):
        return UNKNOWN
    return tuple(colours[round(255 * value)].tolist())


def panels(picture, style, patients):
    """The panels of a page of one row: left and right of each patient."""
    tile, gap = style.tile, max(6, style.tile // 14)
    strip = text.height(text.font_size(style))
    top = picture.shape[1] - gap - strip - tile
    step = 2 * (tile + gap // 2) - gap // 2 + 2 * gap
    for p in range(patients):
        left = gap + p * step
        yield (
            picture[:, top : top + tile, left : left + tile],
            picture[:, top : top + tile, left + tile + gap // 2 : left + 2 * tile + gap // 2],
        )


def test_every_pixel_of_a_small_table_is_where_it_belongs():
    table = small()
    picture = patch_map(table, PatchPage(columns=2), SMALL)
    assert picture.dtype == torch.uint8
    values = dict(zip(zip(*(table[name] for name in ("patient_id", "x", "y")), strict=True), table["probability"], strict=True))
    for (left, right), (patient, cells) in zip(panels(picture, SMALL, 2), CELLS.items(), strict=True):
        for row in range(3):
            for column in range(3):
                label = cells[row][column]
                places = (slice(None), slice(20 * row, 20 * row + 20), slice(20 * column, 20 * column + 20))
                expected = [WHITE, WHITE]
                if label is not None:
                    probability = values[patient, 100 * column, 100 * row]
                    expected = [colour_of(LABELS, label), colour_of(probability_colours(SMALL), probability)]
                for panel, colour in zip((left, right), expected, strict=True):
                    assert panel[places].flatten(1).unique(dim=1).squeeze(1).tolist() == list(colour)


def test_labels_and_probabilities_have_colours_of_their_own_that_are_never_white():
    labels, probabilities = LABELS.float(), probability_colours(Style()).float()
    for colours in (labels, probabilities):
        light = colours @ torch.tensor([0.299, 0.587, 0.114])
        assert float(light.max()) < 233 and float(light.diff().max()) <= 0  # from pale to dark, which reads alike
        assert float(light[0] - light[-1]) > 130
    assert float((labels[-1] - probabilities[-1]).abs().sum()) > 100
    turbo = Style(colormap="turbo")
    assert torch.equal(probability_colours(turbo), colormap.table("turbo", torch.device("cpu")))


def test_labels_alone_have_one_panel_and_no_scores(monkeypatch):
    words = said(monkeypatch)
    table = small()
    del table["probability"]
    picture = patch_map(table, PatchPage(columns=2, classes=("benign", "lesion")), SMALL)
    assert {"a   67% lesion", "7 patches", "b   50% lesion", "true label", "benign", "2 patients, 13 patches"} <= words
    assert not any("AUC" in word for word in words)
    assert picture.shape[2] < patch_map(small(), PatchPage(columns=2), SMALL).shape[2]


def said(monkeypatch):
    """All that is written on pages from now on."""
    words = set()

    def listening(line, size, font):
        words.add(line)
        return typesetting.typeset(line, size, font)

    for place in (text, patch_legend, importlib.import_module("lightning_cam.figures.sheet")):
        monkeypatch.setattr(place, "typeset", listening)
    text.forget()
    return words


def test_the_captions_tell_patient_auc_and_dice(monkeypatch):
    words = said(monkeypatch)
    patch_map(small(), PatchPage(moment="epoch 3", classes=("benign", "lesion")), SMALL)
    expected = {"a   AUC 0.62 · Dice 0.57", "7 patches, 67% lesion", "b   AUC 0.33 · Dice 0.33", "6 patches, 50% lesion"}
    header = {"epoch 3 · mean AUC 0.48, Dice 0.45", "right: predicted probability of lesion", "left: true label", "none known"}
    assert expected | header <= words, words


def test_what_is_undefined_is_said_and_nothing_unknown_is_in_the_legend_of_what_is_known(monkeypatch):
    words = said(monkeypatch)
    patch_map({"patient_id": [7], "x": [0], "y": [0], "target": [0], "probability": [0.25]}, style=SMALL)
    assert {"7   AUC undefined · Dice undefined", "1 patch, 0% positive", "1 patient, 1 patch"} <= words
    assert "none known" not in words


def of_patients(count):
    columns = {"patient_id": list(range(count)), "x": [0] * count, "y": [0] * count, "target": [i % 2 for i in range(count)]}
    return PatchTable.of(columns | {"probability": [0.5] * count})


@pytest.mark.parametrize(
    ("page", "rows", "columns", "shown"),
    [
        (PatchPage(2, 3), 2, 3, 6),
        (PatchPage(columns=4), 6, 4, 24),
        (PatchPage(rows=3), 3, 8, 24),
        (PatchPage(1, 40), 1, 40, 40),
    ],
)
def test_a_page_has_the_rows_and_columns_that_are_asked_for(page, rows, columns, shown, monkeypatch):
    words = said(monkeypatch)
    picture = patch_map(of_patients(40), page, Style(tile=32))
    gap, strip = 6, text.height(text.font_size(Style(tile=32)))
    wide = columns * (2 * 32 + 3 + 2 * gap) + gap
    assert picture.shape[2] == max(wide, picture.shape[2]) and (picture.shape[2] == wide or columns < 4)
    header = picture.shape[1] - rows * (32 + strip + gap) - gap
    assert 0 < header < 160
    (line,) = (word for word in words if "mean AUC" in word)
    assert ("are shown" not in line) if shown == 40 else line.endswith(f"the first {shown} are shown")


def test_by_default_a_page_shows_the_first_patients_in_a_laptops_shape():
    picture = patch_map(of_patients(40), style=Style(tile=160))
    assert PatchPage().shown(40) == MOST and PatchPage().shown(5) == 5
    assert 1.2 < picture.shape[2] / picture.shape[1] < 2.4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(rows=0), "rows=0: expected at least 1"),
        (dict(columns=-1), "columns=-1: expected at least 1"),
        (dict(patch_size=0.0), "patch_size=0.0: expected the side of a patch"),
        (dict(classes=["benign"]), r"classes=\['benign'\]: expected two names, of label 0 and of label 1"),
        (dict(classes="ab"), "classes='ab': expected two names"),
    ],
)
def test_pages_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        PatchPage(**options)


def test_the_function_is_public():
    assert figures.patch_map is patch_map
