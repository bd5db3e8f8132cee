"""The table of metrics says of every metric what the registry says, and names nothing else; the page's examples run."""

import inspect
import re
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from nets import STRICT, Net, loader, trainer

from lightning_cam import metrics
from lightning_cam.registry import METRICS

pytestmark = STRICT

PAGE = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
COLUMNS = ("name", "definition", "range", "better", "floor", "cost", "source")
ROWS = {
    cells[0].strip("`"): dict(zip(COLUMNS, cells, strict=False))
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]]
}
NAMES = [*metrics.names(), *METRICS.wrappers()]


def docstring(name):
    """What a metric says of itself, in one line."""
    function = getattr(metrics, name, None) or METRICS.find(name).function
    return " ".join(inspect.getdoc(function).replace("``", "`").split())


def source(name):
    """Where a metric says that it is from."""
    said = re.search(r"Source: (.*?)(?= Args:| Raises:|$)", docstring(name))
    return "" if said is None else said[1]


def expected(name):
    """The cells that follow from what was said of a metric when it was registered."""
    if name in METRICS.wrappers():
        kept = METRICS._keeps[name]
        direction = "the metric's" if "higher_is_better" in kept else "neither"
        cost = re.search(r"Cost: ([^.]*)\.", docstring(name))[1]
        return {"range": "the metric's" if "range" in kept else "any", "better": direction, "floor": "-", "cost": cost}
    facts = METRICS.find(name).facts
    low, high = facts.get("range", (None, None))
    span = "any" if low is None else f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
    direction = {True: "higher", False: "lower", None: "neither"}[facts.get("higher_is_better")]
    floor = facts.get("floor", "-")
    if callable(floor):
        floor = "<words of the docstring of its floor>"
    elif not isinstance(floor, str):
        floor = f"{floor:g}"
    return {"range": span, "better": direction, "floor": floor, "cost": facts.get("cost", "<a cost, in its registration>")}


def line(name):
    """A row to write or to mend."""
    formula = re.search(r"`([^`]*)`", docstring(name).partition(" Source:")[0])
    formula = "<words of its docstring>" if formula is None else f"`{formula[1]}`".replace("|", r"\|")
    cells = [f"`{name}`", formula, *expected(name).values(), source(name)[:60] or "-"]
    return f"write in docs/metrics.md, under its group: | {' | '.join(cells)} |"


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_has_a_whole_row(name):
    assert name in ROWS, line(name)
    assert len(ROWS[name]) == len(COLUMNS) and all(ROWS[name].values()), line(name)


def test_nothing_else_has_a_row_and_none_has_two():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(NAMES), f"rows of no registered metric, or twice: {sorted(set(rows) ^ set(NAMES)) or rows}"


@pytest.mark.parametrize("name", NAMES)
def test_range_direction_floor_and_cost_are_those_of_the_registry(name):
    wanted, row = expected(name), ROWS[name]
    floor = METRICS.find(name).facts.get("floor") if name in metrics.names() else None
    if callable(floor):
        assert row["floor"] in " ".join(inspect.getdoc(floor).replace("``", "`").lower().split()), line(name)
        wanted["floor"] = row["floor"]
    assert {column: row[column] for column in wanted} == wanted, line(name)


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_says_what_it_costs(name):
    assert METRICS.find(name).facts.get("cost"), f"@METRICS.register(..., cost='none') is missing at {name}"


@pytest.mark.parametrize("name", NAMES)
def test_its_definition_is_in_its_own_words(name):
    cell, said = ROWS[name]["definition"], docstring(name)
    pieces = re.findall(r"`([^`]*)`", cell) or [cell]
    assert all(piece.lower() in said.lower() for piece in pieces), line(name)


@pytest.mark.parametrize("name", NAMES)
def test_its_source_is_the_one_it_names(name):
    cell, said = ROWS[name]["source"], source(name)
    ids = r"\b\d{4}\.\d{4,5}\b"
    assert set(re.findall(ids, cell)) == set(re.findall(ids, said)), line(name)
    years = set(re.findall(r"\b(?:19|20)\d\d\b(?!\.\d)", cell))
    assert years <= set(re.findall(r"\b(?:19|20)\d\d\b(?!\.\d)", said)), line(name)
    authors = re.findall(r"[A-Z][a-z]+", cell)
    assert all(author in said for author in authors), line(name)
    # some source there must be, unless the metric says that there is none
    assert years or re.findall(ids, cell) or cell in (said[: len(cell)], "-"), line(name)
    assert (cell == "-") == (not said or said.startswith("none")), line(name)


def test_rows_are_written_for_who_adds_a_metric():
    @metrics.register(range=(0.0, None), higher_is_better=False, floor=0.5, cost="1 forward")
    def made_up(heat, seen):
        """How made up it is.

        ``sum |M| / n``, 0 or more.

        Source: Nobody 2026, arXiv 2600.00001.
        """

    try:
        assert line("made_up") == (
            r"write in docs/metrics.md, under its group: | `made_up` | `sum \|M\| / n` | 0 or more | lower | 0.5 | 1 forward | "
            "Nobody 2026, arXiv 2600.00001. |"
        )
    finally:
        METRICS.unregister("made_up")


def test_the_examples_of_the_page_run(tmp_path, capsys):
    first, second, third = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(first, names)
    logger = TensorBoardLogger(tmp_path)
    run = trainer(tmp_path, names["callbacks"], logger=logger, enable_checkpointing=True)
    run.fit(Net(), loader(24, size=4, form="dict"), loader(form="dict"))
    assert {"cam/energy_inside", "cam/enrichment", "cam/drift", "cam/iou_0.2"} <= set(run.callback_metrics)
    exec(second, names)
    assert names["callback"].watcher.numbers.parts.every == 5
    exec(third, names | {"log_dir": logger.log_dir})
    out = capsys.readouterr().out
    assert "before training relu/grad_cam tensor(" in out and re.search(r"\('(before training|epoch \d)', '#\d+', ", out)
