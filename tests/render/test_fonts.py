"""Class names of any script are drawn in a font that has their letters, or it is said which letters no font has."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from lightning_cam import Style, figures, render
from lightning_cam.figures.filmstrip import Columns
from lightning_cam.render import fonts, text
from lightning_cam.render.text import strips
from lightning_cam.render.typesetting import clip, typeset

SYSTEM = fonts.folders()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is all there is of the system's fonts."""
    monkeypatch.setattr(fonts, "folders", lambda: [tmp_path / "fonts"])
    (tmp_path / "fonts" / "truetype").mkdir(parents=True)
    text.forget()
    yield tmp_path / "fonts" / "truetype"
    text.forget()


@pytest.fixture
def with_dejavu(folder):
    """The same with DejaVu Sans in it: Greek, Cyrillic and Arabic letters, and none of East Asia."""
    files = [file for place in SYSTEM for file in place.rglob("DejaVuSans.ttf")]
    if not files:
        pytest.skip("DejaVu Sans is not installed")
    shutil.copy(files[0], folder)
    return str(folder / "DejaVuSans.ttf")


def test_letters_that_no_font_has_are_code_points_and_a_warning_says_what_to_write(folder):
    message = (
        r"No font of this system has the letters '日本' of '日本 93%'; they are drawn as code points. "
        r"Install a font that has them, or name its file: Style\(font=\"/path/to/NotoSansCJK-Regular.ttc\"\)\."
    )
    with pytest.warns(UserWarning, match=message):
        assert typeset("日本 93%", 18, None).text == "U+65E5 U+672C 93%"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("แมว", "NotoSansThai"),
        ("बिल्ली", "NotoSansDevanagari"),
        ("猫", "NotoSansCJK"),
        ("кот", "NotoSans-"),
        ("😺", "NotoSansSymbols"),
    ],
)
def test_the_warning_names_a_font_of_the_script(folder, name, file):
    with pytest.warns(UserWarning, match=f"/path/to/{file}"):
        assert "?" not in typeset(name, 18, None).text


def test_a_script_is_warned_of_once(folder):
    with pytest.warns(UserWarning) as caught:
        for name in ("日本", "中国 12%", "日中", "кошка", "日本"):
            strips([render.Caption(name)], 300, 18, None)
    assert len(caught) == 2
    text.forget()
    with pytest.warns(UserWarning, match="日本"):
        strips([render.Caption("日本")], 300, 18, None)


@pytest.mark.filterwarnings("ignore:No font of this system")
def test_letters_that_no_font_has_stand_apart_from_the_others(folder):
    assert typeset("a日b", 18, None).text == "a U+65E5 b"
    assert typeset("Bär · 日, 12%", 18, None).text == "Bar · U+65E5 , 12%"
    assert typeset("\u0301", 18, None).text == "\u0301"  # nothing but an accent does not vanish
    first, second = strips([render.Caption("日"), render.Caption("本")], 300, 18, None)
    assert not torch.equal(first, second)


def test_a_font_of_the_system_draws_what_pillows_own_lacks(with_dejavu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        line = typeset("кошка 93%", 18, None)
    assert line.text == "кошка 93%"
    assert [face.path for _, face in line.pieces] == [with_dejavu]
    assert typeset("cat 93%", 18, None).face is typeset("cat 93%", 18, None).pieces[0][1]


def test_each_piece_is_drawn_in_a_font_that_has_it(with_dejavu):
    with pytest.warns(UserWarning, match="'日' of 'кот 日 cat'"):
        line = typeset("кот 日 cat", 18, None)
    assert [piece for piece, _ in line.pieces] == ["кот", " U+65E5 cat"]
    assert line.pieces[0][1].path == with_dejavu
    assert line.pieces[1][1] is line.face
    for width in range(20, 150, 10):
        cut = clip(line, width)
        assert cut.length <= width
        assert cut.text == line.text or cut.text.endswith("...")


def test_the_users_font_comes_first(with_dejavu, folder, tmp_path):
    own = str(shutil.copy(with_dejavu, tmp_path / "own.ttf"))
    assert [face.path for _, face in typeset("кошка 93%", 18, own).pieces] == [own]
    assert [face.path for _, face in typeset("cat", 18, own).pieces] == [own]


def test_a_file_that_is_no_font_is_passed_over(with_dejavu, folder):
    (folder / "NotoSans-Regular.ttf").write_text("no font")
    text.forget()
    assert Path(fonts.installed()[0]).name == "NotoSans-Regular.ttf"
    assert typeset("кот", 18, None).pieces[0][1].path == with_dejavu


def test_fonts_are_found_by_name_and_ranked_without_being_opened(folder):
    named = ["wqy-zenhei.ttc", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "NotoSans-Regular.ttf", "MSGOTHIC.TTC"]
    for name in [*named, "NotoSans-Bold.ttf", "DejaVuSansMono.ttf", "NotoSans-Regular.txt"]:
        (folder / name).touch()
    ranked = [named[i] for i in (3, 1, 4, 2, 0)]
    assert [Path(file).name for file in fonts.installed()] == ranked


def test_names_that_the_own_font_has_look_for_no_other(folder, monkeypatch):
    def searched():
        raise AssertionError("fonts were searched")

    monkeypatch.setattr(fonts, "folders", searched)
    assert [typeset(name, 18, None).text for name in ("cat", "cat 5% · #3")] == ["cat", "cat 5% · #3"]


def test_accents_are_drawn_where_a_font_has_them(with_dejavu):
    line = typeset("Bär · 93%", 18, None)
    assert line.text == "Bär · 93%"
    assert len(line.pieces) == 1 and line.pieces[0][1] is not line.face


def test_accents_that_no_font_has_are_dropped(folder):
    assert [typeset(name, 18, None).text for name in ("Bär · 93%", "Chloé 5%")] == ["Bar · 93%", "Chloe 5%"]


def test_every_page_draws_names_of_other_scripts(with_dejavu):
    pictures = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    heat = torch.zeros(1, 2, 4, 4)
    pages = []
    for name in ("кот", "κατ"):
        title = (f"{name} a", f"{name} b")
        words = [render.Caption(name)] * 2
        sheet = figures.sheet(pictures, heat[0], words, title, Style(tile=64))
        strip = figures.filmstrip(pictures, Columns([name], heat, torch.ones(1, 2)), [name] * 2, title, Style(tile=64))
        pages.append((sheet, strip))
    assert not torch.equal(pages[0][0], pages[1][0])
    assert pages[0][1].shape[0] == 3
