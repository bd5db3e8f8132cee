"""The house: which room may import which, and how large rooms and files may grow."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lightning_cam"
GROUND = {"registry", "heat", "record", "no_trace"}  # imported by all, importing none but each other
ARROWS = {
    "model": set(),
    "targets": {"model"},
    "capture": {"targets", "model"},
    "methods": {"capture", "targets", "model"},
    "metrics": {"capture"},
    "change": {"capture", "methods", "metrics", "model", "targets"},
    "data": {"model"},
    "render": set(),
    "patches": set(),
    "figures": {"render", "data", "patches"},
    "sinks": {"render"},
    "concepts": {"capture", "data", "figures", "model", "render"},
    "explanation": {"data", "figures", "render"},
    "explain": {"capture", "data", "explanation", "methods", "model", "targets"},
    "records": {"data", "render"},
    "training": {"capture", "concepts", "data", "figures", "methods", "metrics", "records", "render", "sinks", "targets"},
    "watcher": {"capture", "concepts", "data", "figures", "methods", "metrics", "model", "render", "training"},
    "callback": {"watcher", "data", "model", "render", "training"},
    "callbacks": {"data", "figures", "metrics", "model", "patches", "render", "training"},
    "cli": {"capture", "data", "explain", "explanation", "figures", "methods", "model", "patches", "render"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path):
    """The rooms of the package that a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        yield from (module.split(".")[1] for module in modules if module.startswith("lightning_cam."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_run_one_way(path):
    own = room(path)
    allowed = GROUND if own in GROUND else {own} | GROUND | ARROWS[own]
    rooms = set(imported_rooms(path)) & {*ARROWS, *GROUND}  # the rest are names of the package itself, such as its version
    assert rooms <= allowed


def test_no_room_leads_back_to_itself():
    order = {name: i for i, name in enumerate(ARROWS)}
    assert all(order[below] < order[name] for name, rooms in ARROWS.items() for below in rooms)


def test_rooms_and_files_stay_small():
    assert sum(path.parent == PACKAGE for path in PACKAGE.glob("*.py")) <= 10
    for folder in {path.parent for path in FILES}:
        assert len(list(folder.glob("*.py"))) <= 12, folder
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 250, path
