"""Reading a record: whole, cut short, damaged, forged, while it is written, and out of several files."""

import os
import struct
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from recording import SMALL, ends, event_file, recorded
from run_records import HOSTILE, differing, identical, made_batch, made_record
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from lightning_cam import records
from lightning_cam.records import layout, writer
from lightning_cam.records.event_file import append, event_of
from lightning_cam.records.writer import RunWriter, places


def quietly_read(place):
    """What is read, where any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return records.read(place)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("sides", [(14,), (7, 7), (2, 3, 4)])
def test_every_field_of_every_record_comes_back(sides, full, tmp_path):
    written = recorded(tmp_path, sides=sides, full=full)
    run = quietly_read(tmp_path)
    assert [look.number for look in run.looks] == [1, 2, 3] and len({look.session for look in run.looks}) == 1
    assert [differing(one, look.records[0]) for one, look in zip(written, run.looks, strict=True)] == [[]] * 3
    assert [look.moment.step for look in run.looks] == [0, 1, 2] and {look.tag for look in run.looks} == {"cam"}
    assert written[0].heat.shape == run.looks[0].records[0].heat.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_maps_and_scores_keep_their_precision(dtype, tmp_path):
    (written,) = recorded(tmp_path, 1, dtype=dtype)
    (back,) = quietly_read(tmp_path).looks[0].records
    assert back.heat.dtype == dtype and identical(written.score, back.score)
    # what the last bits of half precision take is beside the steps
    assert torch.allclose(back.heat.double(), written.heat.double(), rtol=0.01, atol=1e-3, equal_nan=True)


def test_the_samples_come_back(tmp_path):
    batch = made_batch()
    recorded(tmp_path, 2, batch)
    run = quietly_read(tmp_path)
    samples = run.samples
    assert samples is run.looks[0].samples is run.looks[1].samples and len(samples) == 3
    assert samples.fingerprints == batch.fingerprints and samples.names == batch.names and samples.classes == batch.classes
    assert samples.origin == batch.origin and torch.equal(samples.labels, batch.labels)
    assert list(samples.regions) == ["object", "tag"]
    assert all(torch.equal(mask, batch.regions[name]) for name, mask in samples.regions.items())
    assert len(samples.pictures) == 3 and all(picture[:3] == b"\xff\xd8\xff" for picture in samples.pictures)


def test_labels_that_are_pictures_are_left_out(tmp_path):
    recorded(tmp_path / "a", 1, made_batch(labels=torch.zeros(3, 80, 80, dtype=torch.long)))
    recorded(tmp_path / "b", 1, made_batch(labels=torch.eye(3)))
    recorded(tmp_path / "c", 1, made_batch(labels=None))
    labels = [quietly_read(tmp_path / name).samples.labels for name in "abc"]
    assert labels[0] is None and torch.equal(labels[1], torch.eye(3)) and labels[2] is None


def test_a_series_is_one_map_over_the_run(tmp_path):
    run = RunWriter()
    recorded(tmp_path, 2, writer=run, name="a/cam")
    recorded(tmp_path, 1, writer=run, name="b/cam")
    read = quietly_read(tmp_path)
    assert [record.moment.step for record in read.series("a/cam")] == [0, 1] and len(read.series("b/cam")) == 1
    assert read.series("c/cam") == []


# cut short


def test_cut_at_any_byte_of_the_last_look_only_that_look_is_lost(tmp_path):
    batch = made_batch(1, 4, names=(), classes=(), regions={})
    written = recorded(tmp_path, 2, batch, t=1, sides=(3,), full=False)
    path = event_file(tmp_path)
    data = path.read_bytes()
    *_, (before, _), (end, _) = ends(path)
    assert end == len(data) and end - before > 500
    for place in range(end - 1, before - 1, -1):
        os.truncate(path, place)
        looks = quietly_read(path).looks
        assert [look.number for look in looks] == [1], place
    assert differing(written[0], looks[0].records[0]) == []
    path.write_bytes(data)
    assert len(quietly_read(path).looks) == 2


def test_cut_at_any_event_and_within_the_first_it_tells_what_is_there(tmp_path):
    recorded(tmp_path / "whole", 3)
    path = event_file(tmp_path / "whole")
    data, places = path.read_bytes(), [place for place, _ in ends(path)]
    version, samples, *looks = places
    for place in (0, 5, version, samples - 1, samples, looks[0] - 1):
        path.write_bytes(data[:place])
        with pytest.raises(ValueError, match="no look is recorded in"):
            quietly_read(path.parent)
    for count, place in enumerate(looks, 1):
        path.write_bytes(data[:place])
        assert len(quietly_read(path.parent).looks) == count


def test_a_resumed_run_goes_on_behind_a_look_that_was_cut(tmp_path):
    recorded(tmp_path, 3)
    path = event_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    recorded(tmp_path, 2)
    looks = quietly_read(tmp_path).looks
    assert [(look.number, look.moment.step) for look in looks] == [(1, 0), (2, 1), (1, 0), (2, 1)]
    assert looks[1].session < looks[2].session


# damaged


def test_a_changed_byte_costs_its_look_and_is_told(tmp_path):
    written = recorded(tmp_path, 3)
    path = event_file(tmp_path)
    data = bytearray(path.read_bytes())
    (start, _), (end, _) = ends(path)[-3:-1]
    data[(start + end) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="1 looks of the record are damaged and left out") as told:
        looks = records.read(tmp_path).looks
    assert [look.number for look in looks] == [1, 3] and len(told) == 1
    assert differing(written[2], looks[1].records[0]) == []


def test_a_changed_length_costs_what_follows_in_that_file_and_is_told(tmp_path):
    recorded(tmp_path, 3)
    path = event_file(tmp_path)
    data = bytearray(path.read_bytes())
    start = ends(path)[-3][0]
    data[start : start + 8] = struct.pack("<Q", 2**62)
    path.write_bytes(data)
    recorded(tmp_path, 1)
    with pytest.warns(UserWarning, match=f"is damaged at byte {start}; what follows there is not read"):
        looks = records.read(tmp_path).looks
    assert [look.number for look in looks] == [1, 1]


def test_samples_that_are_lost_cost_only_themselves(tmp_path):
    recorded(tmp_path, 2)
    path = event_file(tmp_path)
    data = bytearray(path.read_bytes())
    start, end = (place for place, _ in ends(path)[:2])
    data[(start + end) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"):
        run = records.read(tmp_path)
    assert len(run.looks) == 2 and run.samples is None


# forged


def forge(path, tree, plugin="lightning_cam", files=()):
    """An event with the right checksums and whatever is in it."""
    value = writer._summary("cam/x", layout.pack(tree, files))
    value.metadata.plugin_data.plugin_name = plugin
    append(path, event_of([value], 0))


def look_tree(**changes):
    from lightning_cam.records.contents import record_tree

    tree = {"kind": "look", "session": "1", "look": 1, "tag": "cam", "samples": "x", "record": record_tree(made_record())}
    return tree | changes


def without(tree, name):
    return {key: value for key, value in tree.items() if key != name}


RECORD = look_tree()["record"]
FORGED = {
    "no kind": {},
    "no session": without(look_tree(), "session"),
    "a session that is no name": look_tree(session=3),
    "a number that is none": look_tree(look="3"),
    "a record that is none": look_tree(record=[1]),
    "no maps": look_tree(record=without(RECORD, "heat")),
    "maps that are words": look_tree(record=RECORD | {"heat": "hot"}),
    "maps of another type": look_tree(record=RECORD | {"heat": RECORD["heat"] | {"codes": torch.zeros(3, 2, 4, 5)}}),
    "maps of other samples": look_tree(record=RECORD | {"score": torch.zeros(9, 2)}),
    "scales of other maps": look_tree(record=RECORD | {"heat": RECORD["heat"] | {"scale": torch.zeros(7, 9)}}),
    "a moment that is none": look_tree(record=RECORD | {"moment": {"stop": 1}}),
    "predictions that are none": look_tree(record=RECORD | {"predictions": 3}),
    "values without names": look_tree(record=RECORD | {"values": {"names": [1], "values": [2]}}),
    "more names than values": look_tree(record=RECORD | {"values": {"names": ["a", "b"], "values": []}}),
    "no score": look_tree(record=without(RECORD, "score")),
    "samples without names": {"kind": "samples", "samples": "x"},
}


@pytest.mark.parametrize("case", FORGED)
def test_what_nobody_wrote_is_left_out_and_told(case, tmp_path):
    recorded(tmp_path, 2)
    forge(event_file(tmp_path), FORGED[case])
    with pytest.warns(UserWarning, match="1 looks of the record are damaged and left out"):
        assert len(records.read(tmp_path).looks) == 2


def test_a_field_that_this_version_does_not_know_is_passed_over_and_one_it_misses_has_its_default(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    forge(path, look_tree(record=without(RECORD, "note") | {"mood": "good"}))
    (record,) = quietly_read(tmp_path).looks[0].records
    assert record.note == ""


def test_a_later_layout_is_refused_by_its_file(tmp_path, monkeypatch):
    recorded(tmp_path / "a", 1)
    monkeypatch.setattr(layout, "VERSION", 2)
    recorded(tmp_path / "b", 1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"b/events.out.*written in layout 2.*reads layout 1.*pip install -U lightning-cam"):
        records.read(tmp_path)
    assert len(records.read(tmp_path / "a").looks) == 1


def test_events_of_others_are_passed_over_whatever_they_say(tmp_path):
    recorded(tmp_path, 1)
    path = event_file(tmp_path)
    forge(path, look_tree(look=5), plugin="text")  # its bytes name the package all the same
    append(path, Event(summary=Summary(value=[Summary.Value(tag="lightning_cam", simple_value=1.0)]), step=3))
    append(path, Event(file_version="lightning_cam"))
    (path.parent / "events.out.tfevents.2").write_text("")
    assert len(quietly_read(tmp_path).looks) == 1
    (path.parent / "events.out.tfevents.2").write_text("lightning_cam is no event")
    with pytest.warns(UserWarning, match="tfevents.2 is damaged at byte 0"):
        assert len(records.read(tmp_path).looks) == 1


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_where_nothing_is_recorded_it_says_what_to_give(place, tmp_path):
    (tmp_path / "empty").mkdir()
    SummaryWriter(tmp_path / "empty").close()
    messages = {
        "nowhere": r"there is no folder .*nowhere; expected.*trainer.log_dir",
        "empty": r"no look is recorded in .*empty: expected",
    }
    with pytest.raises(ValueError, match=messages[place]):
        records.read(tmp_path / place)


# names


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("logger", ["files", "tensorboard"])
def test_names_are_only_names(name, logger, tmp_path):
    batch = made_batch(
        names=(name, "b", "c"),
        classes=(name,),
        origin=name,
        regions={name: torch.ones(3, 16, 16, dtype=torch.bool)},
    )
    record = made_record(
        name=f"{name}/{name}", note=name, target_names=(name, name), values={name: torch.rand(3, 2), "array": torch.rand(3, 2)}
    )
    folder = tmp_path / "run"
    loggers = [SummaryWriter(folder)] if logger == "tensorboard" else []
    run = RunWriter()
    run.begin_look()
    (place,) = places(loggers, folder)
    run.write(place, [record], batch, f"cam{name}", SMALL)
    look = quietly_read(tmp_path).looks[0]
    assert differing(record, look.records[0]) == [] and look.tag == f"cam{name}"
    samples = look.samples
    assert (samples.names, samples.classes, samples.origin) == ((name, "b", "c"), (name,), name) and list(samples.regions) == [
        name
    ]
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [folder]


# several files


def test_runs_below_a_folder_follow_each_other_in_the_order_they_began(tmp_path):
    first, second = RunWriter(), RunWriter()
    recorded(tmp_path / "b" / "version_1", 1, writer=second, name="second/cam")
    recorded(tmp_path / "a" / "version_0", 2, writer=first, name="first/cam")
    looks = quietly_read(tmp_path).looks
    assert [(look.records[0].layer, look.number) for look in looks] == [("first", 1), ("first", 2), ("second", 1)]
    assert [look.records[0].layer for look in quietly_read(tmp_path / "b").looks] == ["second"]
    assert len(quietly_read(event_file(tmp_path / "a")).looks) == 2


def test_what_two_loggers_wrote_of_a_look_is_given_once(tmp_path):
    run, record = RunWriter(), made_record()
    loggers = [SummaryWriter(tmp_path / name) for name in ("one", "two")]
    run.begin_look()
    for place in places(loggers, tmp_path):
        run.write(place, [record], made_batch(), "cam", SMALL)
    assert len(quietly_read(tmp_path).looks) == 1
    for name in ("one", "two"):
        (look,) = quietly_read(tmp_path / name).looks
        assert differing(record, look.records[0]) == [] and len(look.samples) == 3


@pytest.mark.parametrize("logger", ["files", "tensorboard"])
def test_it_is_read_while_it_is_being_written(logger, tmp_path):
    run, batch, done = RunWriter(), made_batch(), threading.Event()
    loggers = [SummaryWriter(tmp_path)] if logger == "tensorboard" else []
    (place,) = places(loggers, tmp_path)
    expected = []

    def write():
        for step in range(40):
            run.begin_look()
            expected.append(made_record(step=step))
            run.write(place, [expected[-1]], batch, "cam", SMALL)
        done.set()

    recorded(tmp_path / "before", 1)  # so that there is a look from the beginning
    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    while not done.is_set() or not counts:
        looks = [look for look in quietly_read(tmp_path).looks if look.session == run.session]
        assert [look.number for look in looks] == list(range(1, len(looks) + 1))
        assert all(look.samples is not None for look in looks)
        counts.append(len(looks))
    thread.join()
    looks = [look for look in quietly_read(tmp_path).looks if look.session == run.session]
    assert len(looks) == 40 and counts == sorted(counts)
    assert all(differing(one, look.records[0]) == [] for one, look in zip(expected, looks, strict=True))


def test_a_look_is_there_as_soon_as_it_is_written_also_on_a_slow_disk(tmp_path, monkeypatch):
    run, batch, logger = RunWriter(), made_batch(), SummaryWriter(tmp_path)
    (place,) = places([logger], tmp_path)
    disk = logger._get_file_writer().event_writer._async_writer._writer
    write = disk.write
    monkeypatch.setattr(disk, "write", lambda data: (time.sleep(0.2), write(data)))
    for step in range(3):
        run.begin_look()
        run.write(place, [made_record(step=step)], batch, "cam", SMALL)
        assert len(quietly_read(tmp_path).looks) == step + 1


# TensorBoard


def test_tensorboard_finds_it_under_the_plugins_name_beside_pictures_of_the_same_layer(tmp_path):
    written = recorded(tmp_path, 2)
    found = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    assert found.Tags()["tensors"] == ["cam/samples", f"cam/{written[0].tag}/record"]
    assert set(found.PluginTagToContent("lightning_cam")) == {"cam/samples", "cam/layer/method/record"}
    assert found.PluginTagToContent("lightning_cam")["cam/samples"] == b'{"version":1}'
    events = found.Tensors("cam/layer/method/record")
    assert [event.step for event in events] == [0, 1]
    tree, _ = layout.unpack(list(events[1].tensor_proto.string_val))
    assert tree["record"]["tag"] == "layer/method"
    assert found.SummaryMetadata("cam/samples").data_class == 3  # a sequence of blobs


def test_no_file_of_the_room_is_written_by_reading(tmp_path):
    recorded(tmp_path, 2)
    before = {path: path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file()}
    quietly_read(tmp_path)
    assert before == {path: path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file()}
