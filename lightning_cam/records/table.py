"""The table of samples: a row for each sample, target, layer, method and look, in a CSV file beside the run's record.

b batch, t targets, n rows.
"""

from collections.abc import Sequence
from math import isnan
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from lightning_cam.data.batch import FixedBatch
from lightning_cam.record import Record
from lightning_cam.records import csv_file

FILE = "samples.csv"
_WORDS = ("session", "look", "layer", "method", "name", "class_name")
_INTEGERS = ("step", "sample", "target", "label", "predicted", "class")
_FLOATS = ("epoch", "predicted_probability", "probability", "score")  # and the strength, of which below
_LONGEST = 32_000  # letters of a cell: spreadsheets take no more, nor does the csv module much more
# how a cell begins that a spreadsheet would compute, some also with the wide signs of East Asian keyboards; and our own sign
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'")

Columns = dict[str, list[str]]  # the cells of each column, from the first row on


class SampleTable:
    """Writes the table of one run, or of the part of it up to a resume.

    Args:
        session: names the run, as in its record.
    """

    def __init__(self, session: str) -> None:
        self.session = session
        self._headers: dict[Path, list[str]] = {}  # of the files that are known to end with a whole row

    def add(self, folder: Path, records: Sequence[Record], batch: FixedBatch, tag: str) -> None:
        """Add a look to ``<folder>/<tag>/samples.csv``, by one write.

        A file that is there is gone on with: a last row that was cut short is taken off, and columns that it lacks are added at
        the end of its header, with empty cells in the rows before.

        Args:
            folder: of the run.
            records: what the look found; without any there is nothing to write.
            batch: its samples.
            tag: first part of every tag.

        Raises:
            OSError: where the disk takes no more.
        """
        if not records:
            return
        path = folder / tag / FILE
        parts = [_columns(record, batch, self.session) for record in records]
        # known anew only once all is written: a write that fails may leave half a row
        header = self._headers.pop(path, [])
        if not header or not path.exists():
            header = csv_file.mend(path)
        columns = list(dict.fromkeys([*header, *(name for part in parts for name in part)]))
        rows = [row for part in parts for row in _rows(part, columns)]
        if not header:
            rows.insert(0, tuple(columns))
        elif columns != header:
            csv_file.widen(path, columns)
        csv_file.append(path, rows)
        self._headers[path] = columns


def read_table(path: str | Path, words: Sequence[str] = _WORDS) -> list[dict[str, str | float]]:
    """The rows of a table of samples, oldest first: words as strings, all else as floats, NaN for an empty cell.

    A run may be read while it is being written: a last row that is not whole yet is left out. Words are as they were, but for
    what no text file can hold: a zero byte, and bytes of a file name that are no letters, are told by their numbers.

    Args:
        path: the file, ``<log_dir>/<tag>/samples.csv``.
        words: the columns that hold no numbers.

    Raises:
        ValueError: where there is no such file.
    """
    place = Path(path)
    if not place.is_file():
        raise ValueError(f"there is no table of samples {place}; a run writes {FILE} at <log_dir>/<tag>, such as cam/{FILE}.")
    return [{_text(name): _value(told, _text(name) in words) for name, told in row.items()} for row in csv_file.read(place)]


def samples(log_dir: str | Path, tag: str = "cam") -> list[dict[str, str | float]]:
    """Every row of a run's table of samples: one for each sample, target, layer, method and look.

    Each is a dict of ``session`` (which run, or part of it up to a resume; later ones come later in the alphabet), ``look``
    (its title), ``step``, ``epoch``, ``layer``, ``method``, ``sample`` (its number in the watched batch, from 0), ``name``,
    ``target`` (which of several, from 0), ``label``, ``predicted``, ``predicted_probability``, ``class`` (the one explained)
    and its ``class_name`` and ``probability``, ``score``, ``strength``, and every metric by its name. Where a resumed run
    repeats an epoch, its rows come later and count. See ``read_table`` for the values.

    Args:
        log_dir: the run's folder, such as ``trainer.log_dir``, or the CSV file itself.
        tag: the callback's.

    Raises:
        ValueError: where there is no table.

    Example:
        >>> from lightning_cam import Watcher
        >>> watcher = Watcher(resnet18(num_classes=5), torch.rand(2, 3, 64, 64), "layer4", target="predicted", folder=folder)
        >>> records = watcher.look(step=0, title="start")
        >>> [(row["look"], row["layer"], row["sample"]) for row in samples(folder)]
        [('start', 'layer4', 0.0), ('start', 'layer4', 1.0)]
    """
    place = Path(log_dir)
    if place.is_file():
        return read_table(place)
    path = place / tag / FILE
    others = sorted(other.parent.relative_to(place).as_posix() for other in place.rglob(FILE))
    if not path.is_file() and others:
        raise ValueError(
            f"there is no table of samples {path}; below {place} there are those of {', '.join(map(repr, others))}: write "
            f"samples({str(place)!r}, tag={others[0]!r})."
        )
    return read_table(path)


