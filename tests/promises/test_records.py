"""Computing, then reporting: when reporting begins nothing is in the model, and what fails costs only itself."""

import functools
import random
import warnings

import numpy as np
import pytest
import torch
from events import read_events
from lightning.pytorch.loggers import TensorBoardLogger
from nets import STRICT, Diary, Net, Recorder, cam, fit, loader
from traces import differences, model_state, modes, random_states, traced

from lightning_cam import Schedule
from lightning_cam.figures.pages import RecordPages
from lightning_cam.render.picture import Picture

pytestmark = STRICT

TITLES = ["start", "1", "2", "3"]


class Pictured(Diary):
    """A tracker that takes pictures and numbers, and hands both on as they come."""

    def __init__(self, take=lambda tag, step: None):
        super().__init__()
        self.take = take
        self.numbers: list = []

    def log_image(self, key, images, step):
        self.take(key, step)
        self.lines.append((key, step))

    def log_metrics(self, metrics, step=None):
        self.numbers.append((step, {name: value for name, value in metrics.items() if name.startswith("cam")}))


def everything(model):
    return model_state(model) | random_states() | modes()


def drawing(seen):
    """A method that moves the random states, and leaves a graph behind."""
    torch.rand(())
    np.random.rand()
    random.random()
    return (seen.activation * seen.gradient).relu().mean(1)


def failing(call):
    """A method that fails at one call, counted from 1."""
    made = []

    def sometimes(seen):
        made.append(0)
        if len(made) == call:
            raise ArithmeticError("on purpose")
        return seen.activation.mean(1)

    return sometimes


def failing_metric(call):
    made = []

    def fragile(heat, seen):
        made.append(0)
        if len(made) == call:
            raise ArithmeticError("on purpose")
        return heat.flatten(1).amax(1)

    return fragile


def strength(heat, seen):
    return heat.flatten(1).amax(1)


def caught(run):
    """The callback's warnings while something runs."""
    with warnings.catch_warnings(record=True) as all_of_them:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in all_of_them if str(warning.message).startswith("CAMCallback")]


# when reporting begins


@pytest.mark.parametrize(
    "net", [dict(dropout=0.3, norm=True, buffer="assigned"), dict(norm_asleep=True, trunk_without_grad=True)]
)
def test_when_observers_are_called_every_hook_is_out_and_every_state_put_back(net, tmp_path):
    callback = cam(method=["grad_cam", drawing], target=["label", "predicted"], concepts=2, on_error="raise")
    model = Net(**net)
    observed = []
    callback.watcher.observers.append(lambda result: observed.append(everything(model)))
    before = Recorder(lambda trainer, module: everything(module), "on_train_start", "on_validation_epoch_end")
    fit(tmp_path, [before, callback], model, num_sanity_val_steps=0, max_epochs=2)
    assert len(observed) == 3
    assert observed == before.kept
    assert observed[0] != observed[1]  # a run changes all of these, so equality says something


def test_the_comparison_would_see_a_look_that_is_not_over(tmp_path):
    states = []

    def during(seen):
        states.append(everything(seen.forward.session.model))
        return seen.activation.mean(1)

    before = Recorder(lambda trainer, module: everything(module), "on_train_start", "on_validation_epoch_end")
    fit(tmp_path, [before, cam(method=during, metrics=[])], Net(dropout=0.3), num_sanity_val_steps=0, max_epochs=1)
    different = {key for one, other in zip(states, before.kept, strict=True) for key in one if one[key] != other[key]}
    assert {"hooks relu", "training drop", "attributes ", "mode grad"} <= different


def test_all_is_computed_and_observed_before_any_sink_is_called(tmp_path):
    events = []

    def method(seen):
        events.append("map")
        return seen.activation.mean(1)

    def metric(heat, seen):
        events.append("metric")
        return heat.flatten(1).amax(1)

    callback = cam(layer=["trunk", "relu"], method=method, metrics=[metric], on_error="raise")
    callback.watcher.observers += [lambda result: events.append("first"), lambda result: events.append("second")]
    fit(tmp_path, callback, logger=Pictured(lambda tag, step: events.append(f"{tag} {step}")), max_epochs=1)
    look = ["map", "map", "metric", "metric", "first", "second"]
    pages = ["cam/trunk/method", "cam/trunk/method/filmstrip", "cam/relu/method", "cam/relu/method/filmstrip"]
    assert events == [*look, *(f"{page} 0" for page in pages), *look, *(f"{page} 5" for page in pages)]


def test_a_sink_sees_a_model_without_hooks_in_the_modes_of_the_run(tmp_path):
    model = Net(dropout=0.3, norm=True)
    states = []
    logger = Pictured(lambda tag, step: states.append((step, model_state(model) | modes())))
    before = Recorder(lambda trainer, module: model_state(module) | modes(), "on_train_start", "on_validation_epoch_end")
    fit(tmp_path, [before, cam(concepts=2)], model, logger=logger, num_sanity_val_steps=0, max_epochs=1)
    assert [step for step, _ in states] == [0, 0, 0, 5, 5, 5]
    for step, state in states:
        assert state == before.kept[0 if step == 0 else 1]
        assert not any(count for key, counts in state.items() if key.startswith("hooks ") for count in counts.values())


