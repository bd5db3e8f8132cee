"""Tables of patches: out of dicts, data frames and CSV files, in the order that people expect, and what is no table."""

import math

import pytest
import torch

from lightning_cam.patches import Columns, PatchName, PatchTable, read_csv

GOOD = {"patient_id": ["11", "3", "11"], "x": [1, 51, 101], "y": [1, 1, 51], "target": [0, 1, 1]}
TEXT = "patient_id,x,y,target,probability\n11,1,1,0,.25\n3,51,1,1,0.5\n11,101,51,,1\n"


class Frame:
    """What is used of a data frame: it goes through something else than its names by itself."""

    def __init__(self, columns):
        self.columns = list(columns)
        self.cells = columns

    def __iter__(self):
        raise AssertionError("its names are in columns")

    def __getitem__(self, name):
        return self.cells[name]


def written(folder, text, **options):
    path = folder / "patches.csv"
    path.write_text(text, **({"encoding": "utf-8"} | options))
    return path


def test_patients_are_in_the_order_of_their_numbers():
    table = PatchTable.of(GOOD)
    assert table.patients == ("3", "11") and table.patient.tolist() == [1, 0, 1] and len(table) == 3
    names = ["b2", "b10", "A1", "03", "3", "b2x"]
    columns = {"patient_id": names, "x": range(6), "y": [0] * 6, "target": [0] * 6}
    assert PatchTable.of(columns).patients == ("03", "3", "A1", "b2", "b2x", "b10")


def test_tensors_and_data_frames_are_tables_too():
    tensors = {name: torch.tensor(values) for name, values in GOOD.items() if name != "patient_id"}
    table = PatchTable.of({**tensors, "patient_id": torch.tensor([11, 3, 11])})
    assert table.patients == ("3", "11") and table.x.tolist() == [1, 51, 101]
    assert PatchTable.of(Frame(GOOD)).target.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="Did you mean 'target'"):
        PatchTable.of(Frame(GOOD), Columns(target="targets"))


def test_a_data_frame_of_pandas_is_a_table():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(GOOD).iloc[::-1]
    assert PatchTable.of(frame).target.tolist() == [1, 1, 0]


def test_a_csv_file_is_read_as_it_is(tmp_path):
    table = read_csv(written(tmp_path, TEXT))
    assert table.patients == ("3", "11") and table.patient.tolist() == [1, 0, 1]
    assert table.y.tolist() == [1, 1, 51] and table.probability.tolist() == [0.25, 0.5, 1]
    assert table.target[:2].tolist() == [0, 1] and math.isnan(table.target[2])


CHANGES = [
    lambda text: text.replace(",", ";"),
    lambda text: text.replace(",", "\t"),
    lambda text: text.replace("\n", "\r\n\r\n"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_other_separators_and_empty_lines_are_read(change, tmp_path):
    assert read_csv(written(tmp_path, change(TEXT))).x.tolist() == [1, 51, 101]


def test_a_mark_in_front_of_the_header_is_none_of_its_letters(tmp_path):
    assert read_csv(written(tmp_path, TEXT, encoding="utf-8-sig")).patients == ("3", "11")


def test_columns_may_have_other_names_and_labels_other_classes(tmp_path):
    text = "slide,col,row,tissue,p\na,0,0,2,.1\na,1,0,0,.2\na,2,0,-1,.3\n"
    names = Columns("slide", "col", "row", "tissue", "p", positive=2)
    table = read_csv(written(tmp_path, text), names)
    assert table.target[:2].tolist() == [1, 0] and math.isnan(table.target[2])
    assert table.probability.tolist() == pytest.approx([0.1, 0.2, 0.3])


HEAD = "patient_id,x,y,target,probability\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "patches.csv has no rows; expected a header, then a row a patch"),
        (HEAD, "patches.csv has no rows"),
        ("patient,x,y,target\n1,0,0,1\n", "no column 'patient_id'. Did you mean 'patient'? It has: patient, x, y, target. "),
        (HEAD + "1,0,0,1,.5\n1,wide,0,1,.5\n", "patches.csv, line 3: x is 'wide'; expected a number"),
        (HEAD + "1,0,,1,.5\n", "patches.csv, line 2: y is nan; expected a place, in pixels"),
        (HEAD + "1,0,0,1,.5\n1,1,0,2,.5\n", "line 3: the label is 2; expected 0 or 1, and a negative number or nothing"),
        (HEAD + "1,0,0,1,-3.5\n", "line 2: probability is -3.5; expected a probability, 0 to 1"),
        (
            HEAD + "1,0,0,1,.5\n\n2,0,0,1,.5\n1,0,0,0,.5\n",
            "line 5: patient '1' has a patch at (0, 0) already",
        ),
        (HEAD + "1,0,0,1\n", "line 2: 4 cells; the header has 5"),
        (HEAD + ",0,0,1,.5\n", "line 2: patient_id is empty; expected whose patch it is"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(text, words, tmp_path):
    with pytest.raises(ValueError) as refusal:
        read_csv(written(tmp_path, text))
    assert words in str(refusal.value)


def test_the_way_out_of_a_refusal_works(tmp_path):
    text = "patient,x,y,target\n1,0,0,1\n1,50,0,2\n"
    with pytest.raises(ValueError, match=r"Columns\(patient=\.\.\.\), on the command line --patient"):
        read_csv(written(tmp_path, text))
    with pytest.raises(ValueError, match="name the one that counts as 1: positive=1"):
        read_csv(written(tmp_path, text), Columns(patient="patient"))
    assert read_csv(written(tmp_path, text), Columns(patient="patient", positive=1)).target.tolist() == [1, 0]


def test_a_file_that_is_no_text_and_columns_that_differ_in_length_are_refused(tmp_path):
    path = tmp_path / "patches.csv"
    path.write_bytes(b"patient_id,x\n\xff\xfe,1")
    with pytest.raises(ValueError, match=r"patches.csv is no text in UTF-8: .* at byte 13"):
        read_csv(path)
    with pytest.raises(ValueError, match=r"columns of a table have one length, of at least one row; got \[2, 3\]"):
        PatchTable.of(GOOD | {"x": [1, 2]})
    with pytest.raises(ValueError, match="no column 'score'"):
        PatchTable.of(GOOD, Columns(probability="score"))


def test_names_of_files_tell_the_place():
    assert PatchName.of("a/b/03_idx5_x101_y151_class0.png") == ("03", 101, 151, 0)
    assert PatchName.of("slide_7_x-5_y10.tif") == ("slide_7", -5, 10, -1)
    with pytest.raises(ValueError, match=r"'cat.png' tells no place; .* as '8863_idx5_x151_y1251_class1.png'"):
        PatchName.of("dogs/cat.png")
    assert PatchName.of("8863_idx5_x151_y1251_class1.png").patient == "8863"
