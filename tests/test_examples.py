"""Every example runs, as a newcomer would run it."""

import subprocess
import sys
from pathlib import Path

import pytest
from events import read_events

pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("example", EXAMPLES[1:], ids=lambda path: path.stem)
def test_example_runs(example, tmp_path):
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_first_example_leaves_pictures_for_tensorboard(tmp_path):
    subprocess.run([sys.executable, str(EXAMPLES[0])], cwd=tmp_path, capture_output=True, timeout=300, check=True)
    (log,) = tmp_path.rglob("events.*")
    tags = read_events(log).Tags()["images"]
    assert tags == ["cam/backbone.layer4/grad_cam", "cam/backbone.layer4/grad_cam/filmstrip"]
