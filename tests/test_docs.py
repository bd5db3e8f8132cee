"""The table of methods names every method, and nothing else."""

import re
from pathlib import Path

import pytest

from lightning_cam import methods
from lightning_cam.registry import METHODS

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split(" | ")]
    for line in (ROOT / "docs" / "methods.md").read_text().splitlines()
    if line.startswith("| `")
]


def test_the_table_names_every_method_once():
    assert sorted(row[0].strip("`") for row in ROWS) == sorted([*methods.names(), *METHODS.wrappers()])


@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md"])
def test_the_number_of_methods_told_is_theirs(file):
    assert f"{len(ROWS)} methods" in (ROOT / file).read_text()


def test_every_row_is_whole_and_every_cost_a_measured_number():
    for row in ROWS:
        assert len(row) == 6, row
        assert all(row), row
        assert re.fullmatch(r"\d+(\.\d)?", row[4]), row
