"""From LightningCLI: YAML, command line, and a saved configuration that gives the same callback again."""

from pathlib import Path

import lightning.pytorch as L
import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from nets import STRICT, Net, loader

from lightning_cam import Batch, CAMCallback, Numbers, Parts, Schedule, Style

pytestmark = STRICT

EXAMPLE = Path(__file__).parent.parent / "configs" / "cam.yaml"


@pytest.fixture(autouse=True)
def own_command_line(monkeypatch):
    """The test runner's own arguments are not the CLI's."""
    monkeypatch.setattr("sys.argv", ["main.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's use of it


class Model(Net):
    """Without options."""

    def __init__(self) -> None:
        super().__init__()


class Data(L.LightningDataModule):
    """Samples with boxes."""

    def train_dataloader(self):
        return loader(24, size=4, form="dict")

    def val_dataloader(self):
        return loader(form="dict")


def cli(*args, run=False):
    quiet = ["accelerator=cpu", "devices=1", "logger=false", "enable_progress_bar=false", "enable_model_summary=false"]
    quiet += ["max_epochs=1", "enable_checkpointing=false"]
    options = [word for one in quiet for word in [f"--trainer.{one}"]]
    return LightningCLI(
        Model, Data, seed_everything_default=1, args=[*(["fit"] if run else []), *options, *map(str, args)], run=run
    )


def callback_of(one):
    (found,) = (c for c in one.trainer.callbacks if isinstance(c, CAMCallback))
    return found


def written(folder, **init_args):
    """A configuration with one callback."""
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "lightning_cam.CAMCallback", "init_args": init_args}]}})
    )
    return path


def plain(callback):
    """What was configured, as comparable values."""
    watcher = callback.watcher
    return {
        "layers": watcher.layers,
        "methods": [m.label for m in watcher.methods],
        "metrics": [m.label for m in watcher.metrics or []],
        "target": watcher.target_spec,
        "batch": callback.batch,
        "style": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(watcher.style).items()},
        "schedule": callback.schedule,
        "numbers": told(watcher.numbers),
        "output": watcher.output,
        "model": callback.model,
        "forward": watcher.forward,
        "tag": watcher.tag,
        "on_error": watcher.notices.on_error,
    }


def told(numbers):
    parts = numbers.parts
    groups = parts and {name: parts.patterns(name) for name in parts.groups}
    return numbers.per_class, numbers.table, groups, parts and parts.every


FORMS = {
    "nothing": dict(),
    "one layer": dict(layer="relu"),
    "several layers and methods": dict(layer=["trunk", "relu"], method=["grad_cam", "cam"]),
    "a method with options": dict(method={"activation_mean": {"channels": [0, 2]}}),
    "methods with and without options": dict(method=["cam", {"activation_mean": {"channels": 1}}]),
    "a method by path": dict(method="lightning_cam.methods.grad_cam"),
    "a class": dict(target=2),
    "a target with options": dict(target={"top_k": {"k": 2}}),
    "several targets": dict(target=["label", 1, {"top_k": {"k": 2}}]),
    "a target by path": dict(target="lightning_cam.targets.predicted"),
    "a count": dict(batch=5),
    "indices": dict(batch=[3, 1]),
    "a batch": dict(batch={"samples": 8, "per_class": 2, "image": "image", "label": "label", "regions": "box"}),
    "a batch of which few are shown": dict(batch={"samples": 256, "pictures": 16}),
    "numbers by class": dict(numbers={"per_class": True, "table": False}),
    "what moved by parts": dict(numbers={"parts": {"groups": {"head": "head", "trunk": ["trunk", "last"]}, "every": 2}}),
    "a batch with named regions": dict(batch={"regions": {"object": "box", "all": "box"}, "classes": ["a", "b", "c"]}),
    "metrics": dict(metrics=["energy_inside", {"energy_inside": {"region": "object"}}]),
    "no metrics": dict(metrics=[]),
    "a style": dict(
        style={"colormap": "jet", "image_weight": 0.6, "heat_weight": 0.4, "panels": ["overlay"], "filmstrip_columns": 5}
    ),
    "a fixed scale": dict(style={"scale": 2.5, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "encoding": "png"}),
    "a named scale": dict(style={"scale": "run", "norm": "minmax", "alpha": 0.5}),
    "bands": dict(style={"bands": [3, 2, 1]}),
    "an order and a number": dict(style={"order": "suspect", "number": "energy_inside", "outlines": False}),
    "a schedule": dict(schedule={"every_n_epochs": 2, "baseline": False, "step": "epoch"}),
    "an output by name": dict(output="logits"),
    "an output by position": dict(output=1),
    "a part of the module by name": dict(model="trunk"),
    "a part of the module by path": dict(model="test_any_model.teacher_of"),
    "a method that runs it": dict(forward="forward_backend"),
    "a call by path": dict(forward="test_any_model.backend"),
    "axes and a picture": dict(batch={"axes": "b t c h w", "image": "patches", "picture": "photo"}),
    "the rest": dict(tag="gaze", on_error="raise"),
}


def numbers_of(options):
    parts = Parts(**options["parts"]) if "parts" in options else None
    return Numbers(**{**options, "parts": parts})


def expected(options):
    classes = {"batch": Batch.of, "style": lambda v: Style(**v), "schedule": lambda v: Schedule(**v), "numbers": numbers_of}
    return CAMCallback(**{k: classes[k](v) if k in classes else v for k, v in options.items()})