def _columns(record: Record, batch: FixedBatch, session: str) -> Columns:
    """The cells of a Record, where there is a map or was one."""
    sample = torch.tensor(record.shown, dtype=torch.long).div(record.score.shape[1], rounding_mode="floor")
    target = torch.tensor(record.shown, dtype=torch.long) % record.score.shape[1]
    told = record.predictions
    of_all = {"session": session, "look": cell(record.moment.title), "step": str(record.moment.step), "epoch": _epoch(record)}
    # of several layers fused the tag tells that they are
    of_all |= {"layer": cell(record.tag.rpartition("/")[0]), "method": cell(record.method)}
    columns = {name: [value] * len(sample) for name, value in of_all.items()}
    columns |= {"sample": _integers(sample), "name": [cell(_name(batch, i)) for i in sample.tolist()]}
    columns |= {"target": _integers(target), "label": _integers(told.labels[sample])}
    columns |= {"predicted": _integers(told.predicted[sample])}
    columns |= {"predicted_probability": _floats(told.predicted_probability[sample])}
    classes = told.classes[sample, target]
    columns |= {"class": _integers(classes), "class_name": _class_names(record, batch, classes, target)}
    of_map = {"probability": told.probability, "score": record.score, "strength": record.strength}
    # the metric ``strength`` takes the place of the Record's: it is the same, but for maps without evidence
    of_map |= {_metric_column(name): value for name, value in record.values.items()}
    return columns | {name: _floats(value[sample, target]) for name, value in of_map.items()}


def _rows(part: Columns, columns: Sequence[str]) -> list[tuple[str, ...]]:
    blank = [""] * len(part["sample"])
    return list(zip(*(part.get(name, blank) for name in columns), strict=True))


def _epoch(record: Record) -> str:
    if record.moment.epoch is None:
        return ""
    return f"{record.moment.epoch:.9g}"


def _name(batch: FixedBatch, sample: int) -> str:
    if not batch.names:
        return f"sample {sample}"
    return batch.names[sample]


def _class_names(record: Record, batch: FixedBatch, classes: Int[Tensor, "n"], target: Int[Tensor, "n"]) -> list[str]:
    if record.target_names:
        return [cell(record.target_names[i]) for i in target.tolist()]
    names = {i: cell(batch.class_name(i)) for i in classes.unique().tolist() if i >= 0}
    return [names.get(i, "") for i in classes.tolist()]


def _metric_column(name: str) -> str:
    """A column of its own for every metric, whatever it is called."""
    if name in (*_WORDS, *_INTEGERS, *_FLOATS):
        return f"metric {name}"
    return cell(name)


def _integers(values: Int[Tensor, "n"]) -> list[str]:
    """Empty for -1, which stands for none."""
    return ["" if value < 0 else str(value) for value in values.tolist()]


def _floats(values: Shaped[Tensor, "n"]) -> list[str]:
    """As many digits as give back the same number; empty for NaN."""
    digits = 17 if values.dtype == torch.float64 else 9
    return ["" if isnan(value) else f"{value:.{digits}g}" for value in values.tolist()]


def cell(text: str) -> str:
    """Words as a cell that is valid text and no formula; ``_text`` takes them back."""
    plain = text[:_LONGEST].encode("utf-8", "backslashreplace").decode().replace("\0", r"\x00")
    if plain.startswith(_FORMULA):
        plain = f"'{plain}"
    return plain


def _text(told: str) -> str:
    return told.removeprefix("'")


def _value(told: str, is_word: bool) -> str | float:
    if is_word:
        return _text(told)
    return float(told or "nan")
