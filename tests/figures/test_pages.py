"""What the pages of a Record tell beside its maps: regions, change, numbers, jumps."""

import dataclasses
import warnings

import pytest
import torch
from nets import SMALL, STRICT, boxed_fit, cam
from run_records import made_batch, made_record

from lightning_cam import Batch, Style
from lightning_cam.figures.captions import Remarks, captions, factor_words
from lightning_cam.figures.filmstrip import marked
from lightning_cam.figures.pages import RecordPages, RunColumns
from lightning_cam.records.pictures import sample_pictures
from lightning_cam.render.text import forget

pytestmark = STRICT

PLAIN = Style(tile=64)


def pages(style=PLAIN, regions=None, run=None, **options):
    torch.manual_seed(0)
    record = made_record(3, 1, full=False, values={"energy_inside": torch.tensor([[0.431], [torch.nan], [1.0]])}, **options)
    batch = made_batch(3) if regions is None else made_batch(3, regions=regions)
    torch.manual_seed(1)
    batch = dataclasses.replace(batch, images=torch.rand(3, 3, 16, 16))
    return RecordPages(record, batch, style, "label", run)


def run_of(record, start=None, jumps=None):
    heat = record.heat.flatten(0, 1)
    return RunColumns(["start", "1"], [heat if start is None else start, heat], -3.0, 3.0, start, jumps)


def headers_of(monkeypatch):
    """The second lines of the headers from here on."""
    draw, headers = RecordPages._picture, []

    def keep(self, body, about):
        headers.append(about)
        return draw(self, body, about)

    monkeypatch.setattr(RecordPages, "_picture", keep)
    return headers


def mask(*ends):
    x0, y0, x1, y1 = ends
    region = torch.zeros(3, 16, 16, dtype=torch.bool)
    region[:, y0:y1, x0:x1] = True
    return region


def test_outlines_are_drawn_unless_the_style_says_no():
    regions = {"object": mask(4, 4, 12, 12)}
    run = run_of(pages().record)
    without = pages(regions={}, run=run)
    off = pages(dataclasses.replace(PLAIN, outlines=False), regions, run)
    on = pages(PLAIN, regions, run)
    for page in ("sheet", "filmstrip"):
        bare, hidden, drawn = (getattr(each, page)().pixels for each in (without, off, on))
        assert (bare == hidden).all()
        assert bare.shape == drawn.shape and (bare != drawn).any()  # a single region needs no legend
    own = [next(iter(each.overlays().values())) for each in (without, off, on)]
    assert (own[0] == own[1]).all() and (own[0] != own[2]).any()


def test_several_regions_are_named_above_the_cards():
    one, two = {"object": mask(4, 4, 12, 12)}, {"object": mask(4, 4, 12, 12), "ruler": mask(0, 13, 16, 16)}
    for page in ("sheet", "filmstrip"):
        run = run_of(pages().record)
        low, high = (getattr(pages(PLAIN, regions, run), page)().pixels for regions in (one, two))
        assert high.shape[0] > low.shape[0] and high.shape[1] == low.shape[1]
        renamed = {"thing": two["object"], "ruler": two["ruler"]}
        other = getattr(pages(PLAIN, renamed, run), page)().pixels
        assert other.shape == high.shape and (other != high).any()
        hidden = getattr(pages(dataclasses.replace(PLAIN, outlines=False), two, run), page)().pixels
        assert hidden.shape == low.shape


def test_the_record_of_a_run_keeps_pictures_without_outlines():
    assert sample_pictures(made_batch(regions={"object": mask(2, 2, 9, 9)}), PLAIN)
    images = torch.rand(3, 3, 16, 16)
    with_regions, without = (
        sample_pictures(made_batch(images=images, regions=regions), PLAIN) for regions in ({"object": mask(2, 2, 9, 9)}, {})
    )
    assert with_regions == without


