"""Class names of any form."""

import json

import pytest

from lightning_cam.data.class_names import class_index, class_name, read_class_names


@pytest.mark.parametrize(
    "held",
    [["a", "b"], {"0": "a", "1": "b"}, {"0": ["n1", "a"], "1": ["n2", "b"]}, {"a": 0, "b": 1}, [["n1", "a"], ["n2", "b"]]],
)
def test_class_names_are_read_in_every_form(tmp_path, held):
    (tmp_path / "names.json").write_text(json.dumps(held))
    names = read_class_names(tmp_path / "names.json")
    assert names == {0: "a", 1: "b"} and class_index("B", names) == 1 and class_name(2, names) == "class 2"


@pytest.mark.parametrize("held", [[], {}, 3, [1, 2], {"a": "b"}, [[]], None])
def test_files_without_class_names_are_told(tmp_path, held):
    (tmp_path / "names.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match="holds no class names, expected JSON"):
        read_class_names(tmp_path / "names.json")
