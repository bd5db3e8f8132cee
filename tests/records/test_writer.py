"""Writing a record: what it takes on the disk, and what a disk that takes nothing does to it."""

import errno
import pickle
import warnings

import cv2
import numpy as np
import pytest
import torch
from recording import SMALL, ends, event_file, recorded
from run_records import differing, made_batch, made_record
from torch.utils.tensorboard import SummaryWriter

from lightning_cam import records
from lightning_cam.records import writer
from lightning_cam.records.pictures import sample_pictures
from lightning_cam.records.writer import RunWriter, places
from lightning_cam.training.notices import Notices
from lightning_cam.training.publisher import Publisher


def published(publisher, loggers, folder, count, batch=None, **options):
    """The Records of several looks, handed to a publisher."""
    batch = made_batch() if batch is None else batch
    made = [made_record(step=step, **options) for step in range(count)]
    for record in made:
        publisher.open(loggers, folder)
        publisher.record([record], batch, "cam", SMALL)
        publisher.close()
    return made


# the samples


def decoded(picture):
    return cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_pictures_show_the_samples_as_they_are(tmp_path):
    smooth = torch.linspace(0, 1, 64).expand(2, 3, 48, 64).clone()
    smooth[1] = 1 - smooth[1]
    batch = made_batch(2, images=(smooth - 0.5) / 0.25, normalization=((0.5,) * 3, (0.25,) * 3))
    for picture, image in zip(sample_pictures(batch, SMALL), smooth, strict=True):
        assert np.abs(decoded(picture) - 255 * image.permute(1, 2, 0).numpy()).max() < 6


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 3, 448, 300), (224, 150)),
        ((2, 3, 16, 20), (16, 20)),
        ((2, 2, 100), (112, 224)),
        ((2, 1, 9, 16, 20), (16, 80)),
        ((2, 3, 2, 16, 20), (16, 40)),
    ],
)
def test_pictures_are_no_larger_than_they_need_be_whatever_the_samples_are(shape, size):
    batch = made_batch(2, images=torch.rand(shape), regions={})
    assert [decoded(picture).shape[:2] for picture in sample_pictures(batch, SMALL)] == [size, size]


def test_what_cannot_be_shown_has_no_pictures(tmp_path):
    batch = made_batch(3, images=torch.rand(3, 7), regions={})
    recorded(tmp_path, 1, batch)
    samples = records.read(tmp_path).samples
    assert samples.pictures == () and samples.fingerprints == batch.fingerprints


def test_the_samples_are_written_once_and_others_beside_them(tmp_path):
    run, batch, other = RunWriter(), made_batch(), made_batch()
    recorded(tmp_path, 3, batch, run)
    recorded(tmp_path, 2, other, run)
    recorded(tmp_path, 1, batch, run)
    (path,) = tmp_path.iterdir()
    assert len(ends(path)) == 1 + 2 + 6
    looks = records.read(tmp_path).looks
    assert [look.samples.fingerprints for look in looks] == [batch.fingerprints] * 3 + [other.fingerprints] * 2 + [
        batch.fingerprints
    ]


# sizes


def bytes_a_look(folder, b, sides):
    """What a look adds, of maps as Grad-CAM gives them: half of their cells are zero."""
    batch = made_batch(b, images=torch.rand(b, 3, 8, 8), regions={}, names=())
    recorded(folder, 3, batch, t=1, sides=sides, heat=torch.randn(b, 1, *sides).relu())
    path = event_file(folder)
    (one, _), (two, _) = ends(path)[-2:]
    return two - one


@pytest.mark.parametrize(
    ("b", "sides", "most"),
    [(16, (7, 7), 4_000), (16, (14, 14), 8_000), (256, (7, 7), 22_000), (256, (14, 14), 46_000)],
)
def test_a_look_takes_a_few_kilobytes(b, sides, most, tmp_path):
    assert most / 2 < bytes_a_look(tmp_path, b, sides) < most


@pytest.mark.slow
def test_five_hundred_looks_of_256_samples_stay_below_30_megabytes_and_all_come_back(tmp_path):
    batch = made_batch(256, images=torch.rand(256, 3, 8, 8), regions={}, names=())
    written = recorded(tmp_path, 500, batch, t=1, sides=(14, 14))
    assert event_file(tmp_path).stat().st_size < 30_000_000
    looks = records.read(tmp_path).looks
    assert [look.number for look in looks] == list(range(1, 501))
    assert all(differing(one, look.records[0], bits=8) == [] for one, look in zip(written, looks, strict=True))


