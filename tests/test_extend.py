"""A method, a metric, a target or a sink is added in one file, and nothing else is edited."""

import importlib
import sys
import textwrap

import pytest
from nets import STRICT, Diary, cam, fit

from lightning_cam import methods, metrics, sinks
from lightning_cam.registry import METHODS, METRICS, TARGETS

pytestmark = STRICT

METHOD = '''
"""The strongest channel at each place. b batch, u v map."""

from jaxtyping import Float
from torch import Tensor

from lightning_cam import methods


@methods.register
def strongest(seen, *, power: float = 1.0) -> Float[Tensor, "b u v"]:
    """The largest activation over channels, to a power."""
    return seen.activation.amax(1).clamp(min=0) ** power
'''

METRIC = '''
"""How much of the map is active. b batch, u v map."""

from jaxtyping import Float
from torch import Tensor

from lightning_cam import metrics


@metrics.register
def share_active(heat: Float[Tensor, "b u v"], seen, *, above: float = 0.0) -> Float[Tensor, "b"]:
    """The share of cells above a value."""
    return (heat > above).float().mean((1, 2))
'''

TARGET = '''
def margin(logits, label):
    """The label's logit over the best of the others."""
    own = logits.gather(1, label[:, None])
    return (own - logits.scatter(1, label[:, None], -1e9).amax(1, keepdim=True))[:, 0]
'''

SINK = '''
"""For a diary that keeps what it is told."""

from lightning_cam import sinks


@sinks.register("Diary")
def diary(logger, tag, picture, step) -> None:
    """Write a line a picture."""
    logger.lines.append((tag, picture.pixels.shape, step))
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module, imports it by its name if asked to, and forgets it and what it taught afterwards."""
    registries = [METHODS, METRICS, TARGETS]
    before = [registry.names() for registry in registries]
    served, names = sinks.names(), []
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text, imported):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        names.append(name)
        return importlib.import_module(name) if imported else None

    yield write
    for registry, old in zip(registries, before, strict=True):
        for name in set(registry.names()) - set(old):
            registry.unregister(name)
    sinks.unregister(*(set(sinks.names()) - set(served)))
    for name in names:
        sys.modules.pop(name, None)


def test_a_method_in_a_file_of_its_own_is_used_by_name(module, tmp_path):
    assert "strongest" not in methods.names()
    module("my_method", METHOD, imported=True)
    fit(tmp_path, cam(method=["strongest", {"strongest": {"power": 2.0}}], on_error="raise"))
    assert methods.names()[-1] == "strongest"
    assert {p.name for p in (tmp_path / "cam" / "relu").iterdir()} == {"strongest", "strongest_2.0"}


@pytest.mark.parametrize("path", ["my_method.strongest", "my_method:strongest"])
def test_a_method_in_a_file_of_its_own_is_used_by_its_path_alone(path, module, tmp_path):
    module("my_method", METHOD, imported=False)
    fit(tmp_path, cam(method=path, on_error="raise"))
    assert (tmp_path / "cam" / "relu" / "strongest").is_dir()


def test_a_metric_in_a_file_of_its_own_is_logged(module, tmp_path):
    module("my_metric", METRIC, imported=True)
    assert metrics.names()[-1] == "share_active"
    run = fit(tmp_path, cam("trunk", "activation_mean", metrics=["share_active", {"share_active": {"above": 1e9}}]))
    assert 0 < run.callback_metrics["cam/share_active"] <= 1 and run.callback_metrics["cam/share_active_1000000000.0"] == 0


def test_a_metric_is_used_by_its_path_alone(module, tmp_path):
    module("my_metric", METRIC, imported=False)
    assert "cam/share_active" in fit(tmp_path, cam(metrics=["my_metric.share_active"])).callback_metrics


def test_a_target_is_used_by_its_path_alone(module, tmp_path):
    module("my_target", TARGET, imported=False)
    callback = cam(target=["label", "my_target.margin"], on_error="raise")
    assert fit(tmp_path, callback).global_step == 12
    assert len(callback.history["relu/grad_cam"].heats[0]) == 8


def test_a_sink_in_a_file_of_its_own_serves_its_logger(module, tmp_path):
    module("my_sink", SINK, imported=True)
    diary = Diary()
    fit(tmp_path, cam(on_error="raise"), logger=diary)
    assert [(tag, step) for tag, _, step in diary.lines] == [
        (tag, step) for step in (0, 5, 11) for tag in ("cam/relu/grad_cam", "cam/relu/grad_cam/filmstrip")
    ]
    assert all(shape[2] == 3 for _, shape, _ in diary.lines) and not list(tmp_path.rglob("*.jpg"))


def test_a_sink_serves_loggers_derived_from_the_one_it_names(module):
    module("my_sink", SINK, imported=True)

    class Better(Diary):
        pass

    assert sinks.find(Better()).__name__ == "diary" and "Diary" in sinks.names()