@pytest.mark.parametrize("form", FORMS)
def test_yaml_gives_what_python_gives(form, tmp_path):
    one = callback_of(cli("--config", written(tmp_path, **FORMS[form])))
    assert plain(one) == plain(expected(FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_configuration_gives_the_same_callback_again(form, tmp_path):
    first = cli("--config", written(tmp_path, **FORMS[form]))
    saved = tmp_path / "saved.yaml"
    saved.write_text(first.parser.dump(first.config, skip_none=False))
    again = cli("--config", saved)
    assert "Unable to serialize" not in saved.read_text()
    assert plain(callback_of(again)) == plain(callback_of(first))


def test_a_fit_from_yaml_saves_a_configuration_that_runs_again(tmp_path):
    config = written(
        tmp_path,
        layer="trunk",
        method=["activation_mean", {"activation_mean": {"channels": [0, 2]}}],
        batch={"samples": 3, "regions": "box"},
        style={"tile": 32},
        target=1,
    )
    first = cli("--config", config, f"--trainer.default_root_dir={tmp_path / 'a'}", run=True)
    saved = tmp_path / "a" / "config.yaml"
    assert saved.is_file() and list(tmp_path.rglob("a/cam/trunk/activation_mean/step_*.jpg"))
    again = cli("--config", saved, f"--trainer.default_root_dir={tmp_path / 'b'}", run=True)
    assert plain(callback_of(first)) == plain(callback_of(again))
    name = "cam/trunk/activation_mean/energy_inside"
    assert first.trainer.callback_metrics[name] == again.trainer.callback_metrics[name]


def test_a_fit_from_yaml_runs_a_part_of_the_module_by_a_call_of_ones_own(tmp_path):
    (tmp_path / "written").mkdir()
    config = written(
        tmp_path / "written",
        model="test_callback_yaml.itself",
        forward="test_callback_yaml.logits",
        layer="trunk",
        batch={"samples": 3, "image": "image"},
        metrics=[],
        on_error="raise",
    )
    _CALLS.clear()
    one = cli("--config", config, f"--trainer.default_root_dir={tmp_path}", run=True)
    assert callback_of(one).history and _CALLS and set(_CALLS) == {(3, 3)}


_CALLS = []


def itself(module):
    return module


def logits(model, images, batch):
    _CALLS.append((len(images), len(batch["label"])))
    return model(batch["image"])


def test_the_command_line_alone_asks_for_many_samples_and_for_parts(tmp_path):
    flags = ["layer=relu", "batch.samples=10", "batch.pictures=2", "numbers.per_class=true"]
    flags += ['numbers.parts.groups={"head": "head"}', "numbers.parts.every=1", "style.tile=32"]
    flags = [f"--trainer.callbacks.{flag}" for flag in flags]
    place = f"--trainer.default_root_dir={tmp_path}"
    one = cli("--trainer.callbacks+=lightning_cam.CAMCallback", *flags, place, run=True)
    assert callback_of(one).batch == Batch(samples=10, pictures=2)
    assert {"cam/drift_of_head", "cam/drift_of_rest", "cam/drift/class_1"} <= set(one.trainer.callback_metrics)


def test_the_command_line_alone_is_enough():
    flags = ["layer=relu", "method=cam", "target=2", "batch=3", "style.colormap=jet", "schedule.every_n_epochs=2", "tag=gaze"]
    one = cli("--trainer.callbacks+=lightning_cam.CAMCallback", *(f"--trainer.callbacks.{flag}" for flag in flags))
    wanted = CAMCallback(
        "relu", "cam", target=2, batch=3, style=Style(colormap="jet"), schedule=Schedule(every_n_epochs=2), tag="gaze"
    )
    assert plain(callback_of(one)) == plain(wanted)


def test_the_short_name_is_enough_once_the_package_is_imported():
    assert callback_of(cli("--trainer.callbacks+=CAMCallback", "--trainer.callbacks.layer=relu")).watcher.layers == ["relu"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(on_error="ignore"), ("ignore", "warn", "raise")),
        (dict(schedule={"step": "batch"}), ("batch", "auto")),
        (dict(style={"encoding": "webp"}), ("webp", "jpeg")),
        (dict(layers="relu"), ("layers",)),
        (dict(style={"colourmap": "jet"}), ("colourmap",)),
        (dict(batch={"sample": 3}), ("sample",)),
        (dict(method="gradcam"), ("gradcam", "grad_cam")),
    ],
)
def test_what_is_wrong_is_refused_and_named(options, said, tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        cli("--config", written(tmp_path, **options))
    text = f"{capsys.readouterr().err} {error.value}"
    assert all(word in text for word in said), text


def test_the_example_loads_and_holds_only_what_differs_from_the_defaults(tmp_path):
    one = callback_of(cli("--config", EXAMPLE))
    default = plain(CAMCallback())
    (entry,) = yaml.safe_load(EXAMPLE.read_text())["trainer"]["callbacks"]
    names = {"layer": "layers", "method": "methods"}
    for name, value in entry["init_args"].items():
        assert plain(one)[names.get(name, name)] != default[names.get(name, name)]
        for option in value if name in ("batch", "style", "schedule") else ():
            configured, usual = (getattr(c.watcher if name == "style" else c, name) for c in (one, CAMCallback()))
            assert getattr(configured, option) != getattr(usual, option)
    assert one.watcher.layers == ["backbone.layer4"] and one.batch.per_class == 2 and one.watcher.style.colormap == "viridis"


def test_the_example_runs(tmp_path):
    place = f"--trainer.default_root_dir={tmp_path}"
    changed = ["--trainer.callbacks.layer=trunk", "--trainer.callbacks.style.tile=32", "--trainer.max_epochs=2"]
    one = cli("--config", EXAMPLE, place, *changed, run=True)
    assert callback_of(one).watcher.layers == ["trunk"]
    assert {p.name for p in (tmp_path / "cam" / "trunk").iterdir()} == {"grad_cam", "activation_mean_0_64"}
