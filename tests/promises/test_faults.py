"""Promise 5: the callback never ends a run. Faults are injected, and what is left afterwards is looked at."""

import functools
import warnings
from collections import Counter

import pytest
import torch
from events import read_events
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from nets import BOXES, STRICT, Diary, Net, Recorder, boxed_fit, cam, fit, loader
from traces import Trace, differences, model_state, modes, random_states, traced

from lightning_cam import Schedule, metrics

pytestmark = STRICT


class Broken(Exception):
    """What a test injects."""


def failing(from_call, kind=Broken, gives=lambda seen: seen.activation.mean(1)):
    """A method that works until a certain call."""
    calls = Counter()

    def sometimes(seen):
        calls["made"] += 1
        torch.rand(())  # a method may draw, and must not be noticed
        if calls["made"] >= from_call:
            raise kind(f"call {calls['made']}")
        return gives(seen)

    return sometimes


def failing_metric(heat, seen):
    raise Broken("metric")


def failing_target(logits, label):
    torch.rand(())
    raise Broken("target")


class FailsToForward(Net):
    def forward(self, x):
        out = super().forward(x)
        if not self.training and len(x) == 4:  # only the callback's batch is of four
            raise Broken("forward")
        return out


def caught(run):
    """The messages of the callback's warnings while something runs."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    return [str(w.message) for w in found if str(w.message).startswith("CAMCallback")]


# an error at the first look: raised, and nothing left

FIRST = {
    "a_method": (dict(method=failing(1)), Net),
    "the_second_of_two_methods": (dict(method=["grad_cam", failing(1)]), Net),
    "a_metric": (dict(metrics=[failing_metric]), Net),
    "a_target": (dict(target=failing_target), Net),
    "the_models_forward": (dict(), FailsToForward),
    "an_output_that_is_not_there": (dict(output="logits"), Net),
    "a_layer_without_a_map": (dict(layer="head"), Net),
    "a_label_out_of_range": (dict(target=17), Net),
}


def everything(run, model):
    return {**model_state(model), **random_states(), **modes(), "stage": str(run.state.stage)}


@pytest.mark.parametrize("case", FIRST)
@pytest.mark.parametrize("moment", ["before training", "validation"])
def test_the_first_look_raises_and_leaves_nothing_behind_after_an_error_in(case, moment, tmp_path):
    options, net = FIRST[case]
    callback = cam(**options, schedule=Schedule(baseline=moment == "before training"))
    hook = "on_train_start" if moment == "before training" else "on_validation_epoch_end"
    before = Recorder(everything, hook)
    after: list = []
    look = getattr(callback, hook)

    def observed(trainer, module):
        try:
            look(trainer, module)
        finally:
            after.append(everything(trainer, module))

    setattr(callback, hook, observed)
    with pytest.raises((Broken, ValueError)) as error:
        fit(tmp_path, [before, callback], net(dropout=0.3, norm=True), num_sanity_val_steps=0)
    assert len(after) == 1 and before.kept[-1] == after[0]
    if case in ("a_method", "a_metric", "a_target", "the_models_forward"):
        assert type(error.value) is Broken
    assert callback.watcher.batch is None


def test_the_comparison_after_an_error_catches_a_hook_left_behind(tmp_path):
    def leave(seen):
        seen.forward.calls[0].module.register_forward_hook(lambda *args: None)
        raise Broken

    before, after = Recorder(everything, "on_train_start"), Trace()
    with pytest.raises(Broken):
        fit(tmp_path, [before, cam(method=leave), after])
    assert before.kept[0] != {k: after.states[-1][1][k] for k in before.kept[0]}


# an error at a later look: one warning, and the run goes on as if nothing were


def test_a_method_that_fails_later_is_one_warning_and_training_goes_on_untouched(tmp_path):
    train, val = functools.partial(loader, 24, shuffle=True, size=4), functools.partial(loader, 12)
    net = functools.partial(Net, dropout=0.3, norm=True)
    runs, found = [], []
    for callbacks in ([cam(method=failing(2), metrics=[])], []):
        found.append(caught(lambda c=callbacks: runs.append(traced(tmp_path, c, net, train, val, max_epochs=4))))
    assert differences(*runs) == []
    assert len(found[0]) == 1 and "Broken" in found[0][0] and "training goes on" in found[0][0]
    assert found[1] == []


def test_two_causes_are_two_warnings(tmp_path):
    def both(seen):
        both.calls += 1
        if both.calls > 1:
            raise (Broken if both.calls % 2 else ZeroDivisionError)(f"call {both.calls}")
        return seen.activation.mean(1)

    both.calls = 0
    found = caught(lambda: fit(tmp_path, cam(method=both, metrics=[]), max_epochs=5))
    assert len(found) == 2 and "ZeroDivisionError" in found[0] and "Broken" in found[1]


def test_on_error_raise_raises_later_too(tmp_path):
    with pytest.raises(Broken, match="call 2"):
        fit(tmp_path, cam(method=failing(2), metrics=[], on_error="raise"))


def test_a_keyboard_interrupt_in_a_method_stops_the_run_cleanly(tmp_path):
    for at in (1, 2):
        trace, net = Trace(), Net(dropout=0.3)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(tmp_path, [cam(method=failing(at, KeyboardInterrupt), metrics=[]), trace], net)
        hook, last = trace.states[-1]
        assert hook == "on_exception"
        assert all(count == 0 for k, v in last.items() if k.startswith("hooks ") for count in v.values())
        assert last["mode inference"] is False and last["stage"] != "None"


# trackers and disks


class Tracker(Diary):
    """Takes pictures by ``log_image`` and fails from a certain call on, each time in other words."""

    def __init__(self, from_call):
        super().__init__()
        self.from_call, self.calls = from_call, 0

    def log_image(self, key, images, step):
        self.calls += 1
        if self.calls >= self.from_call:
            raise ConnectionError(f"request {self.calls} failed")


class Numbers(Tracker):
    """Takes pictures, fails on the callback's numbers only."""

    def log_metrics(self, metrics, step):
        if any(name.startswith("cam") for name in metrics) and step == 0:
            raise ConnectionError("no route")


