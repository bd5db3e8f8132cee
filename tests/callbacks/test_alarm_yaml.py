"""ShortcutAlarm from LightningCLI: YAML, and the command line alone."""

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from nets import STRICT, Net, loader

from lightning_cam import CAMCallback, ShortcutAlarm

pytestmark = STRICT


class Model(Net):
    """Without options."""

    def __init__(self) -> None:
        super().__init__()

    def train_dataloader(self):
        return loader(24, size=4, form="dict")

    def val_dataloader(self):
        return loader(form="dict")


@pytest.fixture
def built(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["main.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

    def build(*words, run=False):
        quiet = ["accelerator=cpu", "devices=1", "logger=false", "max_epochs=4", "enable_checkpointing=false"]
        quiet += ["enable_progress_bar=false", "enable_model_summary=false", f"default_root_dir={tmp_path}"]
        args = [*(["fit"] if run else []), *(f"--trainer.{word}" for word in quiet), *map(str, words)]
        return LightningCLI(Model, seed_everything_default=1, args=args, run=run)

    return build


def alarm_of(cli):
    (alarm,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, ShortcutAlarm))
    return {name: getattr(alarm, name) for name in ("region", "threshold", "looks", "stop", "tag")}


def written(folder, **options):
    path = folder / "config.yaml"
    watched = {"class_path": "lightning_cam.CAMCallback", "init_args": {"batch": {"samples": 4, "regions": "box"}}}
    callbacks = [{"class_path": "lightning_cam.ShortcutAlarm", "init_args": options}, watched]
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return path


@pytest.mark.parametrize("options", [dict(), dict(region="tag", threshold=0.3, looks=5, stop=True, tag="gaze")])
def test_a_configuration_is_the_alarm_that_it_names_and_saved_it_is_the_same(built, options, tmp_path):
    cli = built("--config", written(tmp_path, **options))
    expected = dict(region=None, threshold=0.5, looks=3, stop=False, tag=None) | options
    assert alarm_of(cli) == expected
    saved = tmp_path / "saved.yaml"
    saved.write_text(cli.parser.dump(cli.config, skip_none=False))
    assert alarm_of(built("--config", saved)) == expected


def test_the_command_line_alone_is_enough(built):
    flags = [f"--trainer.callbacks.{flag}" for flag in ("region=tag", "looks=2", "stop=true")]
    assert alarm_of(built("--trainer.callbacks+=lightning_cam.ShortcutAlarm", *flags))["looks"] == 2


def test_a_fit_from_yaml_is_watched(built, tmp_path):
    (tmp_path / "written").mkdir()  # the run saves its own beside what it writes
    path = written(tmp_path / "written", region="object", threshold=0.0, looks=1, stop=True)
    with pytest.warns(UserWarning, match="ShortcutAlarm: .* in the region 'object'.*Training stops"):
        cli = built("--config", path, run=True)
    assert cli.trainer.current_epoch == 1
    assert any(isinstance(callback, CAMCallback) for callback in cli.trainer.callbacks)
