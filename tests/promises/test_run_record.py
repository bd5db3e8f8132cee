"""The record of a run: every look of it, as it was in training, wherever the run logs; and filmstrips that may be few."""

import importlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from events import read_events
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from looks import strength
from nets import BOXES, STRICT, Diary, Net, Recorder, boxed_fit, cam, fit, loader, trainer
from plain import batch, plain_net, train, watcher
from run_records import differing
from torch import nn
from traces import differences, traced

from lightning_cam import Schedule, records

pytestmark = [
    *STRICT,
    pytest.mark.filterwarnings("ignore:.*Be aware that when using .ckpt_path., callbacks used to create the checkpoint"),
]

FILM = "cam/relu/grad_cam/filmstrip"


def observed(callback):
    """The Records of every look, as they are in training."""
    kept: list = []
    callback.watcher.observers.append(lambda result: kept.append(result.records))
    return kept


def same(kept, looks):
    """Whether a record holds these looks, each field of each Record as it was."""
    pairs = [pair for records, look in zip(kept, looks, strict=True) for pair in zip(records, look.records, strict=True)]
    return [difference for one, other in pairs for difference in differing(one, other)] == []


class Pictured(Diary):
    """A tracker that takes pictures and has no event file."""

    def log_image(self, key, images, step):
        pass


LOGGERS = {
    "tensorboard": lambda folder: TensorBoardLogger(folder),
    "csv": lambda folder: CSVLogger(folder),
    "none": lambda folder: False,
    "a tracker": lambda folder: Pictured(),
    "several": lambda folder: [CSVLogger(folder / "csv"), TensorBoardLogger(folder / "tb"), TensorBoardLogger(folder / "tb2")],
}


@pytest.mark.parametrize("kind", LOGGERS)
def test_every_look_of_a_fit_is_recorded_as_it_was_wherever_it_logs(kind, tmp_path):
    callback = cam(["trunk", "relu"], ["grad_cam", "layer_cam"], batch=BOXES, metrics=["energy_inside", strength], concepts=2)
    kept = observed(callback)
    run = boxed_fit(tmp_path, callback, logger=LOGGERS[kind](tmp_path))
    recorded = records.read(tmp_path)
    assert len(kept) == 3 and same(kept, recorded.looks)
    assert [look.moment.title for look in recorded.looks] == ["before training", "epoch 1", "epoch 2"]
    samples = recorded.samples
    assert len(samples.pictures) == 4 and samples.classes == ("class_0", "class_1", "class_2")
    assert samples.names == ("#0", "#1", "#2", "#3") and list(samples.regions) == ["object"]
    files = list(tmp_path.rglob("*.lightning_cam"))
    if kind in ("tensorboard", "several"):
        assert files == []
        assert all(len(records.read(logger.log_dir).looks) == 3 for logger in run.loggers if type(logger) is TensorBoardLogger)
    else:
        assert [path.parent for path in files] == [type(tmp_path)(run.log_dir or tmp_path)]


