"""One, two and three processes that look together: the same samples, maps, numbers and state, and none waits for ever."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

WORLDS = (1, 2, 3)
SAME = ["defaults", "many", "named", "concepts", "concepts of all", "frozen", "fewer samples than processes", "resumed"]
# what is another number of the same map in the last bits: the gradient is a mean over processes, and maps are of other chunks
CLOSE = 1e-9


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def start(folder, world, kind="patient"):
    """The results of every rank, and its words."""
    own, port = folder / str(world), free_port()
    own.mkdir()
    command = [sys.executable, str(Path(__file__).parent / "together_run.py"), str(own), str(world)]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    options["env"] = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # where helpers are found
    ranks = [subprocess.Popen([*command, str(rank), port, kind], **options) for rank in range(world)]
    try:
        words = [one.communicate(timeout=240)[0] for one in ranks]
    finally:
        for one in ranks:
            one.kill()
    assert all(one.returncode == 0 for one in ranks), "\n".join(words)
    return [torch.load(own / f"{rank}.pt", weights_only=False) for rank in range(world)], words


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return {world: start(folder, world) for world in WORLDS}


def leaves(value, path=""):
    """All tensors and plain values in nested dicts and lists, with where they are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{i}")
    else:
        yield path, value


def assert_near(one, other, tolerance=CLOSE):
    ones, others = dict(leaves(one)), dict(leaves(other))
    assert list(ones) == list(others) and ones
    for path, value in ones.items():
        if isinstance(value, torch.Tensor):
            near = torch.allclose(value.double(), others[path].double(), rtol=tolerance, atol=tolerance, equal_nan=True)
            assert value.shape == others[path].shape and near, path
        elif isinstance(value, float):
            assert value == pytest.approx(others[path], rel=tolerance, abs=tolerance, nan_ok=True), path
        else:
            assert value == others[path] or hasattr(value, "step"), path


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("kind", SAME)
def test_the_same_fit_tells_the_same_in_any_number_of_processes(runs, kind, world):
    alone, first = runs[1][0][0][kind], runs[world][0][0][kind]
    assert alone["error"] == first["error"] == "" and first["steps"] == alone["steps"]
    assert len(first["looks"]) == (1 if kind == "resumed" else 3)
    assert_near(alone["weights"], first["weights"])
    for part in ("looks", "images"):
        assert_near(alone[part], first[part])
    # single precision: what is kept of the run, and Lightning's mean over the processes
    for part in ("metrics", "state"):
        assert_near(alone[part], first[part], 1e-6)
    if kind.startswith("concepts"):
        assert_near(alone["concepts"], first["concepts"])


def test_what_is_compared_says_something(runs):
    one = runs[1][0][0]
    assert one["defaults"]["metrics"]["cam/drift"] > 1e-4 and one["defaults"]["metrics"]["cam/drift_floor"] > 1e-6
    assert {"cam/drift_of_trunk", "cam/drift/class_0"} <= set(one["defaults"]["metrics"])
    assert len(one["concepts"]["concepts"][0][0]) == 16 and len(one["concepts of all"]["concepts"][0][0]) == 6
    assert one["many"]["looks"][2][0]["heat"].shape[0] == 19 and len(one["many"]["looks"][2]) == 4
    assert one["frozen"]["state"]["target"][0]["reference"].shape[0] == 5


@pytest.mark.parametrize("world", WORLDS[1:])
def test_every_process_has_the_same_numbers_and_state_to_the_bit(runs, world):
    first, *others = runs[world][0]
    for kind in SAME:
        for other in others:
            assert_near(first[kind]["metrics"], other[kind]["metrics"], 0)
            here, there = dict(first[kind]["state"]), dict(other[kind]["state"])
            if "concepts" in here:  # those of the first process, which draws them
                del here["concepts"], there["concepts"]
            assert_near(here, there, 0)
            assert other[kind]["looks"] == []


@pytest.mark.parametrize("world", WORLDS[1:])
def test_running_statistics_are_those_of_the_first_process_and_stay_everyones_own(runs, world):
    """Each process has statistics of its own samples; a checkpoint holds the first one's, and so do the maps."""
    ranks = runs[world][0]
    trained = [rank["norm"]["weights"]["trunk.1.running_mean"] for rank in ranks]
    assert not torch.equal(trained[0], trained[1])
    told = ranks[0]["norm"]["looks"][-1][0]["heat"][:, 0].double()
    assert torch.allclose(told, ranks[0]["norm"]["own"].double(), atol=1e-12)


@pytest.mark.parametrize("world", WORLDS[1:])
def test_a_method_that_fails_in_another_process_is_one_warning_of_the_first(runs, world):
    results, words = runs[world]
    assert {rank["fails"]["steps"] for rank in results} == {4} and {rank["fails"]["error"] for rank in results} == {""}
    assert [len(look) for look in results[0]["fails"]["looks"]] == [1, 0, 1]
    told = [text.count("in the last process only") for text in words]
    assert told == [1] + [0] * (world - 1)


@pytest.mark.parametrize("world", WORLDS)
def test_a_look_that_fails_in_one_process_is_left_out_in_all(runs, world):
    results, words = runs[world]
    for rank in results:
        assert rank["falls over"]["error"] == "" and rank["falls over"]["steps"] == 4
        heats = rank["falls over"]["state"]["relu/grad_cam"]["titles"]
        assert heats == ["start", "2"]
    assert len(results[0]["falls over"]["looks"]) == 2
    where = "" if world == 1 else f"on process {world - 1}: "
    assert words[0].count("a look failed and is left out, training goes on") == 1
    assert f"RuntimeError: {where}" in words[0] and "no forward in the last process" in words[0]
    assert all("failed and is left out" not in text for text in words[1:])


def test_a_look_may_take_longer_than_the_training_would_wait(tmp_path):
    for rank in start(tmp_path, 2, "impatient")[0]:
        assert rank["slow"]["error"] == "" and rank["slow"]["steps"] == 2
        assert rank["slow"]["state"]["relu/slow"]["titles"] == ["start", "1"]
