"""The table of samples: every number of every look comes back, whatever names are, and whatever became of the writer."""

import csv
import errno
import io
import time
import warnings
from math import isnan

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from nets import BOXES, STRICT, boxed_fit, cam
from run_records import HOSTILE, made_batch, made_record
from torch import nan

from lightning_cam import Style, records
from lightning_cam.record import Predictions
from lightning_cam.records import csv_file
from lightning_cam.records.table import SampleTable
from lightning_cam.training.notices import Notices
from lightning_cam.training.publisher import Publisher

pytestmark = STRICT

FORMULAS = ["=1+2", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'quoted", "''"]
COMMAS = ["a, b", '"', 'a "b" c', "a\nb", "a\r\nb", "a\rb", ",", '",\n"', "C:\\x", "../x/y.png", " padded "]
FIXED = "session look step epoch layer method sample name target label predicted predicted_probability class class_name"
FIXED = [*FIXED.split(), "probability", "score", "strength"]


def expected_rows(record, batch, session):
    """What a Record says, written out sample by sample."""
    rows = []
    for i in range(len(record.score)):
        for j in range(record.score.shape[1]):
            if record.absent is not None and record.absent[i, j] and not (record.lost is not None and record.lost[i, j]):
                continue
            told = record.predictions
            explained = int(told.classes[i, j])
            name = record.target_names[j] if record.target_names else batch.class_name(explained) if explained >= 0 else ""
            row = dict(session=session, look=record.moment.title, step=record.moment.step, epoch=nan)
            row |= dict(layer=record.tag.rpartition("/")[0], method=record.method, sample=i, name=batch.names[i], target=j)
            row |= dict(label=int(told.labels[i]), predicted=int(told.predicted[i]))
            row |= {"predicted_probability": float(told.predicted_probability[i]), "class": explained, "class_name": name}
            row |= dict(probability=float(told.probability[i, j]), score=float(record.score[i, j]))
            row |= dict(strength=float(record.strength[i, j]))
            row |= {name: float(value[i, j]) for name, value in record.values.items()}
            rows.append(
                {key: nan if value == -1 and key in ("label", "predicted", "class") else value for key, value in row.items()}
            )
    return rows


def same(rows, others):
    """Whether rows are equal cell by cell, NaN to NaN, numbers in single precision, columns in one order."""
    if len(rows) != len(others) or any(list(row) != list(other) for row, other in zip(rows, others, strict=True)):
        return False
    pairs = [(row[key], other[key]) for row, other in zip(rows, others, strict=True) for key in row]
    return all(a == b or (a != a and b != b) or (type(a) is float and np.float32(a) == np.float32(b)) for a, b in pairs)


def filled(folder, looks=2, batch=None, table=None, **options):
    """A table of some looks; its file, and the rows that it should have."""
    batch = made_batch() if batch is None else batch
    table = SampleTable("run 1") if table is None else table
    rows = []
    for step in range(looks):
        record = made_record(len(batch), step=step, **options)
        table.add(folder, [record], batch, "cam")
        rows += expected_rows(record, batch, table.session)
    return folder / "cam" / "samples.csv", rows


# what is in it


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_number_of_every_sample_target_and_look_comes_back_bit_for_bit(dtype, full, tmp_path):
    options = dict(dtype=dtype, full=full)
    path, rows = filled(tmp_path, 3, **options)
    assert len(rows) > 6 and [row["score"] for row in records.samples(tmp_path)] == (
        [row["score"] for row in rows] if dtype == torch.float64 else [float(f"{row['score']:.9g}") for row in rows]
    )
    assert same(records.samples(tmp_path), rows)
    assert same(records.read_table(path), rows) and same(records.samples(path), rows)
    assert list(rows[0])[: len(FIXED)] == FIXED


def test_absent_targets_have_no_row_and_lost_ones_have(tmp_path):
    absent = torch.tensor([[False, True], [True, True], [False, False]])
    lost = torch.tensor([[False, False], [True, False], [False, False]])
    filled(tmp_path, 1, absent=absent, lost=lost)
    assert [(row["sample"], row["target"]) for row in records.samples(tmp_path)] == [(0, 0), (1, 0), (2, 0), (2, 1)]


def test_what_is_not_known_is_an_empty_cell(tmp_path):
    told = Predictions(*(torch.full(size, -1) for size in [(3, 2)]), torch.full((3, 2), nan), *[torch.full((3,), -1)] * 1,
                       torch.full((3,), nan), torch.full((3,), -1))  # fmt: skip
    path, _ = filled(tmp_path, 1, full=False, predictions=told, values={"drift": torch.full((3, 2), nan)})
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))
    assert [key for key, cell in row.items() if not cell] == [
        *("epoch", "label", "predicted", "predicted_probability", "class", "class_name", "probability", "drift")
    ]
    (first, *_) = records.samples(tmp_path)
    assert first["class_name"] == "" and isnan(first["label"]) and isnan(first["drift"])