@pytest.mark.parametrize("tree", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("logged", [True, False])
def test_it_is_recorded_in_a_trainer_of_either_package(tree, logged, tmp_path):
    package = importlib.import_module(tree)

    class Small(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    callback = cam(layer="body", batch=BOXES, on_error="raise")
    kept = observed(callback)
    logger = importlib.import_module(f"{tree}.loggers").TensorBoardLogger(tmp_path) if logged else False
    run = trainer(tmp_path, [callback], tree=package, logger=logger)
    run.fit(Small(), loader(form="dict"), loader(form="dict"))
    assert len(kept) == 3 and same(kept, records.read(run.log_dir or tmp_path).looks)


def test_targets_that_are_lost_absent_or_words_are_recorded_too(tmp_path):
    def some(logits, label):
        return torch.stack([logits[:, 0], logits[:, 1].where(label > 0, torch.nan)], 1)

    callback = cam(target=some, method=["grad_cam", "activation_mean"])
    kept = observed(callback)
    fit(tmp_path, callback, max_epochs=1)
    assert same(kept, records.read(tmp_path).looks)


def test_validate_and_test_are_recorded_by_their_own_tags_and_are_no_part_of_the_series(tmp_path):
    callback, net = cam(), Net()
    run = trainer(tmp_path, [callback], max_epochs=1)
    run.fit(net, loader(24, size=4), loader())
    run.validate(net, loader(), verbose=False)
    run.test(net, loader(classes=2), verbose=False)
    recorded = records.read(tmp_path)
    assert [look.tag for look in recorded.looks] == ["cam", "cam", "cam", "cam_test"]
    assert [look.moment.fitting for look in recorded.looks] == [True, True, False, False]
    assert [record.moment.short for record in recorded.series("relu/grad_cam")] == ["start", "1"]
    assert recorded.looks[3].samples.names == ("#0", "#1", "#2", "#3")


def test_two_callbacks_side_by_side_are_two_sessions(tmp_path):
    pair = [cam(batch=2), cam("trunk", tag="early", batch=[5, 7, 9])]
    fit(tmp_path, pair, logger=TensorBoardLogger(tmp_path), max_epochs=1)
    looks = records.read(tmp_path).looks
    assert [(look.tag, len(look.samples)) for look in looks] == [("cam", 2)] * 2 + [("early", 3)] * 2


def test_a_second_fit_is_a_session_of_its_own_and_a_resumed_one_follows(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    callback = cam()
    fit(tmp_path, [callback, keep], enable_checkpointing=True)
    fit(tmp_path / "again", callback, max_epochs=1)
    one = trainer(tmp_path / "on", [cam()], max_epochs=3)
    one.fit(Net(), loader(24, size=4), loader(), ckpt_path=tmp_path / "epoch=0.ckpt")
    looks = records.read(tmp_path).looks
    titles = [look.moment.short for look in looks]
    assert titles == ["start", "1", "2", "start", "1", "2", "3"] and len({look.session for look in looks}) == 3


def test_a_fast_dev_run_records_nothing(tmp_path):
    fit(tmp_path, cam(), fast_dev_run=True)
    with pytest.raises(ValueError, match="no look is recorded"):
        records.read(tmp_path)


def test_recording_leaves_training_bit_identical(tmp_path):
    net = lambda: Net(dropout=0.3, norm=True, draw=True)  # noqa: E731
    loaders = (lambda: loader(24, shuffle=True, size=4, augment=True), loader)
    callbacks = [cam(on_error="raise", batch=8)]
    with_it = traced(tmp_path / "a", callbacks, net, *loaders, logger=TensorBoardLogger(tmp_path / "a"), max_epochs=11)
    without = traced(tmp_path / "b", [], net, *loaders, logger=TensorBoardLogger(tmp_path / "b"), max_epochs=11)
    assert differences(with_it, without) == []
    assert len(records.read(tmp_path / "a").looks) == 12


def test_a_plain_loop_is_recorded(tmp_path):
    watching = watcher(plain_net(), tmp_path)
    kept = []
    train(watching.model, lambda step: kept.append(watching.look(step)))
    assert len(kept) == 4 and same(kept, records.read(tmp_path).looks)


KILLED = """
    import os, signal, sys
    import torch
    from plain import plain_net, watcher
    from torch.utils.tensorboard import SummaryWriter

    folder, logged = sys.argv[1:]
    loggers = [SummaryWriter(folder)] if logged == "tensorboard" else []
    watching = watcher(plain_net(), folder, loggers=loggers)
    for step in range(3):
        watching.look(step)
    watching.report = lambda result, tag: os.kill(os.getpid(), signal.SIGKILL)
    watching.look(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("logged", ["tensorboard", "files"])
def test_a_killed_run_has_recorded_every_look_it_finished(logged, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), logged]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert [look.moment.step for look in records.read(tmp_path).looks] == [0, 1, 2]


# filmstrips


def film_steps(log_dir):
    return [event.step for event in read_events(log_dir).Images(FILM)]


def test_of_many_looks_every_fifth_has_a_filmstrip_and_the_last_one(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, cam(schedule=Schedule(step="epoch")), logger=logger, max_epochs=18)
    assert film_steps(logger.log_dir) == [*range(8), 10, 15, 18]
    assert [event.step for event in read_events(logger.log_dir).Images("cam/relu/grad_cam")] == list(range(19))


class Interrupted(Exception):
    pass


def interrupting(epoch, kind=Interrupted):
    def interrupt(run, module):
        if run.current_epoch == epoch:
            raise kind("on purpose")

    return Recorder(interrupt, "on_train_epoch_start")


@pytest.mark.parametrize("kind", [Interrupted, KeyboardInterrupt])
def test_after_an_exception_the_filmstrip_is_whole(kind, tmp_path):
    logger, whole = TensorBoardLogger(tmp_path / "broken"), TensorBoardLogger(tmp_path / "whole")
    options = dict(schedule=Schedule(step="epoch"))
    with pytest.raises((kind, SystemExit)):
        fit(tmp_path, [cam(**options), interrupting(13, kind)], logger=logger, max_epochs=30)
    assert film_steps(logger.log_dir) == [*range(8), 10, 13]
    fit(tmp_path, cam(**options), logger=whole, max_epochs=13)
    one, other = (read_events(place.log_dir).Images(FILM)[-1] for place in (logger, whole))
    assert one.encoded_image_string == other.encoded_image_string


def test_a_filmstrip_that_fails_at_the_end_does_not_stand_in_front_of_the_exception(tmp_path, monkeypatch):
    from lightning_cam.figures.pages import RecordPages

    callback = cam(on_error="raise")

    def break_it(run, module):
        if run.current_epoch == 8:  # before the look whose filmstrip is left for the end
            monkeypatch.setattr(RecordPages, "filmstrip", lambda pages: 1 / 0)
        if run.current_epoch == 9:
            assert callback.watcher.publisher.deferred
            raise Interrupted("on purpose")

    with pytest.raises(Interrupted):
        fit(tmp_path, [callback, Recorder(break_it, "on_train_epoch_start")], max_epochs=20)
    assert callback.watcher.batch is None and callback.watcher.publisher.deferred == {}


def test_files_have_the_newest_filmstrip_at_the_end_and_a_resumed_run_keeps_the_rhythm(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(tmp_path / "straight", cam(), max_epochs=12)
    fit(tmp_path / "broken", [cam(), keep], max_epochs=9, enable_checkpointing=True)
    logger = TensorBoardLogger(tmp_path / "resumed")
    one = trainer(tmp_path, [cam(schedule=Schedule(step="epoch"))], max_epochs=12, logger=logger)
    one.fit(Net(), loader(24, size=4), loader(), ckpt_path=tmp_path / "epoch=8.ckpt")
    assert film_steps(logger.log_dir) == [10, 12]
    films = [tmp_path / name / "cam" / "relu" / "grad_cam" / "filmstrip.jpg" for name in ("straight", "broken")]
    assert all(film.is_file() for film in films) and films[0].read_bytes() != films[1].read_bytes()


def test_a_plain_loop_closes_its_watcher_for_the_last_filmstrip(tmp_path):
    closed, left = watcher(plain_net(), tmp_path / "closed"), watcher(plain_net(), tmp_path / "left")
    for step in range(10):
        closed.look(step)
        left.look(step)
    films = [tmp_path / name / "cam" / "relu" / "grad_cam" / "filmstrip.jpg" for name in ("closed", "left")]
    assert films[0].read_bytes() == films[1].read_bytes()
    closed.close()
    assert films[0].read_bytes() != films[1].read_bytes() and closed.batch is None
    left.look(10)  # at every fifth it is drawn at once
    closed.look(10)
    assert films[0].read_bytes() == films[1].read_bytes()
    left.close()  # what was held back at the look before is out of date
    assert films[0].read_bytes() == films[1].read_bytes()


def test_released_it_holds_no_picture_back(tmp_path):
    watching = watcher(plain_net(), tmp_path, batch())
    for step in range(10):
        watching.look(step)
    assert list(watching.publisher.deferred) == [FILM]
    watching.release()
    assert watching.publisher.deferred == {}
