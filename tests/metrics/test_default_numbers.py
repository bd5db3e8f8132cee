"""What is logged without being asked for: few curves, none that says nothing, and values that can be monitored."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chunked import disturb
from events import read_events
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from nets import BOXES, STRICT, Net, Recorder, boxed_fit, cam, fit, loader, trainer
from plain import plain_net, watcher
from torch import nn

from lightning_cam import Numbers, Schedule, metrics

pytestmark = STRICT

OF_MAPS = ["drift", "drift_floor", "settled_at", "entropy", "strength"]
OF_REGIONS = ["energy_inside", "enrichment", "pointing_game"]
SPLIT = ["feature_drift", "head_drift"]
AGAINST_THE_BASELINE = {"drift", *SPLIT}


class Deeper(Net):
    """With a head of two layers, of which drift is not split."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


# net, whether there are regions, and the names of what is logged of a later look
CASES = {
    "a pooled linear head": (Net, False, [*OF_MAPS[:3], *SPLIT, *OF_MAPS[3:]]),
    "another head": (Deeper, False, OF_MAPS),
    "a pooled linear head and regions": (Net, True, [*OF_REGIONS, *OF_MAPS[:3], *SPLIT]),
    "another head and regions": (Deeper, True, [*OF_REGIONS, *OF_MAPS]),
}


class Log(TensorBoardLogger):
    """Keeps what is logged beside what is written."""

    def __init__(self, folder):
        super().__init__(folder, name="", version="")
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append({name: value for name, value in metrics.items() if name.startswith("cam")})
        super().log_metrics(metrics, step)

    @property
    def looks(self):
        """What was logged at each look, without the tag."""
        return [{name.removeprefix("cam/"): value for name, value in line.items()} for line in self.lines if line]


def run(folder, net, regions, **options):
    torch.manual_seed(0)
    log, callback = Log(folder), cam(batch=BOXES if regions else 4, on_error="raise", **options)
    records = []
    callback.watcher.observers.append(lambda result: records.append(result.records[0]))
    done = (boxed_fit if regions else fit)(folder, callback, net(), logger=log)
    return log.looks, records, done


def of_maps(numbers):
    """Without what is told once a run beside them, and without shares."""
    return [name for name in numbers if not name.startswith("cam_centre/") and not name.endswith("_defined")]


@pytest.mark.parametrize("case", CASES)
def test_names_and_values_of_each_look(case, tmp_path):
    net, regions, names = CASES[case]
    logged, records, done = run(tmp_path, net, regions)
    assert len(logged) == len(records) == 3 and len(names) <= 8
    assert of_maps(logged[0]) == [name for name in names if name not in AGAINST_THE_BASELINE]
    for numbers, record in zip(logged, records, strict=True):
        assert set(of_maps(numbers)) <= set(names) and not any(map(math.isnan, numbers.values()))
        for name in of_maps(numbers):
            values = record.values[name]
            share = float(values.isfinite().double().mean())
            assert numbers[name] == pytest.approx(float(values[values.isfinite()].double().mean()), rel=1e-6)
            assert (f"{name}_defined" in numbers) == (share < 1 and name != "drift_floor")
            assert numbers.get(f"{name}_defined", share) == pytest.approx(share)
    assert of_maps(logged[2]) == of_maps(logged[1]) == names
    assert {name.removeprefix("cam/") for name in done.callback_metrics if name.startswith("cam/")} >= set(names)
    scalars = read_events(tmp_path).Tags()["scalars"]
    assert {name for name in scalars if name.startswith("cam/")} >= {f"cam/{name}" for name in names}


@pytest.mark.parametrize("case", CASES)
def test_they_are_the_numbers_of_the_metrics_by_name(case, tmp_path):
    net, regions, names = CASES[case]
    logged, _, _ = run(tmp_path / "defaults", net, regions)
    named, _, _ = run(tmp_path / "named", net, regions, metrics=metrics.defaults(regions=regions))
    assert metrics.defaults(regions=regions)[: len(names)] == names or case.startswith("another")
    for without, by_name in zip(logged, named, strict=True):
        assert all(value == by_name[name] for name, value in without.items() if not name.startswith("cam_centre/"))
    for numbers in named[1:]:
        # by name all are told, and the same shares
        told = [name for name in metrics.defaults(regions=regions) if name in names or name in OF_MAPS]
        assert of_maps(numbers) == told
    assert math.isnan(named[0]["drift"]) and "drift_defined" not in named[0]


def test_a_share_is_told_where_a_sample_has_none(tmp_path):
    """Of a sample without a box there are no numbers of regions, and of no other is there any lack."""
    data = {"image": torch.rand(4, 3, 8, 8), "label": torch.tensor([0, 1, 2, 0]), "box": torch.tensor([[0.0, 0, 4, 4]] * 4)}
    data["box"][1] = torch.nan
    net, told = plain_net(), []
    watching = watcher(net, tmp_path, data, method="activation_mean", batch=dict(regions="box"), loggers=[_Scalars(told)])
    for i in range(2):
        watching.look(i)
        disturb(net, i)
    shares = [{name: value for name, value in numbers.items() if name.endswith("_defined")} for numbers in told]
    assert shares == 2 * [{f"cam/{name}_defined": 0.75 for name in OF_REGIONS}]


class _Scalars:
    """A logger of numbers."""

    def __init__(self, told):
        self.told = told

    def log_metrics(self, numbers, step):
        self.told.append(numbers)

    def log_image(self, key, images, step):
        pass