def test_infinity_comes_back(tmp_path):
    filled(tmp_path, 1, full=False, values={"far": torch.full((3, 2), torch.inf), "down": torch.full((3, 2), -torch.inf)})
    assert {(row["far"], row["down"]) for row in records.samples(tmp_path)} == {(torch.inf, -torch.inf)}


def test_samples_without_names_are_numbered_and_fused_layers_told(tmp_path):
    filled_batch = made_batch(2, names=())
    SampleTable("s").add(tmp_path, [made_record(2, 1, name="fused/grad_cam", full=False)], filled_batch, "cam")
    assert [(row["name"], row["layer"], row["method"]) for row in records.samples(tmp_path)] == [
        (f"sample {i}", "fused", "grad_cam") for i in (0, 1)
    ]


def test_the_epoch_is_that_of_the_moment(tmp_path):
    record = made_record(full=False)
    object.__setattr__(record.moment, "epoch", 2.5)
    SampleTable("s").add(tmp_path, [record], made_batch(), "cam")
    assert {row["epoch"] for row in records.samples(tmp_path)} == {2.5}


def test_a_metric_called_as_a_column_has_a_column_of_its_own_and_the_strength_is_one(tmp_path):
    values = {name: torch.rand(3, 2) for name in ("score", "label", "look", "strength", "=1")}
    filled(tmp_path, 1, full=False, values=values)
    rows = records.samples(tmp_path)
    assert list(rows[0])[len(FIXED) :] == ["metric score", "metric label", "metric look", "=1"]
    for column, name in (("metric score", "score"), ("strength", "strength"), ("=1", "=1")):
        assert torch.equal(torch.tensor([row[column] for row in rows]), values[name].flatten()), column


# hostile names


@pytest.mark.parametrize("names", [HOSTILE, FORMULAS, COMMAS], ids=["hostile", "formulas", "commas"])
def test_hostile_names_come_back_and_are_no_formulas(names, tmp_path):
    batch = made_batch(len(names), names=tuple(names), classes=tuple(names))
    told = made_record(len(names), 1).predictions
    told.classes[:, 0] = torch.arange(len(names))
    record = made_record(len(names), 1, full=False, predictions=told, name=f"{names[0] or 'x'}/method")
    SampleTable("s").add(tmp_path, [record], batch, "cam")
    rows = records.samples(tmp_path)
    as_text = {"\udcff undecodable": r"\udcff undecodable", "nul\0inside": r"nul\x00inside"}
    assert [row["name"] for row in rows] == [row["class_name"] for row in rows] == [as_text.get(name, name) for name in names]
    assert {row["layer"] for row in rows} == {names[0] or "x"}
    data = (tmp_path / "cam" / "samples.csv").read_bytes().decode()  # valid text, for whoever reads it
    cells = [cell for row in csv.reader(io.StringIO(data, newline="")) for cell in row]
    signs = ("=", "+", "@", "\t", "\r", "\n", "\uff1d")
    assert not [cell for cell in cells if cell.startswith(signs) or (cell.startswith("-") and not _is_number(cell))]


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_a_name_too_long_for_a_cell_is_cut(tmp_path):
    filled(tmp_path, 1, made_batch(names=("x" * 200_000, "b", "c")), full=False)
    assert records.samples(tmp_path)[0]["name"] == "x" * 32_000


# a writer that was killed, and one that goes on


