"""The first points of TensorBoard's curves: each with a description, and no other point than Lightning's own."""

import csv
import math
from pathlib import Path

import pytest
import torch
from events import read_events
from lightning.fabric.loggers import TensorBoardLogger as FabricBoard
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from nets import STRICT, boxed_fit, cam
from plain import plain_net, watcher
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_cam import metrics
from lightning_cam.registry import METRICS
from lightning_cam.sinks.curves import begin_curves, takes_descriptions
from lightning_cam.training.look.descriptions import in_words

pytestmark = STRICT


def described(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: events.SummaryMetadata(tag)
        for tag in events.Tags()["scalars"]
        if tag.startswith("cam") and not tag.endswith("_defined")
    }


def test_every_curve_of_a_run_says_what_it_is(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    boxed_fit(tmp_path, cam(metrics=None, batch=dict(samples=4, regions="box")), logger=logger, max_epochs=2)
    told = described(logger.log_dir)
    assert len([tag for tag in told if tag.startswith("cam/")]) == 8
    for tag in told:
        words = told[tag].summary_description
        assert in_words(METRICS.find(tag.rpartition("/")[2])) in words, tag
        assert told[tag].plugin_data.plugin_name == "scalars"
        assert ("bump in the middle" in words) == tag.startswith("cam_centre/")


def test_a_curve_has_one_point_a_look_and_begins_with_nan_where_nothing_is_to_be_told(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    table = CSVLogger(tmp_path)
    boxed_fit(tmp_path, cam(metrics=None, batch=dict(samples=4, regions="box")), logger=[logger, table], max_epochs=2)
    events = read_events(logger.log_dir)
    steps = [event.step for event in events.Images("cam/relu/grad_cam")]
    for name in ("drift", "energy_inside", "settled_at"):
        assert [point.step for point in events.Scalars(f"cam/{name}")] == steps, name
    assert math.isfinite(events.Scalars("cam/drift")[1].value)
    assert math.isnan(events.Scalars("cam/drift")[0].value)
    assert math.isfinite(events.Scalars("cam/energy_inside")[0].value)
    with (Path(table.log_dir) / "metrics.csv").open() as file:
        assert next(row for row in csv.DictReader(file) if row["step"] == "0")["cam/drift"] == ""


@pytest.mark.parametrize("kind", ["SummaryWriter", "Fabric"])
def test_a_plain_loops_curves_say_it_too(kind, tmp_path):
    logger = SummaryWriter(tmp_path / "log") if kind == "SummaryWriter" else FabricBoard(tmp_path / "log")
    watching = watcher(plain_net(), tmp_path / "files", metrics=["gini"], loggers=[logger])
    records = [watching.look(step)[0] for step in (0, 5)]
    (logger.close if kind == "SummaryWriter" else lambda: logger.finalize("success"))()
    folder = tmp_path / "log" if kind == "SummaryWriter" else logger.log_dir
    assert described(folder)["cam/gini"].summary_description == in_words(METRICS.find("gini"))
    points = read_events(folder).Scalars("cam/gini")
    expected = [float(record.values["gini"].nanmean()) for record in records]
    assert [point.step for point in points] == [0, 5] and [point.value for point in points] == pytest.approx(expected)


def test_where_tags_get_a_prefix_they_have_it_all(tmp_path):
    logger = TensorBoardLogger(tmp_path, prefix="mine")
    boxed_fit(tmp_path, cam(metrics=["gini"]), logger=logger, max_epochs=1)
    events = read_events(logger.log_dir)
    assert [event.step for event in events.Scalars("mine-cam/gini")] == [0, 5]
    assert "cam/gini" not in events.Tags()["scalars"]


def test_loggers_that_take_none():
    class Other:
        def log_metrics(self, metrics, step):
            pass

    assert not takes_descriptions(Other())


def test_a_first_point_is_what_it_is_given(tmp_path):
    writer = SummaryWriter(tmp_path)
    begin_curves(writer, {"a": 0.5, "b": math.nan}, {"a": "one", "b": "two"}, 3)
    writer.close()
    events = read_events(tmp_path)
    assert [(point.step, point.value) for point in events.Scalars("a")] == [(3, 0.5)]
    assert math.isnan(events.Scalars("b")[0].value)
    assert events.SummaryMetadata("b").summary_description == "two"


def test_words_tell_range_and_direction():
    assert in_words(METRICS.find("energy_inside")).endswith("From 0 to 1. Higher is better.")
    assert in_words(METRICS.find("settled_at")).endswith("From 0 up.")

    def nameless(heat, seen):
        return torch.zeros(len(heat))

    assert in_words(METRICS.find(nameless)) == "nameless"
    wrapped = METRICS.find({"energy_inside": {"region": "tag"}})
    assert in_words(wrapped).startswith(METRICS.about("energy_inside"))
    assert set(metrics.defaults(regions=True)) <= set(METRICS.names())
