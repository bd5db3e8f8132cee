"""The table of methods names every method, and nothing else; every example in the package's documentation runs."""

import doctest
import importlib
import re
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
import torchvision

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


MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "lightning_cam").rglob("*.py"))
    if ">>>" in path.read_text()
]


def test_there_are_examples():
    assert len(MODULES) > 20 and "lightning_cam.watcher" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, tmp_path):
    module = importlib.import_module(name)
    models = {"resnet18": torchvision.models.resnet18, "squeezenet1_0": torchvision.models.squeezenet1_0}
    names = vars(module) | models | {"torch": torch, "L": L, "folder": tmp_path}
    said: list[str] = []
    examples = 0
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs=names):
        result = doctest.DocTestRunner().run(test, out=said.append)
        examples += result.attempted
    assert not "".join(said)
    assert examples == Path(module.__file__).read_text().count(">>>")
