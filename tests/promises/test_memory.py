"""What stays in memory: nothing of a look, and of the history no more than is shown."""

import functools
import gc
import itertools

import pytest
import torch
from nets import BOXES, STRICT, Recorder, cam, fit, loader

pytestmark = STRICT

CACHED = type(functools.cache(str))


def clear_caches():
    """Forget set type and the like, which is of bounded number."""
    for function in [o for o in gc.get_objects() if type(o) is CACHED]:
        if function.__module__.startswith("lightning_cam"):
            function.cache_clear()


def growth(folder, callback, looks=(10, 30)):
    """How many more tensors live after the second of two looks than after the first."""

    def live(run, model):
        if run.current_epoch + 1 not in looks:
            return None
        clear_caches()
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    counts, data = Recorder(live, "on_train_epoch_end"), dict(form="dict")
    fit(folder, [callback, counts], train=loader(4, size=4, **data), val=loader(3, **data), max_epochs=looks[-1])
    first, second = (count for count in counts.kept if count is not None)
    return second - first


@pytest.mark.slow
def test_memory_does_not_grow_over_many_looks(tmp_path):
    callback = cam(method=["grad_cam", "cam"], batch=BOXES)
    assert growth(tmp_path, callback) <= 5 * 2 * 20  # maps, their base, classes, change and jumps: a look and method


def test_the_check_of_memory_catches_maps_that_are_kept(tmp_path):
    kept: list = []

    def hoard(seen):
        kept.append(seen)
        return seen.gradient.mean(1)

    assert growth(tmp_path, cam(method=hoard), (5, 10)) > 2 * 2 * 5


def test_a_history_keeps_at_most_64_looks_the_first_and_the_last_among_them():
    from lightning_cam.training.history import History

    history = History()
    for i in range(300):
        history.add(str(i), torch.full((1, 2, 2), float(i)), float(i), float(i))
    assert len(history.heats) == len(history.titles) == len(history.looks) == 64
    assert history.titles[0] == "0" and history.titles[-1] == "299" and history.highest == 299
    places = [look.place for look in history.looks]
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert max(gaps) <= 8 and [str(place) for place in places] == history.titles
    assert [history.titles[i] for i in history.spread(2)] == ["0", "299"] and len(history.spread(8)) == 8


def test_nothing_stays_on_the_callback_after_a_run(tmp_path):
    callback = cam()
    fit(tmp_path, callback)
    assert callback.watcher.batch is None and callback.watcher.layer_names == []