def test_records_are_plain_tensors_that_hold_no_graph(tmp_path):
    callback, records = cam(method=["grad_cam", drawing], metrics=[strength], on_error="raise"), []
    callback.watcher.observers.append(lambda result: records.extend(result.records))
    fit(tmp_path, callback, max_epochs=1)
    assert len(records) == 4
    for record in records:
        predictions = vars(record.predictions).values()
        for tensor in (record.heat, record.score, record.strength, record.against, *record.values.values(), *predictions):
            assert not tensor.requires_grad and tensor.grad_fn is None
        assert torch.equal(record.strength[:, 0], record.heat[:, 0].flatten(1).amax(1))
        assert torch.equal(record.against[:, 0], (-record.heat[:, 0]).flatten(1).amax(1))


# what fails later costs only itself


def test_a_method_that_fails_later_costs_only_its_own_map(tmp_path):
    logger, callback = TensorBoardLogger(tmp_path), cam(method=[failing(2), "grad_cam"], metrics=[strength])
    said = caught(lambda: fit(tmp_path, callback, logger=logger, max_epochs=3))
    assert len(said) == 1
    assert said[0].startswith("CAMCallback: relu/sometimes failed and is left out, training goes on: ArithmeticError")
    events = read_events(logger.log_dir)
    steps = {"relu/sometimes": [0, 11, 17], "relu/grad_cam": [0, 5, 11, 17]}
    for tag, expected in steps.items():
        for page in (f"cam/{tag}", f"cam/{tag}/filmstrip"):
            assert [event.step for event in events.Images(page)] == expected
        assert [event.step for event in events.Scalars(f"cam/{tag}/strength")] == expected
    assert callback.history["relu/sometimes"].titles == ["start", "2", "3"]
    assert callback.history["relu/grad_cam"].titles == TITLES


