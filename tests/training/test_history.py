"""The filmstrip's memory: what is kept, what is shown, and how it survives a checkpoint."""

import io
import itertools

import torch

from lightning_cam.training.history import History


def run(looks, shape=(2, 3, 3)):
    history = History()
    for i in range(looks):
        history.add("start" if i == 0 else str(i), torch.full(shape, float(i)), float(i), float(i))
    return history


def shown(history, columns):
    return [history.titles[i] for i in history.spread(columns)]


def test_a_short_run_is_shown_whole():
    assert shown(run(5), 8) == ["start", "1", "2", "3", "4"]


def test_a_long_run_is_spread_evenly_from_the_baseline_to_now():
    assert shown(run(15), 8) == ["start", "2", "4", "6", "8", "10", "12", "14"]
    assert shown(run(30), 4) == ["start", "10", "19", "29"]


def test_a_very_long_run_keeps_baseline_and_end_and_stays_small():
    history = run(1000)
    assert len(history.heats) == 64
    assert (history.titles[0], history.titles[-1]) == ("start", "999")
    steps = [0 if t == "start" else int(t) for t in shown(history, 8)]
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert max(gaps) < 2.5 * min(gaps)
    assert (history.lowest, history.highest) == (0.0, 999.0)  # the extremes of looks no longer kept still count


def test_maps_of_another_shape_begin_anew():
    history = run(3)
    history.add("3", torch.zeros(4, 3, 3), 0.0, 0.5)
    assert history.titles == ["3"]
    assert history.highest == 0.5


def test_state_survives_a_safe_checkpoint():
    buffer = io.BytesIO()
    torch.save(run(4).state_dict(), buffer)
    buffer.seek(0)
    again = History.of(torch.load(buffer, weights_only=True))
    assert again.titles == run(4).titles
    assert all(torch.equal(a, b) for a, b in zip(again.heats, run(4).heats, strict=True))
    assert (again.lowest, again.highest) == (0.0, 3.0)