def test_a_table_cut_at_any_byte_is_whole_up_to_there_and_is_gone_on_with(tmp_path):
    names = ('a "b",\n"c', "=1\r\n,", "x\n")
    path, rows = filled(tmp_path / "whole", 2, made_batch(names=names), full=False)
    data = path.read_bytes()
    ends = [0]  # of each row, by the csv module's own account
    for line in csv.reader(io.StringIO(data.decode(), newline="")):
        text = io.StringIO(newline="")
        csv.writer(text).writerow(line)
        ends.append(ends[-1] + len(text.getvalue().encode()))
    assert ends[-1] == len(data) and len(ends) == len(rows) + 2
    record, batch = made_record(step=9, full=False), made_batch(names=names)
    more = expected_rows(record, batch, "run 2")
    for cut in [*range(0, len(data), 7), *range(ends[-2] - 2, len(data) + 1)]:
        place = tmp_path / "cut" / "cam" / "samples.csv"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data[:cut])
        whole = max(sum(end <= cut for end in ends) - 2, 0)
        assert same(records.samples(tmp_path / "cut"), rows[:whole]), cut
        SampleTable("run 2").add(tmp_path / "cut", [record], batch, "cam")
        assert same(records.samples(tmp_path / "cut"), rows[:whole] + more), cut


def test_a_resumed_run_goes_on_under_one_header(tmp_path):
    path, rows = filled(tmp_path, 2)
    _, more = filled(tmp_path, 1, table=SampleTable("run 2"))
    assert same(records.samples(tmp_path), rows + more)
    assert path.read_text().count("session,look") == 1 and list(path.parent.iterdir()) == [path]


def test_new_columns_widen_the_table_and_missing_ones_are_empty(tmp_path):
    table, names = SampleTable("run 1"), ("a\nb", "=1", '"')
    batch = made_batch(names=names)
    rows, columns = [], {}
    for step, metrics in enumerate([["one"], ["one", "two"], [], ["three", "one"]]):
        record = made_record(step=step, full=False, values={name: torch.rand(3, 2) for name in metrics})
        table.add(tmp_path, [record], batch, "cam")
        rows += expected_rows(record, batch, "run 1")
        columns |= dict.fromkeys([*FIXED, *metrics], nan)
    assert list(columns)[-3:] == ["one", "two", "three"]
    assert same(records.samples(tmp_path), [columns | row for row in rows])
    path = tmp_path / "cam" / "samples.csv"
    widths = {len(row) for row in csv.reader(io.StringIO(path.read_text(), newline=""))}
    assert widths == {len(columns)} and list(path.parent.iterdir()) == [path]  # no ragged row, and nothing left beside it


def test_records_of_one_look_with_other_metrics_each_share_a_header(tmp_path):
    first, second = (made_record(full=False, values={name: torch.rand(3, 2)}) for name in ("one", "two"))
    batch = made_batch()
    SampleTable("s").add(tmp_path, [first, second], batch, "cam")
    blank = dict(one=nan, two=nan)
    rows = [
        {**{key: row[key] for key in FIXED}, **blank, **row} for r in (first, second) for row in expected_rows(r, batch, "s")
    ]
    assert same(records.samples(tmp_path), rows)


def test_a_table_that_somebody_removed_begins_anew(tmp_path):
    table = SampleTable("run 1")
    path, _ = filled(tmp_path, 1, table=table)
    path.unlink()
    _, rows = filled(tmp_path, 1, table=table)
    assert same(records.samples(tmp_path), rows)


def test_a_look_without_records_writes_nothing(tmp_path):
    SampleTable("s").add(tmp_path, [], made_batch(), "cam")
    assert list(tmp_path.iterdir()) == []


# faults


def full_disk(monkeypatch, on_calls, room=500):
    """A disk that takes only so many bytes of a write, at these of them."""
    append, calls = csv_file.append, []

    def sometimes(path, rows):
        calls.append(path)
        if len(calls) - 1 in on_calls:
            before = path.read_bytes() if path.exists() else b""
            append(path, rows)
            path.write_bytes(before + path.read_bytes()[len(before) :][:room])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        append(path, rows)

    monkeypatch.setattr(csv_file, "append", sometimes)


def published(publisher, folder, count, **options):
    """Looks handed to a publisher, and the rows they should leave."""
    batch, rows = made_batch(), []
    for step in range(count):
        publisher.open([], folder)
        record = made_record(step=step, full=False, **options)
        publisher.record([record], batch, "cam", Style(tile=32))
        publisher.close()
        rows.append(expected_rows(record, batch, publisher.run.session))
    return rows