def test_regions_are_repeated_for_the_targets_of_a_sample_and_absent_ones_left_out():
    record = made_record(3, 2, full=False, absent=torch.tensor([[False, False], [True, False], [False, True]]))
    regions = {"object": torch.stack([mask(i, i, i + 8, i + 8)[0] for i in range(3)])}
    shown = RecordPages(record, made_batch(3, regions=regions), PLAIN, "label")._cards
    assert shown.positions == [0, 1, 3, 4]
    assert torch.equal(shown.regions[:, 0], regions["object"][[0, 0, 1, 2]])
    chosen = shown.chosen([4, 3, 0, 1])
    assert torch.equal(chosen.regions[:, 0], regions["object"][[2, 1, 0, 0]])
    assert torch.equal(chosen.base, shown.base[[3, 2, 0, 1]])


# captions


def under(change=(), number=None, norm="positive", **options):
    page = pages(**options)
    return [caption.under for caption in captions(page.batch, page.record, norm, Remarks(change, number))]


def test_a_caption_tells_the_change_since_the_first_look_and_the_number_wished_for():
    plain = under()
    peaks = [line.partition(" · ")[0] for line in plain]
    assert all(peak.startswith("peak ") for peak in peaks)
    changed = under([0.4, torch.nan, 12.0], "energy_inside")
    names = [line.rpartition(" · ")[2] for line in plain]
    assert changed == [
        f"energy_inside 0.431 · {peaks[0]} (x0.4) · {names[0]}",
        f"energy_inside undefined · {peaks[1]} · {names[1]}",
        f"energy_inside 1 · {peaks[2]} (x12) · {names[2]}",
    ]
    assert under((), "iou") == plain


def test_the_change_is_that_of_the_strongest_place_of_the_same_map():
    torch.manual_seed(0)
    page = pages()
    now = page.record.heat.flatten(0, 1)
    start = now.clone() / 2
    start[1] = torch.nan  # of another class
    start[2] = -now[2].abs()  # without a peak
    run = run_of(page.record, start)
    change = dataclasses.replace(page, run=run)._change
    assert change[0] == pytest.approx(2.0) and all(factor != factor for factor in change[1:])
    signed = dataclasses.replace(page, run=run, style=Style(tile=64, norm="symmetric"))._change
    assert signed[2] == pytest.approx(1.0)
    assert dataclasses.replace(page, run=run_of(page.record))._change == [] == page._change


def test_the_header_says_what_the_factor_is_only_where_there_is_one(monkeypatch):
    headers = headers_of(monkeypatch)
    page = pages()
    heat = page.record.heat.flatten(0, 1)
    for run in (None, run_of(page.record), run_of(page.record, heat / 3), run_of(page.record, torch.zeros_like(heat))):
        dataclasses.replace(page, run=run).sheet()
    told = ["times the first look's peak" in header for header in headers]
    assert told == [False, False, True, False]


# marks of jumps


def test_a_cell_whose_map_jumped_has_a_marked_corner():
    cells = torch.randint(0, 256, (2, 3, 3, 40, 60), dtype=torch.uint8)
    where = torch.tensor([[False, True, False], [False, False, True]])
    drawn = marked(cells, where)
    differs = (drawn != cells).any(2)
    assert torch.equal(differs.flatten(2).any(2), where)
    corner = differs[0, 1]
    assert corner[0, -1] and not corner[:, :40].any() and not corner[20:].any()
    assert drawn[0, 1, :, 0, -1].tolist() == [0, 114, 178]


def test_a_filmstrip_marks_the_look_at_which_a_map_jumped_and_says_what_that_means(monkeypatch):
    page = pages(regions={})
    run = run_of(page.record)
    none = torch.zeros(2, 3, dtype=torch.bool)
    jumps = none.clone()
    jumps[1, 2] = True
    strips = [
        dataclasses.replace(page, run=dataclasses.replace(run, jumps=marks)).filmstrip().pixels for marks in (None, none, jumps)
    ]
    assert (strips[0] == strips[1]).all() and strips[0].shape == strips[2].shape
    body = (strips[0] != strips[2]).any(2)[50:]  # below the header
    rows, columns = body.nonzero()
    # one corner, in the last row and column
    assert rows.max() - rows.min() < 16 and columns.max() - columns.min() < 16
    assert columns.min() > body.shape[1] * 0.8 and rows.min() > body.shape[0] * 0.6
    headers = headers_of(monkeypatch)
    for marks in (none, jumps):
        dataclasses.replace(page, run=dataclasses.replace(run, jumps=marks)).filmstrip()
    assert ["jumped" in header for header in headers] == [False, True]


