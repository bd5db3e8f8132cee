"""Each sink with a recording fake, and who serves which logger."""

import numpy as np
import pytest
import torch
from events import read_events
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_cam import sinks
from lightning_cam.render import Picture, encode
from lightning_cam.training.notices import Notices
from lightning_cam.training.publisher import Publisher


def picture(encoding="jpeg"):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = 255, 0, 0
    return Picture(pixels, "layer `a`", encoding)


def overlays():
    pixels = picture().pixels
    return {"cat 1": pixels[:10], "dog/2": pixels[10:]}


def publish(loggers, folder, pictures, step, notices):
    publisher = Publisher(notices)
    publisher.open(loggers, folder)
    for tag, drawn in pictures.items():
        publisher.publish(tag, drawn, step)


class Recorder:
    def __init__(self):
        self.written = []

    def log_image(self, key, images, step=None):
        self.written.append((key, images, step))


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_tensorboard_reads_back_what_was_written(tmp_path, encoding):
    logger = TensorBoardLogger(tmp_path)
    sinks.tensorboard(logger, "cam/layer/cam", picture(encoding), 7)
    sinks.tensorboard(logger, "cam/layer/cam", picture(encoding), 9)
    events = read_events(logger.log_dir)
    assert events.Tags()["images"] == ["cam/layer/cam"]
    read = events.Images("cam/layer/cam")
    assert [event.step for event in read] == [7, 9]
    assert (read[0].width, read[0].height) == (30, 20)
    assert read[0].encoded_image_string == picture(encoding).encode()
    assert read[0].encoded_image_string.startswith(b"\xff\xd8" if encoding == "jpeg" else b"\x89PNG")
    assert events.SummaryMetadata("cam/layer/cam").summary_description == "layer `a`"


def test_another_writer_gets_the_pixels_in_the_right_order():
    class Writer:
        def add_image(self, tag, pixels, step, dataformats):
            self.got = tag, pixels.copy(), step, dataformats

    logger = type("Logger", (), {"experiment": Writer()})()
    sinks.tensorboard(logger, "cam/a", picture(), 3)
    tag, pixels, step, order = logger.experiment.got
    assert (tag, step, order) == ("cam/a", 3, "HWC")
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_files_are_named_after_image_and_method(tmp_path):
    sinks.files(tmp_path, "cam/layer4/grad_cam", picture(), 12, overlays())
    sinks.files(tmp_path, "cam/layer4/grad_cam/filmstrip", picture("png"), 12)
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert written == [
        "cam/layer4/grad_cam/filmstrip.png",
        "cam/layer4/grad_cam/step_000012.jpg",
        "cam/layer4/grad_cam/step_000012/cat_1_grad_cam.jpg",
        "cam/layer4/grad_cam/step_000012/dog_2_grad_cam.jpg",
    ]


def test_colours_survive_encoding(tmp_path):
    import cv2

    sinks.files(tmp_path, "cam/a/cam", picture("png"), 0)
    read = cv2.imread(str(tmp_path / "cam/a/cam/step_000000.png"))[..., ::-1]
    assert np.array_equal(read, picture().pixels)


def test_the_pages_of_a_run_take_fewer_bytes_than_a_single_file_and_keep_their_colours_sharp():
    import cv2

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert len(Picture(noise).encode()) < 0.75 * len(encode(noise, "jpeg"))
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 220, 30, 30
    stripes[:, 1::2] = 30, 30, 220
    read = cv2.imdecode(np.frombuffer(Picture(stripes).encode(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(read.astype(int) - stripes).mean() < 15  # with colours at half the resolution it is over 60


def test_a_csv_logger_gets_files_beside_its_numbers(tmp_path):
    logger = CSVLogger(tmp_path)
    sinks.find(logger)(logger, "cam/a/cam", picture(), 1)
    assert list(tmp_path.rglob("metrics*")) == []
    assert [path.name for path in tmp_path.rglob("step_000001.jpg")]


def test_a_sink_is_found_by_class_name_along_the_inheritance_then_by_log_image():
    class Mine(TensorBoardLogger):
        pass

    assert sinks.find(Mine.__new__(Mine)) is sinks.tensorboard
    assert sinks.find(Recorder()) is sinks.log_image
    assert sinks.find(object()) is None
    assert sinks.find(DummyLogger()) is None
    assert {"TensorBoardLogger", "CSVLogger"} <= set(sinks.names())


def test_log_image_gets_pixels_of_0_to_255(tmp_path):
    recorder = Recorder()
    sinks.log_image(recorder, "cam/a", picture(), 4)
    ((key, images, step),) = recorder.written
    assert (key, step) == ("cam/a", 4)
    assert images[0].dtype == np.uint8
    assert images[0].max() == 255


def test_every_logger_is_served_and_a_failing_one_is_one_warning(tmp_path):
    class Broken(Recorder):
        def log_image(self, key, images, step=None):
            raise OSError("disk full")

    good, notices = Recorder(), Notices("warn")
    with pytest.warns(UserWarning, match=r"writing to Broken failed.*disk full") as caught:
        publish([Broken(), good], tmp_path, {"a": picture(), "b": picture()}, 1, notices)
        publish([Broken(), good], tmp_path, {"a": picture()}, 2, notices)
    assert len(caught) == 1
    assert [key for key, _, _ in good.written] == ["a", "b", "a"]
    with pytest.raises(OSError, match="disk full"):
        publish([Broken()], tmp_path, {"a": picture()}, 1, Notices("raise"))


def test_a_logger_nobody_taught_is_one_warning_and_files_are_written(tmp_path):
    class Unheard:
        pass

    notices = Notices("warn")
    with pytest.warns(UserWarning, match="Unheard is not known to take pictures. Known: ") as caught:
        for step in range(3):
            publish([Unheard()], tmp_path, {"cam/a/cam": picture()}, step, notices)
    assert len(caught) == 1
    assert len(list((tmp_path / "cam/a/cam").glob("*.jpg"))) == 3


def test_a_sink_takes_the_record_and_overlays_where_it_asks_for_them(tmp_path):
    class Tables:
        pass

    rows, notices = [], Notices("raise")

    @sinks.register("Tables")
    def tables(logger, tag, picture, step, record, overlays=None):
        rows.append((tag, step, record, sorted(overlays)))

    try:
        publisher = Publisher(notices)
        publisher.open([Recorder()], tmp_path)
        assert not publisher.wants_overlays  # so none is drawn
        publisher.open([Recorder(), Tables()], tmp_path)
        assert publisher.wants_overlays
        publisher.publish("cam/a", picture(), 3, None, overlays())
    finally:
        sinks.unregister("Tables")
    assert rows == [("cam/a", 3, None, ["cat 1", "dog/2"])]
    assert "Tables" not in sinks.names()


def test_the_event_accumulator_reads_a_log_without_a_complaint(tmp_path, caplog):
    logger = TensorBoardLogger(tmp_path)
    sinks.tensorboard(logger, "cam/layer/cam", picture(), 7)
    events = read_events(logger.log_dir)
    assert events.SummaryMetadata("cam/layer/cam").plugin_data.plugin_name == "images"
    assert "not associated with a plugin" not in caplog.text


def test_pixels_leave_the_device_as_height_width_channels():
    from lightning_cam.render import to_host

    assert to_host(torch.zeros(3, 4, 5, dtype=torch.uint8)).shape == (4, 5, 3)
    assert to_host(torch.zeros(2, 3, 4, 5, dtype=torch.uint8)).shape == (2, 4, 5, 3)