def test_a_full_disk_is_one_warning_and_costs_only_what_it_had_no_room_for(tmp_path, monkeypatch):
    full_disk(monkeypatch, {1, 2, 4})
    with pytest.warns(UserWarning, match=r"writing to .* failed, training goes on: OSError.*No space left") as told:
        looks = published(Publisher(Notices("warn")), tmp_path, 6)
    assert len(told) == 1
    found = records.samples(tmp_path)
    kept = [row for step in (0, 3, 5) for row in looks[step]]
    assert same([row for row in found if row["step"] in (0, 3, 5)], kept)
    # of the others the rows that were whole
    for step in (1, 2, 4):
        part = [row for row in found if row["step"] == step]
        assert 0 < len(part) < len(looks[step]) and same(part, looks[step][: len(part)])


def test_a_disk_without_room_for_a_wider_table_leaves_it_as_it_was(tmp_path, monkeypatch):
    path, rows = filled(tmp_path, 1, full=False)
    full_disk(monkeypatch, {0})
    with pytest.raises(OSError, match="No space left"):
        filled(tmp_path, 1, full=False, values={"new": torch.rand(3, 2)})
    assert same(records.samples(tmp_path), rows) and list(path.parent.iterdir()) == [path]


def test_a_place_where_nothing_can_be_written_is_one_warning(tmp_path):
    (tmp_path / "cam").write_text("a file where the folder should be")
    publisher = Publisher(Notices("warn"))
    with pytest.warns(UserWarning, match=r"writing to .* failed, training goes on: (NotADirectory|FileExists)Error") as told:
        published(publisher, tmp_path, 3)
    assert len(told) == 1 and len(records.read(tmp_path).looks) == 3
    with pytest.raises(OSError, match="cam"):
        published(Publisher(Notices("raise")), tmp_path, 1)


def test_a_look_of_256_samples_takes_a_few_milliseconds(tmp_path):
    batch, table = made_batch(256, side=4), SampleTable("s")
    values = {f"metric_{i}": torch.rand(256, 1) for i in range(8)}
    made = [made_record(256, 1, (2, 2), step, full=False, values=values) for step in range(8)]
    times = []
    for record in made:
        start = time.perf_counter()
        table.add(tmp_path, [record], batch, "cam")
        times.append(time.perf_counter() - start)
    assert min(times[1:]) < 0.05  # some 5 ms; with room for machines that do other things
    assert len(records.samples(tmp_path)) == 8 * 256


# where it is


@pytest.mark.parametrize("kind", ["tensorboard", "csv", "none"])
def test_a_run_writes_it_beside_its_record(kind, tmp_path):
    logger = {"tensorboard": TensorBoardLogger, "csv": CSVLogger, "none": lambda folder: False}[kind](tmp_path)
    callback = cam(["trunk", "relu"], ["grad_cam", "layer_cam"], batch=BOXES, metrics=["energy_inside", "entropy"])
    kept: list = []
    callback.watcher.observers.append(kept.append)
    run = boxed_fit(tmp_path, callback, logger=logger)
    run.test(run.lightning_module, run.val_dataloaders, verbose=False)
    rows = records.samples(run.log_dir or tmp_path)
    assert len(kept) == 4 and len(rows) == 3 * 4 * 4
    session = callback.watcher.publisher.run.session
    assert session == records.read(tmp_path).looks[0].session
    expected = [row for look in kept[:3] for record in look.records for row in expected_rows(record, look.batch, session)]
    without = [{key: value for key, value in row.items() if key != "epoch"} for row in rows]
    assert same(without, [{key: value for key, value in row.items() if key != "epoch"} for row in expected])
    assert len(records.samples(run.log_dir or tmp_path, "cam_test")) == 16
    assert len(list(tmp_path.rglob("samples.csv"))) == 2


def test_a_fast_dev_run_writes_none(tmp_path):
    boxed_fit(tmp_path, cam(batch=BOXES), fast_dev_run=True)
    assert list(tmp_path.rglob("*.csv")) == []


def test_a_table_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"no table of samples .*cam/samples\.csv; a run writes samples\.csv at"):
        records.samples(tmp_path)
    SampleTable("s").add(tmp_path / "version_0", [made_record(full=False)], made_batch(), "early")
    with pytest.raises(ValueError, match=r"below .* there are those of 'early': write (samples\(.*tag='early'\))") as refused:
        records.samples(tmp_path / "version_0")
    line = str(refused.value).partition("write ")[2].rstrip(".")
    assert len(eval(line, vars(records))) == 6  # the line that the message says


def test_warnings_are_not_needed_for_any_of_this(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        published(Publisher(Notices("warn")), tmp_path, 2)
    assert len(records.samples(tmp_path)) == 12