# faults


def full_disk(monkeypatch, on_looks):
    """A disk that takes half of an event, at these looks."""
    append, calls = writer.append, []

    def sometimes(path, event):
        calls.append(path)
        if event.step in on_looks:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.parent / "whole"
            append(whole, event)
            with path.open("ab") as file:
                file.write(whole.read_bytes()[-200:-100])
            whole.unlink()
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        append(path, event)

    monkeypatch.setattr(writer, "append", sometimes)


def test_a_full_disk_is_one_warning_and_costs_only_the_looks_it_had_no_room_for(tmp_path, monkeypatch):
    full_disk(monkeypatch, {2, 3, 5})
    publisher = Publisher(Notices("warn"))
    with pytest.warns(UserWarning, match=r"writing to .* failed, training goes on: OSError.*No space left") as told:
        made = published(publisher, [], tmp_path, 7)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        looks = records.read(tmp_path).looks
    assert [look.moment.step for look in looks] == [0, 1, 4, 6] and all(look.samples is not None for look in looks)
    assert all(differing(made[look.moment.step], look.records[0]) == [] for look in looks)


def test_a_disk_without_room_for_the_samples_is_asked_again(tmp_path, monkeypatch):
    full_disk(monkeypatch, {0})
    with pytest.warns(UserWarning, match="No space left"):
        published(Publisher(Notices("warn")), [], tmp_path, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (look,) = records.read(tmp_path).looks
    assert look.moment.step == 1 and len(look.samples.pictures) == 3


def test_a_full_disk_raises_if_so_wished(tmp_path, monkeypatch):
    full_disk(monkeypatch, {1})
    with pytest.raises(OSError, match="No space left"):
        published(Publisher(Notices("raise")), [], tmp_path, 3)


def test_a_logger_that_fails_costs_the_others_nothing(tmp_path):
    class Broken(SummaryWriter):
        def _get_file_writer(self):
            raise OSError(errno.EIO, "broken")

    good = SummaryWriter(tmp_path / "good")
    broken = Broken.__new__(Broken)
    broken.log_dir = str(tmp_path / "broken")
    with pytest.warns(UserWarning, match="writing to Broken failed") as told:
        published(Publisher(Notices("warn")), [broken, good], tmp_path, 3)
    assert len(told) == 1 and len(records.read(tmp_path / "good").looks) == 3


def test_a_record_without_maps_of_any_kind_is_no_event(tmp_path):
    publisher = Publisher(Notices("raise"))
    publisher.open([], tmp_path)
    publisher.record([], made_batch(), "cam", SMALL)
    assert list(tmp_path.iterdir()) == []
    published(publisher, [], tmp_path, 1)
    assert records.read(tmp_path).looks[0].number == 2  # a look there was, which found nothing


def test_a_closed_publisher_writes_nothing(tmp_path):
    publisher = Publisher(Notices("raise"))
    publisher.record([made_record()], made_batch(), "cam", SMALL)
    assert publisher.places == []
    publisher.open([], tmp_path)
    publisher.close()
    publisher.record([made_record()], made_batch(), "cam", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_pickled_writer_goes_on_in_the_same_file(tmp_path):
    run = RunWriter()
    recorded(tmp_path, 2, batch := made_batch(), run)
    recorded(tmp_path, 1, batch, pickle.loads(pickle.dumps(run)))
    assert [look.number for look in records.read(event_file(tmp_path)).looks] == [1, 2, 3]


def test_no_generator_is_drawn_from(tmp_path):
    from traces import random_states

    before = random_states()
    recorded(tmp_path, 1, made_batch(), record_drawn := RunWriter())
    assert record_drawn.looks == 1
    torch.manual_seed(0)
    states = random_states()
    publisher = Publisher(Notices("raise"))
    publisher.open([], tmp_path)
    batch, record = made_batch(), made_record()
    moved = random_states()
    publisher.record([record], batch, "cam", SMALL)
    assert random_states() == moved != states
    assert before["rng python"] == random_states()["rng python"]


def test_places_are_tensorboards_before_a_folder(tmp_path):
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    board, table = TensorBoardLogger(tmp_path / "a"), CSVLogger(tmp_path / "b")
    assert [place.owner for place in places([table, board], tmp_path)] == ["TensorBoardLogger"]
    (place,) = places([object(), table], tmp_path)
    assert place.writer is None and str(place.folder) == table.log_dir
    (place,) = places([object()], tmp_path)
    assert (place.folder, place.writer) == (tmp_path, None)
