"""What of a run's history its pages are given."""

import torch

from lightning_cam.training.history import History
from lightning_cam.training.reporter import run_columns


def grown(looks, classes):
    """A run of two maps that are as strong as their look's number, counted from 1."""
    history = History()
    for i in range(looks):
        history.add(str(i), torch.full((2, 3, 3), i + 1.0), 0.0, i + 1.0, torch.tensor(classes[i]))
    return history


def test_the_baseline_is_the_first_look_whatever_columns_are_shown():
    columns = run_columns(grown(9, [[0, 1]] * 9), 3)
    assert list(columns.titles) == ["0", "4", "8"]
    assert columns.baseline.unique().tolist() == [1.0] and columns.heats[-1].unique().tolist() == [9.0]
    assert columns.jumps is None


def test_there_is_no_baseline_at_the_first_look_nor_outside_a_run():
    assert run_columns(grown(1, [[0, 1]]), 8).baseline is None
    assert run_columns(None, 8) is None


def test_a_map_of_another_class_is_no_baseline():
    columns = run_columns(grown(2, [[0, 1], [0, 2]]), 8)
    assert columns.baseline[0].unique().tolist() == [1.0] and bool(columns.baseline[1].isnan().all())
    assert run_columns(grown(2, [[0, -1], [0, 2]]), 8).baseline[1].unique().tolist() == [1.0]  # not known
