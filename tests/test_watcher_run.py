"""What a Watcher writes and keeps over a run: files, numbers and pictures of loggers, and the state that resumes it."""

import csv
import io
import pickle
from pathlib import Path

import pytest
import torch
from events import read_events
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from looks import files, same, strength
from nets import STRICT, Pictures
from plain import batch, plain_net, train, watcher
from torch.utils.tensorboard import SummaryWriter

from lightning_cam import Batch

pytestmark = STRICT

WHERE = "relu/grad_cam"


# where it writes


def test_without_a_logger_pictures_are_files_below_the_folder(tmp_path):
    watching = watcher(plain_net(), tmp_path, batch(2), tag="gaze")
    watching.look(0)
    watching.look(7)
    (record,) = tmp_path.glob("*.lightning_cam")
    assert files(tmp_path) == [
        record.name,
        "gaze/relu/grad_cam/filmstrip.jpg",
        "gaze/relu/grad_cam/step_000000.jpg",
        "gaze/relu/grad_cam/step_000000/sample_0_grad_cam.jpg",
        "gaze/relu/grad_cam/step_000000/sample_1_grad_cam.jpg",
        "gaze/relu/grad_cam/step_000007.jpg",
        "gaze/relu/grad_cam/step_000007/sample_0_grad_cam.jpg",
        "gaze/relu/grad_cam/step_000007/sample_1_grad_cam.jpg",
        "gaze/samples.csv",
    ]


def boxed():
    return dict(data=Pictures(form="dict"), batch=Batch(samples=4, regions="box"), metrics=["energy_inside", strength])


def means(record):
    """What is logged of a Record, computed anew."""
    numbers = {}
    for name, values in record.values.items():
        numbers[f"cam/{name}"] = float(values.double().nanmean())
        if values.isnan().any():
            numbers[f"cam/{name}_defined"] = float((~values.isnan()).double().mean())
    return numbers


def test_numbers_and_pictures_go_to_fabrics_csv_logger(tmp_path):
    logger = CSVLogger(tmp_path / "csv")
    watching = watcher(plain_net(), tmp_path / "files", loggers=[logger], **boxed())
    expected = [means(watching.look(step)[0]) for step in (0, 5)]
    logger.save()
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 5]
    told = [{name: float(value) for name, value in row.items() if name.startswith("cam/")} for row in rows]
    assert told == expected
    centre = {name: value for name, value in rows[0].items() if name.startswith("cam_centre/")}  # once a run
    assert list(centre) == ["cam_centre/energy_inside"] and 0 < float(centre["cam_centre/energy_inside"]) < 1
    assert rows[1]["cam_centre/energy_inside"] == ""
    assert set(expected[0]) == {"cam/energy_inside", "cam/energy_inside_defined", "cam/strength"}
    assert len(list(Path(logger.log_dir).rglob("grad_cam/step_*.jpg"))) == 2
    assert not (tmp_path / "files").exists()


def test_numbers_and_pictures_go_to_fabrics_tensorboard_logger(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    watching = watcher(plain_net(), tmp_path / "files", loggers=[logger], **boxed())
    expected = [means(watching.look(step)[0])["cam/strength"] for step in (0, 5)]
    logger.finalize("success")
    events = read_events(logger.log_dir)
    scalars = events.Scalars("cam/strength")
    assert [event.step for event in scalars] == [0, 5]
    assert [event.value for event in scalars] == pytest.approx(expected, rel=1e-6)
    assert [event.step for event in events.Images("cam/relu/grad_cam")] == [0, 5]
    assert [event.step for event in events.Images("cam/relu/grad_cam/filmstrip")] == [0, 5]
    assert not (tmp_path / "files").exists()


def test_numbers_and_pictures_go_to_a_summary_writer(tmp_path):
    writer = SummaryWriter(tmp_path / "events")
    watching = watcher(plain_net(), tmp_path / "files", loggers=[writer], **boxed())
    expected = means(watching.look(3)[0])["cam/strength"]
    writer.close()
    events = read_events(tmp_path / "events")
    ((step, value),) = [(event.step, event.value) for event in events.Scalars("cam/strength")]
    assert (step, value) == (3, pytest.approx(expected, rel=1e-6))
    assert [event.step for event in events.Images("cam/relu/grad_cam")] == [3]
    assert not (tmp_path / "files").exists()


# what it keeps


def test_a_resumed_watcher_has_the_history_and_the_filmstrip_of_one_that_went_on(tmp_path):
    net = plain_net()
    straight, broken, resumed = (watcher(net, tmp_path / name, concepts=2) for name in ("straight", "broken", "resumed"))
    saved = io.BytesIO()

    def look(step):
        straight.look(step)
        if step <= 6:
            broken.look(step)
            saved.seek(0)
            torch.save(broken.state_dict(), saved)
            return
        if not resumed.looked:
            saved.seek(0)
            resumed.load_state_dict(torch.load(saved, weights_only=True))
        resumed.look(step)

    train(net, look)
    assert straight.history[WHERE].titles == ["0", "6", "12", "18"]
    assert same(straight.history[WHERE], resumed.history[WHERE])
    assert broken.history[WHERE].titles == ["0", "6"]
    for name in ("grad_cam/filmstrip.jpg", "grad_cam/step_000018.jpg", "concepts/step_000018.jpg"):
        pictures = [(tmp_path / run / "cam" / "relu" / name).read_bytes() for run in ("straight", "resumed")]
        assert pictures[0] == pictures[1], name
    film = [(tmp_path / run / "cam" / "relu" / "grad_cam" / "filmstrip.jpg").read_bytes() for run in ("straight", "broken")]
    assert film[0] != film[1]


def test_a_target_that_freezes_a_reference_is_resumed_with_it(tmp_path):
    net = plain_net()
    first = watcher(net, tmp_path, target="projection")
    first.look(0)
    state = first.state_dict()
    with torch.no_grad():
        net.head.weight.add_(1)
    second, fresh = watcher(net, tmp_path, target="projection"), watcher(net, tmp_path, target="projection")
    second.load_state_dict(state)
    expected = first.look(1)[0].score
    assert torch.equal(second.look(1)[0].score, expected)
    assert not torch.equal(fresh.look(1)[0].score, expected)


def test_restarted_it_begins_anew(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, target="projection", concepts=2)
    watching.look(0)
    watching.restart()
    assert (watching.history, watching.state_dict()["concepts"], watching.looked) == ({}, {}, False)
    assert watching.memory.target.reference is None
    (record,) = watching.look(9)
    assert record.moment.baseline
    assert watching.history[WHERE].titles == ["9"]


def test_released_it_keeps_the_run_and_loads_the_samples_anew(tmp_path):
    watching = watcher(plain_net(), tmp_path, Pictures(), layer=None)
    first = watching.look(0)[0].heat
    watching.release()
    assert watching.batch is None
    assert torch.equal(watching.look(1)[0].heat, first)
    assert watching.history[WHERE].titles == ["0", "1"]


def test_a_pickled_watcher_goes_on(tmp_path):
    watching = watcher(plain_net(), tmp_path, target={"top_k": {"k": 2}})
    expected = watching.look(0)[0].heat
    copy = pickle.loads(pickle.dumps(watching))
    assert torch.equal(copy.look(1)[0].heat, expected)
    assert copy.history[WHERE].titles == ["0", "1"]