@pytest.mark.parametrize("entry", ["validate", "test"])
def test_outside_a_run_nothing_is_compared_and_nothing_is_nan(entry, tmp_path):
    for regions in (False, True):
        callback = cam(batch=BOXES if regions else 4, on_error="raise")
        done = trainer(tmp_path / str(regions), [callback])
        getattr(done, entry)(Net(), loader(form="dict" if regions else "tuple"), verbose=False)
        tag = "cam_test" if entry == "test" else "cam"
        if entry == "validate" and not done.callback_metrics.keys() & {"cam/entropy"}:
            pytest.skip("no look outside of fit and test")
        numbers = {name: float(value) for name, value in done.callback_metrics.items() if name.startswith("cam")}
        assert set(numbers) == {f"{tag}/{name}" for name in ([*OF_REGIONS] if regions else []) + ["entropy", "strength"]}
        assert not any(map(math.isnan, numbers.values()))


def test_means_by_class_are_of_what_is_told_and_of_nothing_else(tmp_path):
    logged, records, _ = run(tmp_path, Net, True, numbers=Numbers(per_class=True))
    for numbers in logged:
        by_class = {name.partition("/")[0] for name in numbers if "/" in name and not name.startswith("cam_centre")}
        assert by_class == set(of_maps({name: 0 for name in numbers if "/" not in name}))
    first = {name: value for name, value in logged[0].items() if not name.startswith("cam_centre")}
    assert not any(math.isnan(value) for name, value in first.items())
    record = records[-1]
    of_class = record.predictions.labels == 1
    assert logged[-1]["drift/class_1"] == pytest.approx(float(record.values["drift"][of_class].nanmean()), rel=1e-6)


def test_several_maps_have_their_own(tmp_path):
    logged, _, _ = run(tmp_path, Net, False, method=["grad_cam", "activation_mean"])
    groups = {name.rpartition("/")[0] for name in logged[1]}
    assert groups == {"relu/grad_cam", "relu/activation_mean"}
    assert all(sum(name.startswith(group) for name in logged[1]) <= 8 for group in groups)


def test_no_metrics_are_none(tmp_path):
    logged, _, _ = run(tmp_path, Net, True, metrics=[])
    assert logged == []


# what monitors them


def kept(name):
    return Recorder(lambda run, module: (run.current_epoch, float(run.callback_metrics[name])), "on_validation_end")


def values_by_epoch(callback, name):
    told = {}
    callback.watcher.observers.append(
        lambda result: told.__setitem__(result.moment.epoch, float(result.records[0].values[name].double().nanmean()))
    )
    return told


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_checkpoint_is_chosen_by_the_drift_of_its_very_epoch(mode, tmp_path):
    callback = cam(on_error="raise")
    told = values_by_epoch(callback, "drift")
    best = ModelCheckpoint(tmp_path / "best", monitor="cam/drift", mode=mode, filename="{epoch}", save_top_k=1)
    fit(tmp_path, [callback, best], enable_checkpointing=True, max_epochs=4)
    later = {epoch: value for epoch, value in told.items() if epoch > 0}
    assert len(later) == 4
    epoch = (min if mode == "min" else max)(later, key=later.get)
    assert float(best.best_model_score) == pytest.approx(later[epoch], rel=1e-6)
    assert best.best_model_path.endswith(f"epoch={epoch - 1:g}.ckpt")


def test_a_run_stops_on_the_epoch_since_which_maps_stay(tmp_path):
    """With a net that hardly learns maps stay from the start, and patience alone counts."""

    class Asleep(Net):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-9)

    callback = cam(on_error="raise")
    told = values_by_epoch(callback, "settled_at")
    stop = EarlyStopping("cam/settled_at", mode="max", patience=2, check_on_train_epoch_end=False)
    done = fit(tmp_path, [callback, stop], Asleep(), max_epochs=9)
    assert done.current_epoch == 3 and set(told.values()) == {0.0} and float(stop.best_score) == 0


def test_what_is_monitored_is_there_at_the_end_of_every_validation(tmp_path):
    callback = cam(on_error="raise")
    told = {name: values_by_epoch(callback, name) for name in ("drift", "settled_at")}
    watch = {name: kept(f"cam/{name}") for name in told}
    fit(tmp_path, [callback, *watch.values()], max_epochs=3, num_sanity_val_steps=0)
    for name, values in told.items():
        assert [value for _, value in watch[name].kept] == pytest.approx([values[epoch] for epoch in (1, 2, 3)], rel=1e-6)


def test_without_a_baseline_the_first_look_has_no_drift_and_a_checkpoint_finds_the_name(tmp_path):
    callback = cam(schedule=Schedule(baseline=False), on_error="raise")
    best = ModelCheckpoint(tmp_path / "best", monitor="cam/drift", mode="max", filename="{epoch}")
    fit(tmp_path, [callback, best], enable_checkpointing=True, max_epochs=3)
    assert best.best_model_path and 0 < float(best.best_model_score) <= 2


# two processes


@pytest.mark.slow
def test_two_processes_have_equal_numbers(tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    command = [sys.executable, str(Path(__file__).parent / "numbers_ddp_run.py"), str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank), port], **options) for rank in (0, 1)]
    try:
        words = [one.communicate(timeout=180)[0] for one in ranks]
    finally:
        for one in ranks:
            one.kill()
    assert all(one.returncode == 0 for one in ranks), "\n".join(words)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    names = {name.removeprefix("cam/") for name in first if name.startswith("cam/") and not name.endswith("_defined")}
    assert first == second and names == {*OF_REGIONS, *OF_MAPS[:3], *SPLIT}
    assert 0 < first["cam/drift"] <= 2 and 0 <= first["cam/energy_inside"] <= 1
