"""Two processes: both have the maps, one is alarmed, and both stop at the same step."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each kind of run gave on each rank, and the words of each."""
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(Path(__file__).parent / "alarm_ddp_run.py"), str(folder)]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    options["env"] = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # where helpers are found
    ranks = [subprocess.Popen([*command, str(rank), port], **options) for rank in (0, 1)]
    try:
        words = [process.communicate(timeout=90)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert all(process.returncode == 0 for process in ranks), "\n".join(words)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)], words


@pytest.mark.parametrize("kind", ["stops", "unvalidated"])
def test_both_processes_stop_after_the_look_at_which_it_sounds(results, kind):
    first, second = (result[kind] for result in results[0])
    # both have the maps; the first one alone is asked what it makes of them
    assert first["looks"] == second["looks"] == ["start", "1", "2", "3"]
    for result in (first, second):
        assert (result["epochs"], result["steps"], result["stopped"]) == (3, 9, True)
    assert first["fired"] and not second["fired"]


def test_neither_stops_where_it_is_not_asked_to(results):
    assert [(result["warns"]["epochs"], result["warns"]["stopped"]) for result in results[0]] == [(6, False)] * 2


def test_it_is_told_once_a_run_and_by_the_first_process_alone(results):
    words = results[1]
    assert [text.count("ShortcutAlarm: 90% of the positive heat") for text in words] == [3, 0]
