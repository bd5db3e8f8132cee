"""PatchMap from LightningCLI: YAML, and the command line alone."""

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from nets import STRICT
from slides import Grader

from lightning_cam import PatchMap, Schedule, Style

pytestmark = STRICT


class Model(Grader):
    """Without options."""

    def __init__(self) -> None:
        super().__init__()


@pytest.fixture
def built(monkeypatch):
    monkeypatch.setattr("sys.argv", ["main.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

    def build(*words):
        quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false"]
        cli = LightningCLI(Model, seed_everything_default=1, args=[*quiet, *map(str, words)], run=False)
        (callback,) = (one for one in cli.trainer.callbacks if isinstance(one, PatchMap))
        return callback

    return build


def options(callback):
    names = ("keys", "output", "positive", "probabilities", "loader", "schedule", "per_patient", "tag")
    page = (callback.page.rows, callback.page.columns, callback.page.patch_size, tuple(callback.page.classes))
    return [getattr(callback, name) for name in names], page, callback.style.tile, callback.notices.on_error


def test_a_configuration_is_the_callback_that_it_names(built, tmp_path):
    args = dict(patient="slide", x="col", y="row", output="logits", positive=2, columns=3, patch_size=50, on_error="raise")
    args |= dict(classes=["benign", "lesion"], style={"tile": 64}, schedule={"every_n_epochs": 2}, per_patient=True)
    path = tmp_path / "config.yaml"
    callbacks = [{"class_path": "lightning_cam.PatchMap", "init_args": args}]
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    expected = PatchMap(**(args | dict(style=Style(tile=64), schedule=Schedule(every_n_epochs=2))))
    assert options(built("--config", path)) == options(expected)


def test_the_command_line_alone_is_enough(built):
    flags = [f"--trainer.callbacks.{flag}" for flag in ("patient=slide", "rows=2")]
    callback = built("--trainer.callbacks+=lightning_cam.PatchMap", *flags)
    assert options(callback) == options(PatchMap("slide", rows=2))
