"""``lightning-cam patches``: a CSV to a picture and a line of numbers a patient."""

import cv2
import numpy as np
import pytest

from lightning_cam import Style
from lightning_cam.cli.main import main
from lightning_cam.figures.patch_map import PatchPage, patch_map
from lightning_cam.patches import read_csv
from lightning_cam.render import to_host

TEXT = "patient_id,x,y,target,probability\n11,0,0,0,.1\n11,50,0,1,.9\n11,0,50,1,.4\n3,0,0,1,.8\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(TEXT)
    return tmp_path


def test_the_picture_is_that_of_the_function_and_the_numbers_are_printed(here, capfd):
    assert main(["patches", "t.csv", "-o", "new/map.png", "--tile", "64", "--classes", "benign", "lesion"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "3     AUC nan  Dice 1.000",
        "11    AUC 1.000  Dice 0.667",
        "mean  AUC 1.000  Dice 0.833",
        "new/map.png",
    ]
    drawn = cv2.imread(str(here / "new/map.png"))[..., ::-1]
    page = PatchPage(classes=("benign", "lesion"), title="t.csv")
    assert np.array_equal(drawn, to_host(patch_map(read_csv("t.csv"), page, Style(tile=64))))


def test_columns_are_named_and_a_table_of_labels_prints_no_numbers(here, capfd):
    (here / "t.csv").write_text("slide,col,row,kind\na,0,0,2\na,1,0,0\n")
    words = ["--patient", "slide", "--x", "col", "--y", "row", "--target", "kind", "--positive", "2"]
    assert main(["patches", "t.csv", *words, "--out", "map.jpg", "--rows", "1", "--patch-size", "1"]) == 0
    assert capfd.readouterr().out == "map.jpg\n" and (here / "map.jpg").read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["t.csv", "--patient", "slide"], "no column 'slide'"),
        (["t.csv", "--probability", "score"], "no column 'score'"),
        (["none.csv"], "none.csv"),
        (["t.csv", "--out", "map.tiff"], "--out map.tiff: expected a name that ends in .png, .jpg, .jpeg"),
        (["t.csv", "--tile", "5"], "Style(tile=5): expected 32 to 2048 pixels"),
        (["t.csv", "--colormap", "jett"], "Did you mean 'jet'"),
    ],
)
def test_what_cannot_be_done_is_one_line(options, words, here, capfd):
    assert main(["patches", *options]) == 2
    error = capfd.readouterr().err
    assert error.startswith("lightning-cam: error: ") and words in error and error.count("\n") == 1