def test_the_other_methods_maps_are_those_of_a_run_in_which_nothing_fails(tmp_path):
    whole, failed = cam(method=["activation_mean", "grad_cam"], metrics=[]), cam(method=[failing(2), "grad_cam"], metrics=[])
    fit(tmp_path / "whole", whole, max_epochs=3)
    caught(lambda: fit(tmp_path / "failed", failed, max_epochs=3))
    pairs = zip(whole.history["relu/grad_cam"].heats, failed.history["relu/grad_cam"].heats, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    for step in ("000000", "000005", "000011", "000017"):
        pages = [tmp_path / run / "cam" / "relu" / "grad_cam" / f"step_{step}.jpg" for run in ("whole", "failed")]
        assert pages[0].read_bytes() == pages[1].read_bytes()


def test_a_metric_that_fails_later_costs_only_its_number(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    said = caught(lambda: fit(tmp_path, cam(metrics=[failing_metric(2), strength]), logger=logger, max_epochs=3))
    assert len(said) == 1
    assert said[0].startswith("CAMCallback: fragile of relu/grad_cam failed and is left out, training goes on: ArithmeticError")
    events = read_events(logger.log_dir)
    assert [event.step for event in events.Images("cam/relu/grad_cam")] == [0, 5, 11, 17]
    assert [event.step for event in events.Scalars("cam/strength")] == [0, 5, 11, 17]
    assert [event.step for event in events.Scalars("cam/fragile")] == [0, 11, 17]
    equal = {event.step: event.value for event in events.Scalars("cam/strength")}
    assert all(equal[event.step] == event.value for event in events.Scalars("cam/fragile"))


def test_concepts_that_fail_later_cost_only_their_picture(tmp_path, monkeypatch):
    from lightning_cam.training import concept_tracker

    calls, factorize = [], concept_tracker.concepts_of

    def sometimes(*args, **options):
        calls.append(0)
        if len(calls) == 2:
            raise ArithmeticError("on purpose")
        return factorize(*args, **options)

    monkeypatch.setattr(concept_tracker, "concepts_of", sometimes)
    logger = Pictured()
    said = caught(lambda: fit(tmp_path, cam(concepts=2), logger=logger))
    assert len(said) == 1 and said[0].startswith("CAMCallback: concepts at relu failed and is left out")
    assert [step for tag, step in logger.lines if tag == "cam/relu/concepts"] == [0, 11]
    assert [step for tag, step in logger.lines if tag == "cam/relu/grad_cam"] == [0, 5, 11]


def broken_page(monkeypatch, page, from_look=2):
    """Let a page of the first method fail at one look, counted from 1."""
    draw, drawn = getattr(RecordPages, page), []

    def sometimes(pages):
        if pages.record.method == "activation_mean":
            drawn.append(0)
            if len(drawn) == from_look:
                raise ArithmeticError("on purpose")
        return draw(pages)

    monkeypatch.setattr(RecordPages, page, sometimes)


@pytest.mark.parametrize(
    ("page", "lost"), [("sheet", "cam/relu/activation_mean"), ("filmstrip", "cam/relu/activation_mean/filmstrip")]
)
def test_a_page_that_cannot_be_drawn_costs_only_itself(page, lost, tmp_path, monkeypatch):
    broken_page(monkeypatch, page)
    logger, callback = Pictured(), cam(method=["activation_mean", "grad_cam"], metrics=[strength], concepts=2)
    said = caught(lambda: fit(tmp_path, callback, logger=logger))
    assert len(said) == 1
    assert said[0].startswith("CAMCallback: the pictures of relu/activation_mean failed and is left out")
    tags = [f"cam/relu/{method}{page}" for method in ("activation_mean", "grad_cam") for page in ("", "/filmstrip")]
    tags.append("cam/relu/concepts")
    assert [line for line in logger.lines if line[1] == 0] == [(tag, 0) for tag in tags]
    assert [line for line in logger.lines if line[1] == 5] == [(tag, 5) for tag in tags if tag != lost]
    assert [line for line in logger.lines if line[1] == 11] == [(tag, 11) for tag in tags]
    numbers = [set(metrics) for _, metrics in logger.numbers if metrics]
    assert numbers == [{f"cam/relu/{m}/strength" for m in ("activation_mean", "grad_cam")}] * 3


def test_a_picture_of_concepts_that_cannot_be_drawn_costs_only_itself(tmp_path, monkeypatch):
    from lightning_cam.concepts import Concepts

    draw, drawn = Concepts.picture, []

    def sometimes(concepts, *args, **options):
        drawn.append(concepts.layer)
        if len(drawn) == 3:
            raise ArithmeticError("on purpose")
        return draw(concepts, *args, **options)

    monkeypatch.setattr(Concepts, "picture", sometimes)
    logger = Pictured()
    said = caught(lambda: fit(tmp_path, cam(layer=["trunk", "relu"], concepts=2), logger=logger, max_epochs=1))
    assert len(said) == 1 and said[0].startswith("CAMCallback: the picture of concepts at trunk failed and is left out")
    pictures = [line for line in logger.lines if line[0].endswith("concepts")]
    assert pictures == [("cam/trunk/concepts", 0), ("cam/relu/concepts", 0), ("cam/relu/concepts", 5)]


@pytest.mark.parametrize("part", ["method", "metric", "sheet", "filmstrip"])
@pytest.mark.parametrize("moment", ["before training", "validation"])
def test_at_the_first_look_each_of_these_raises(part, moment, tmp_path, monkeypatch):
    options = dict(method="activation_mean")
    if part == "method":
        options = dict(method=["grad_cam", failing(1)])
    elif part == "metric":
        options = dict(metrics=[failing_metric(1)])
    else:
        broken_page(monkeypatch, part, from_look=1)
    with pytest.raises(ArithmeticError, match="on purpose"):
        fit(tmp_path, cam(**options, schedule=Schedule(baseline=moment == "before training")))


# random states


def test_a_sink_that_draws_from_every_generator_leaves_training_bit_identical(tmp_path):
    drawn = []

    class Draws(Pictured):
        def log_metrics(self, metrics, step=None):
            if any(name.startswith("cam") for name in metrics) and step == 0:
                self.take("numbers", step)

    def draw(tag, step):
        drawn.append((tag, float(torch.rand(())), np.random.rand(), random.random()))

    net = functools.partial(Net, dropout=0.3, draw=True)
    train, val = functools.partial(loader, 24, shuffle=True, size=4, augment=True), functools.partial(loader, 12)
    runs = [
        traced(tmp_path, callbacks, net, train, val, logger=Draws(draw))
        for callbacks in ([cam(metrics=[strength], on_error="raise")], [])
    ]
    assert differences(*runs) == []
    assert [tag for tag, *_ in drawn].count("numbers") == 1 and len(drawn) == 7


def test_the_picture_a_sink_is_given_is_finished(tmp_path):
    from lightning_cam import sinks

    given = []

    @sinks.register("Diary")
    def diary(logger, tag, picture, step, record=None, overlays=None):
        given.append((picture, record, overlays))

    try:
        fit(tmp_path, cam(on_error="raise"), logger=Diary(), max_epochs=1)
    finally:
        sinks.unregister("Diary")
    assert len(given) == 4
    for picture, record, overlays in given:
        assert isinstance(picture, Picture) and picture.pixels.dtype == np.uint8
        assert record.tag == "relu/grad_cam"
        assert overlays is None or list(overlays) == ["#0", "#1", "#2", "#3"]