@pytest.mark.parametrize("from_call", [1, 3])
def test_a_tracker_that_fails_is_one_warning_and_the_others_are_served(from_call, tmp_path):
    broken, good = Tracker(from_call), TensorBoardLogger(tmp_path)
    runs = []
    found = caught(lambda: runs.append(fit(tmp_path, cam(), logger=[broken, good], max_epochs=3)))
    assert runs[0].current_epoch == 3 and runs[0].global_step == 18
    assert len(found) == 1 and "Tracker" in found[0] and "ConnectionError" in found[0]
    assert broken.calls == 8  # sheet and filmstrip, at the baseline and three epochs: it is asked again each time
    events = read_events(good.log_dir)
    assert len(events.Images("cam/relu/grad_cam")) == 4


def test_a_tracker_that_refuses_the_baseline_numbers_is_one_warning(tmp_path):
    found = caught(lambda: boxed_fit(tmp_path, cam(batch=BOXES), logger=Numbers(99)))
    assert len(found) == 1 and "Numbers" in found[0]


def test_a_tracker_that_fails_raises_if_so_wished(tmp_path):
    with pytest.raises(ConnectionError):
        fit(tmp_path, cam(on_error="raise"), logger=Tracker(3))


def test_a_disk_that_takes_nothing_is_one_warning(tmp_path):
    place = tmp_path / "occupied"
    place.write_text("a file where the folder should be")
    runs = []
    found = caught(lambda: runs.append(fit(place, cam(method=["grad_cam", "activation_mean"]), max_epochs=3)))
    assert runs[0].global_step == 18
    assert len(found) == 1 and "occupied" in found[0]


def test_an_unknown_logger_is_one_warning_and_files_are_written(tmp_path):
    found = caught(lambda: fit(tmp_path, cam(), logger=Diary()))
    assert len(found) == 1 and "Diary" in found[0] and "TensorBoardLogger" in found[0]
    assert list(tmp_path.rglob("cam/relu/grad_cam/step_*.jpg"))


# numbers that are none


def poisoned(value):
    net = Net()
    torch.nn.init.constant_(net.trunk[0].bias, value)
    return net


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e3])
@pytest.mark.parametrize("scale", ["image", "batch", "run"])
def test_maps_without_a_number_are_shown_and_their_metric_is_nan(value, scale, tmp_path):
    from lightning_cam import Style

    callback = cam(
        layer="trunk",
        method=["activation_mean", "grad_cam"],
        metrics=["energy_inside"],
        batch=BOXES,
        style=Style(tile=32, scale=scale),
        on_error="raise",
    )
    run = boxed_fit(tmp_path, callback, poisoned(value))
    assert run.global_step == 12
    logged = {name: float(v) for name, v in run.callback_metrics.items() if name.startswith("cam")}
    for name, v in logged.items():
        assert name.endswith("_defined") or (v == v) is (logged.get(f"{name}_defined", 1) > 0), logged
    assert list(tmp_path.rglob("grad_cam/step_*.jpg"))


def test_a_metric_undefined_for_some_samples_is_the_mean_of_the_others(tmp_path):
    def half(heat, seen):
        return torch.tensor([1.0, torch.nan, 3.0, torch.inf])

    run = fit(tmp_path, cam(metrics=[half]))
    assert run.callback_metrics["cam/half"] == 2 and run.callback_metrics["cam/half_defined"] == 0.5


def test_a_monitored_metric_that_is_undefined_at_first_ends_no_run(tmp_path):
    calls = []

    def late(heat, seen):
        calls.append(0)
        return torch.full((len(heat),), torch.nan if len(calls) < 3 else 0.5)

    keep = ModelCheckpoint(tmp_path, monitor="cam/late", mode="max")
    stop = EarlyStopping("cam/late", mode="max", patience=5, check_finite=False)
    run = fit(tmp_path, [cam(metrics=[late]), keep, stop], enable_checkpointing=True, max_epochs=3)
    assert run.current_epoch == 3 and keep.best_model_score == 0.5


def test_a_batch_of_one_works(tmp_path):
    assert fit(tmp_path, cam(batch=1, on_error="raise")).global_step == 12


def test_metrics_of_the_package_are_all_known_to_the_callback():
    assert [cam(metrics=[name]).watcher.metrics[0].label for name in metrics.names()] == metrics.names()
