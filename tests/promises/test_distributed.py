"""Two processes: the same weights with and without the callback, and numbers on both."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from streams import Stream
from traces import digest

from lightning_cam import records

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each kind of run gave on each rank, and the words of each rank."""
    folder, port = tmp_path_factory.mktemp("ddp"), str(free_port())
    command = [sys.executable, str(Path(__file__).parent / "ddp_run.py"), str(folder)]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    options["env"] = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # where helpers are found
    ranks = [subprocess.Popen([*command, str(rank), port], **options) for rank in (0, 1)]
    try:
        words = [one.communicate(timeout=180)[0] for one in ranks]
    finally:
        for one in ranks:
            one.kill()
    assert all(one.returncode == 0 for one in ranks), "\n".join(words)
    each = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return folder, {(kind, rank): result for rank, one in enumerate(each) for kind, result in one.items()}, words


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("part", ["state", "model", "rng", "modes", "data", "steps"])
def test_two_processes_train_to_the_same_bits_with_and_without_the_callback(results, part, rank):
    _, found, _ = results
    assert found["none", rank]["steps"] == 4
    assert found["none", rank][part] == found["cam", rank][part]
    first, second = (found["cam", one]["state"] for one in (0, 1))
    assert [k for k in first if first[k] != second[k]] == ["trunk.1.running_mean", "trunk.1.running_var"]  # DDP's own way


def test_a_backward_on_one_process_is_what_this_would_catch(results):
    _, found, _ = results
    assert found["none", 0]["state"] != found["backward", 0]["state"]


def test_the_numbers_are_on_both_processes(results):
    _, found, _ = results
    first, second = (found["cam", rank]["metrics"] for rank in (0, 1))
    assert first["cam/energy_inside"] == second["cam/energy_inside"] and 0 <= first["cam/energy_inside"] <= 1
    own = {k: v for k, v in first.items() if not k.startswith(("cam", "second"))}
    assert own == found["none", 0]["metrics"]


def test_pictures_come_from_the_first_process_and_show_the_first_rows(results):
    folder, *_ = results
    sheets = list((folder / "cam").rglob("cam/trunk/activation_mean/step_*.jpg"))
    assert len(sheets) == 3
    overlays = {p.name for p in (folder / "cam").rglob("step_*/*_activation_mean.jpg")}
    assert overlays == {f"{i}_activation_mean.jpg" for i in range(4)}


def test_the_record_is_written_by_the_first_process(results):
    folder, *_ = results
    looks = records.read(folder / "cam").looks
    assert sorted((look.tag, look.number) for look in looks) == [(tag, i) for tag in ("cam", "second") for i in (1, 2, 3)]
    assert len(list((folder / "cam").rglob("*.lightning_cam"))) == 2  # one a callback


def test_a_failure_on_the_first_process_is_one_warning_of_that_process(results):
    _, found, words = results
    assert [found["fails", rank]["steps"] for rank in (0, 1)] == [4, 4]
    assert found["fails", 0]["state"] == found["none", 0]["state"]
    assert words[0].count("fails_later failed and is left out") == 1 and "RuntimeError: on the first process only" in words[0]
    assert "failed and is left out" not in words[1]


def test_a_mistake_ends_both_processes_before_the_first_step_with_its_words(results):
    _, found, _ = results
    for rank in (0, 1):
        assert "no layer 'nowhere'" in found["wrong", rank]["error"] and found["wrong", rank]["steps"] == 0


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["stream", "late", "unvalidated"])
def test_samples_without_an_index_are_those_of_the_first_process_and_nothing_else_changes(results, kind, rank):
    _, found, _ = results
    one, alone = found[kind, rank], found[f"{kind} alone", rank]
    assert alone["error"] == one["error"] == ""
    for part in ("state", "model", "rng", "modes", "data", "steps"):
        assert one[part] == alone[part], part
    assert len(set(one["data"])) > 4 and one["data"] != found[kind, 1 - rank]["data"]
    first = digest(torch.stack([Stream().pictures[i][0] for i in range(3 if kind == "unvalidated" else 5)]))
    assert one["samples"] == ([first] * len(one["samples"]) if rank == 0 else [])
    assert len(found[kind, 0]["samples"]) > 1
