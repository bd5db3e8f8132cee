"""The bars of the parts: every segment as high as its share, in its colour, at its look; axis and words beside."""

import importlib
import math
from itertools import pairwise

import pytest
import torch

from lightning_cam import Style, figures
from lightning_cam.figures import patch_legend
from lightning_cam.figures.axis import Axis
from lightning_cam.figures.part_bars import PartColumns, part_bars, part_colours
from lightning_cam.render import text, typesetting
from lightning_cam.render.text import INK

page = importlib.import_module("lightning_cam.figures.part_bars")  # whose name in its room is the function's
STYLE = Style(tile=160)
PARTS = ["stem", "layer3", "layer4", "head", "rest"]
HIGH = round(2.1 * STYLE.tile)  # from the lowest number of the axis to its highest
TITLE = ("what moved at layer4", "drift from the baseline")


def columns(shares, parts=None, titles=None):
    shares = torch.tensor(shares, dtype=torch.float64)
    n, p = shares.shape
    return PartColumns(titles or [str(i) for i in range(n)], parts or PARTS[:p], shares)


def is_colour(picture, colour):
    return (picture == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(0)


def body(picture):
    """Without header and legend."""
    return picture[:, 118:]


def bars(picture, parts):
    """Of each part the places of its segments, from left to right: first and last column, first and last row."""
    found = {}
    for part, colour in zip(parts, part_colours(parts), strict=True):
        hit = is_colour(body(picture), colour)
        across = hit.any(0).int()
        steps = across.diff(prepend=across.new_zeros(1), append=across.new_zeros(1))
        edges = zip((steps == 1).nonzero()[:, 0].tolist(), (steps == -1).nonzero()[:, 0].tolist(), strict=True)
        found[part] = []
        for left, right in edges:
            rows = hit[:, left:right].any(1).nonzero()[:, 0].tolist()
            found[part].append((left, right - 1, rows[0], rows[-1]))
    return found


def said(monkeypatch):
    """All that is written on pages from now on."""
    words = []

    def listening(line, size, font):
        words.append(line)
        return typesetting.typeset(line, size, font)

    for place in (page, text, patch_legend, importlib.import_module("lightning_cam.figures.sheet")):
        monkeypatch.setattr(place, "typeset", listening)
    text.forget()
    return words


def test_every_segment_is_as_high_as_its_share_and_stands_on_the_one_before():
    shares = [[0.1, 0.2, 0.05], [0.0, 0.1, 0.3], [0.2, 0.1, 0.1]]
    found = bars(part_bars(columns(shares), TITLE, STYLE), PARTS[:3])
    scale = HIGH / 0.4  # the axis ends at .4
    assert [len(found[part]) for part in PARTS[:3]] == [2, 3, 3]  # what is nothing is not drawn
    lefts = [place[0] for place in found["layer3"]]
    assert lefts[1] - lefts[0] == pytest.approx(lefts[2] - lefts[1], abs=1)
    zero = found["stem"][0][3]
    for look, row in enumerate(shares):
        before = 0.0
        for part, share in zip(PARTS, row, strict=False):
            if not share:
                continue
            (place,) = (place for place in found[part] if abs(place[0] - lefts[look]) <= 1)
            assert zero - place[3] == pytest.approx(before * scale, abs=1)
            assert zero + 1 - place[2] == pytest.approx((before + share) * scale, abs=2)  # a white line between
            before += share


def test_shares_below_zero_hang_from_the_zero_line_and_a_line_tells_the_drift():
    picture = part_bars(columns([[-0.1, 0.3], [0.1, 0.1]], ["a", "b"]), TITLE, STYLE)
    found = bars(picture, ["a", "b"])
    scale = HIGH / 0.4  # from -.1 to .3
    below, above = found["a"]
    zero = above[3]
    assert zero + 1 <= below[2] <= zero + 3 and below[3] - zero == pytest.approx(0.1 * scale, abs=2)
    assert zero - found["b"][0][3] <= 2
    dark = is_colour(body(picture), INK)
    for place, drift in zip(found["b"], (0.2, 0.2), strict=True):
        row = round(zero - drift * scale)
        assert dark[row - 2 : row + 3, place[0] : place[1] + 1].all(1).any()  # across all of the bar


def test_without_a_share_below_zero_no_line_crosses_the_bars_and_rounding_is_none():
    plain = part_bars(columns([[0.0, 0.3]], ["a", "b"]), TITLE, STYLE)
    assert torch.equal(part_bars(columns([[-1e-9, 0.3]], ["a", "b"]), TITLE, STYLE), plain)
    assert columns([[-1e-9, 0.3]]).extent == (0.0, 0.3)
    assert columns([[-0.1, 0.3, -0.1], [0.1, 0.5, math.nan]]).extent == pytest.approx((-0.2, 0.6))
    ((left, right, top, _),) = bars(plain, ["a", "b"])["b"]
    crossed = is_colour(body(plain), INK)[top + 2 :, left : right + 1].all(1)
    assert not crossed.any()


def test_the_words_are_axis_looks_parts_drifts_and_percents(monkeypatch):
    words = said(monkeypatch)
    part_bars(columns([[0.05, 0.15], [0.1, 0.3]], ["features", "head"], ["epoch 5", "epoch 10"]), TITLE, STYLE)
    assert {"0.0", "0.1", "0.2", "0.3", "0.4", "epoch 5", "epoch 10", "features", "head", *TITLE} <= set(words)
    assert {"0.20", "0.40", "25%", "75%"} <= set(words) and "drift" not in words
    words.clear()
    part_bars(columns([[-0.1, 0.3]], ["features", "head"]), TITLE, STYLE)
    assert {"drift", "-50%", "0.20", "-0.1"} <= set(words)


def test_shares_that_cancel_have_no_percents(monkeypatch):
    words = said(monkeypatch)
    part_bars(columns([[-0.25, 0.25], [0.5, 0.5]]), TITLE, STYLE)
    assert [word for word in words if word.endswith("%")] == ["50%", "50%"]  # of the second look alone
    assert {"0.00", "1.00"} <= set(words)


def test_a_look_without_shares_has_a_dash_and_its_place(monkeypatch):
    words = said(monkeypatch)
    picture = part_bars(columns([[0.2, 0.1], [math.nan, math.nan], [0.2, 0.1]]), TITLE, STYLE)
    assert "-" in words and "nan" not in "".join(words)
    first, last = bars(picture, PARTS[:2])["stem"]
    alone = bars(part_bars(columns([[0.2, 0.1], [0.2, 0.1], [0.2, 0.1]]), TITLE, STYLE), PARTS[:2])["stem"]
    assert [first, last] == [alone[0], alone[2]]


@pytest.mark.parametrize("n", [1, 2, 8, 40, 64])
@pytest.mark.parametrize("p", [2, 5])
def test_any_number_of_looks_and_parts_is_told_apart_on_a_page_of_sane_size(n, p, monkeypatch):
    words = said(monkeypatch)
    shares = (0.05 + torch.rand(n, p)).tolist()
    titles = ["start", *(str(i) for i in range(1, n))]
    picture = part_bars(columns(shares, titles=titles), TITLE, STYLE)
    assert picture.dtype == torch.uint8 and 480 < picture.shape[1] < 560
    assert 4.5 * STYLE.tile < picture.shape[2] < max(5.2 * STYLE.tile, 25 * n)
    found = bars(picture, PARTS[:p])
    assert [len(found[part]) for part in PARTS[:p]] == [n] * p
    wide = {right - left + 1 for left, right, *_ in found["stem"]}
    assert len(wide) == 1 and 12 <= min(wide) <= 0.6 * STYLE.tile + 1
    labels = [word for word in words if word in titles]
    assert "start" in labels


def test_titles_that_have_no_room_are_left_out_evenly(monkeypatch):
    drawn = []
    monkeypatch.setattr(page, "write", lambda pen, place, line, ink, anchor: drawn.append((line.text, place[0], line.length)))
    titles = [str(i) for i in range(100, 140)]
    part_bars(columns([[0.1, 0.2]] * 40, titles=titles), TITLE, STYLE)
    labels = sorted((place, word, length) for word, place, length in drawn if word in titles)
    shown = [int(word) for _, word, _ in labels]
    assert shown[0] == 100 and len({b - a for a, b in pairwise(shown)}) == 1 and len(shown) > 8
    for (left, _, wide), (right, _, _) in pairwise(labels):
        assert right - left > wide + 5


def test_nothing_moved_is_an_empty_axis(monkeypatch):
    words = said(monkeypatch)
    picture = part_bars(columns([[0.0, 0.0]] * 3), TITLE, STYLE)
    assert not any(bars(picture, PARTS[:2]).values())
    assert {"0.0", "1.0", "0.00"} <= set(words)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 0.031, ["0.00", "0.01", "0.02", "0.03", "0.04"]),
        (-0.5, 1.4, ["-0.5", "0.0", "0.5", "1.0", "1.5"]),
        (0, 2e-5, ["0.000000", "0.000005", "0.000010", "0.000015", "0.000020"]),
        (0, 37, ["0", "10", "20", "30", "40"]),
        (0, 0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_the_axis_has_round_numbers_and_holds_its_range(low, high, words):
    axis = Axis.over(float(low), float(high), 300)
    assert axis.words == words
    assert axis.ticks[0] <= low and axis.ticks[-1] >= high * (1 - 1e-9) and 0 in axis.ticks
    assert axis.row(axis.ticks[-1]) == 0 and axis.row(axis.ticks[0]) == 300


def test_colours_are_told_apart_by_all_eyes_and_what_is_left_over_is_grey():
    colours = torch.tensor([*part_colours(["a", "b", "c", "d", "e", "rest"]), (255, 255, 255)]).double() / 255
    assert (colours[-2].max() - colours[-2].min()) < 0.05
    for name, sight in SIGHTS.items():
        apart = torch.pdist(lab(colours, torch.tensor(sight, dtype=torch.float64)))
        assert apart.min() > 15, (name, apart)  # 2.3 is just noticeable


# what is left of linear light to those who lack the pigment for red, green or blue: Machado et al. 2009, severity 1.0
SIGHTS = {
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def lab(srgb, sight):
    """Colours in CIELAB, in which distances are about those seen."""
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = (linear @ sight.T).clamp(0, 1)
    x, y, z = (linear @ torch.tensor(XYZ, dtype=torch.float64).T / torch.tensor([0.95047, 1, 1.08883])).T
    fx, fy, fz = (torch.where(v > 0.008856, v ** (1 / 3), 7.787 * v + 16 / 116) for v in (x, y, z))
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


def test_the_function_is_public():
    assert figures.part_bars is part_bars and figures.PartColumns is PartColumns
