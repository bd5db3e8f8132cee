"""Two processes: all patches on the first one, once each, the numbers on both, and the same weights as without."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from slides import Slides

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each kind of run gave, by kind and rank; and the folder."""
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(Path(__file__).parent / "patch_ddp_run.py"), str(folder)]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    options["env"] = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # where helpers are found
    ranks = [subprocess.Popen([*command, str(rank), port], **options) for rank in (0, 1)]
    try:
        words = [process.communicate(timeout=240)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert all(process.returncode == 0 for process in ranks), "\n".join(words)
    each = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return folder, {(kind, rank): result for rank, own in enumerate(each) for kind, result in own.items()}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["patches", "fails"])
def test_two_processes_train_to_the_same_bits_with_and_without(results, kind, rank):
    _, found = results
    for part in ("state", "model", "rng", "modes", "data"):
        assert found["none", rank][part] == found[kind, rank][part], part
    assert found["none", 0]["data"] != found["none", 1]["data"] and len(found["none", 0]["data"]) > 2


@pytest.mark.parametrize("kind", ["patches", "step"])
def test_every_patch_of_both_processes_is_there_once(results, kind):
    _, found = results
    data = Slides()
    assert len(data) % 2 == 1  # so that the sampler repeats a patch
    places = {repr((patient, float(x), float(y)))[:-1] for patient, x, y, _, _ in data.rows}
    assert len(found[kind, 0]["cells"]) == len(data) == len(places)
    assert all(any(cell.startswith("(" + place) for cell in found[kind, 0]["cells"]) for place in places)
    assert found[kind, 1]["cells"] == []


def test_where_the_step_runs_the_parts_its_losses_are_not_taken_for_the_output(results):
    _, found = results
    assert found["step", 0]["cells"] == found["patches", 0]["cells"]


def test_the_numbers_are_on_both_processes_and_the_picture_on_one(results):
    folder, found = results
    first, second = (found["patches", rank]["metrics"] for rank in (0, 1))
    own = {name for name in first if name.startswith("patches/")}
    assert all(first[name] == second[name] for name in own) and {"patches/auc", "patches/dice", "patches/auc/s9"} <= own
    assert {name: value for name, value in first.items() if name not in own} == found["none", 0]["metrics"]
    assert len(list((folder / "patches").rglob("patches/map/step_*.jpg"))) == 2


def test_a_failure_on_the_second_process_is_one_warning_of_the_first_and_training_goes_on(results):
    _, found = results
    (warning,) = found["fails", 0]["warnings"]
    assert "training goes on" in warning and "RuntimeError: on the second process only" in warning
    assert found["fails", 1]["warnings"] == [] and found["fails", 0]["error"] == found["fails", 1]["error"] == ""


def test_a_mistake_ends_both_processes_before_the_first_step_with_its_words(results):
    _, found = results
    for rank in (0, 1):
        assert "PatchMap(patient='nobody'): the batch has no such entry" in found["wrong", rank]["error"]
        assert found["wrong", rank]["data"] == []