def test_a_remark_stands_on_the_card_whether_or_not_there_is_room_beside_the_class():
    from lightning_cam.render.text import Caption, strips

    forget()
    for width in (300, 90):
        plain = strips([Caption("raccoon 93%", "peak 1.2", True)], width, 12, None)[0]
        told = strips([Caption("raccoon 93%", "peak 1.2", True, "jumped")], width, 12, None)[0]
        differs = (plain != told).any(0)
        line = differs[: differs.shape[0] // 2].any() if width == 300 else differs[differs.shape[0] // 2 :].any()
        assert plain.shape == told.shape and bool(line)
        if width == 300:
            assert not differs[20:].any()


# in a run


def caught(run):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in told if str(warning.message).startswith("CAMCallback")]


def kept_captions(monkeypatch):
    """The captions of every sheet of a run."""
    from lightning_cam.figures import pages as module

    kept = []

    def keep(*args):
        kept.append(captions(*args))
        return kept[-1]

    monkeypatch.setattr(module, "captions", keep)
    return kept


BOXED = Batch(3, regions={"box": "box"})


def test_in_a_run_captions_follow_the_baseline(tmp_path, monkeypatch):
    kept = kept_captions(monkeypatch)
    results = []
    style = dataclasses.replace(SMALL, number="energy_inside")
    callback = cam(method="activation_mean", batch=BOXED, style=style)
    callback.watcher.observers.append(results.append)
    boxed_fit(tmp_path, callback)
    first, last = results[0].records[0], results[-1].records[0]
    assert not any("(x" in caption.under for caption in kept[0])
    known = 0
    for i, caption in enumerate(kept[-1]):
        now, start = float(last.strength[i, 0]), float(first.strength[i, 0])
        told = f"peak {now:.3g}"
        if start > 0 and now > 0:
            told += f" ({factor_words(now / start)})"
            known += 1
        if now > 0:
            assert caption.under.startswith(f"energy_inside {float(last.values['energy_inside'][i, 0]):.3g} · {told} · ")
        else:
            assert caption.under.startswith("no evidence · ")
    assert known == 3


@pytest.mark.parametrize(
    ("style", "metrics", "message"),
    [
        (
            {"number": "energy_insid"},
            None,
            r"Style(number='energy_insid'): no such metric is measured at relu/grad_cam, so no caption tells it. "
            "Did you mean 'energy_inside'? Measured: ",
        ),
        ({"number": "iou"}, [], "Measured: none. Name it in metrics=[...]."),
        ({"order": "suspect"}, ["iou"], "only enrichment or energy_inside tell; at relu/grad_cam are measured: iou."),
    ],
)
def test_a_number_that_is_not_measured_is_one_warning_and_ends_nothing(style, metrics, message, tmp_path):
    callback = cam(batch=BOXED, style=dataclasses.replace(SMALL, **style), metrics=metrics)
    said = caught(lambda: boxed_fit(tmp_path, callback))
    assert len(said) == 1 and message in said[0]
    assert len(list(tmp_path.rglob("*.jpg"))) > 3


def test_what_the_warnings_advise_is_silent(tmp_path):
    style = dataclasses.replace(SMALL, order="suspect", number="iou")
    callback = cam(batch=BOXED, style=style, metrics=["enrichment", "iou"])
    assert caught(lambda: boxed_fit(tmp_path, callback)) == []


def test_a_metric_of_every_fifth_look_is_not_missed_at_the_others(tmp_path):
    style = dataclasses.replace(SMALL, number="every_iou")
    metrics = [{"every": {"metric": "iou", "n": 5}}]
    callback = cam(batch=BOXED, style=style, metrics=metrics)
    results = []
    callback.watcher.observers.append(results.append)
    said = caught(lambda: boxed_fit(tmp_path, callback))
    names = [list(result.records[0].values) for result in results]
    assert names[0] and not names[1]
    assert (said == []) == (names[0] == ["every_iou"])
