"""The filmstrip's memory: what is kept, what is shown, and how it survives a checkpoint."""

import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import inf, nan

from lightning_cam.heat import condense
from lightning_cam.training.history import History

MIB = 2**20


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


# how large, and how exact


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(*heats):
    """What comes back of condensed maps."""
    history = History()
    for i, heat in enumerate(heats):
        history.add(str(i), condense(heat), 0.0, 1.0)
    return history.heats


def size_of(history):
    buffer = io.BytesIO()
    torch.save(history.state_dict(), buffer)
    return buffer.tell()


@pytest.mark.parametrize(
    "shape",
    [
        (224, 224),
        (50000,),
        (32, 112, 112),
        (32, 32),
        (16, 32),
        (1024,),
        (8, 8, 8),
        (31, 33),
        (1, 1024),
        (512,),
        (1, 50000),
        (4, 224, 224),
    ],
)
def test_a_checkpoint_grows_by_four_mebibytes_at_most(shape):
    history, heat, classes = History(), condense(normal(16, *shape)), torch.arange(16)
    for i in range(64):
        history.add(str(i), heat + i, 0.0, 1.0, classes)
    assert len(history.looks) == 64
    assert size_of(history) < 4 * MIB
    for i in range(64, 70):
        history.add(str(i), heat + i, 0.0, 1.0, classes)
    assert size_of(history) < 4 * MIB
    assert {look.heat.device.type for look in history.looks} == {"cpu"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(512,), (16, 32), (22, 23), (8, 8, 8), (1, 1), (7, 7)])
def test_maps_of_up_to_512_cells_are_kept_to_the_bit(shape, dtype):
    heat = normal(3, *shape).to(dtype)
    heat[1] = nan
    (kept,) = stored(heat)
    assert kept.dtype == torch.float32 and kept.shape == heat.shape
    assert torch.equal(kept.nan_to_num(7.0), heat.float().nan_to_num(7.0))
    assert kept[1].isnan().all() and kept[[0, 2]].isfinite().all()


@pytest.mark.parametrize("unit", [1.0, 1e9, 1e-9, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(513,), (32, 32), (27, 19), (9, 9, 9), (1024,)])
def test_larger_maps_are_kept_to_a_thousandth_of_their_maximum(shape, unit):
    heat = normal(3, *shape) * unit
    (kept,) = stored(heat)
    assert kept.dtype == torch.float32
    off = (kept - heat).abs().max() / heat.abs().max()
    assert 0 < off < 1e-3  # half precision, so that the sizes above hold


def test_larger_maps_of_zeros_and_of_absent_targets_stay_what_they_are():
    zeros, absent = torch.zeros(2, 32, 32), torch.full((2, 32, 32), nan)
    assert torch.equal(stored(zeros)[0], zeros)
    assert stored(absent)[0].isnan().all()
    mixed = torch.cat([normal(1, 32, 32) * 1e9, absent[:1], zeros[:1]])
    (kept,) = stored(mixed)
    assert kept.isnan().flatten(1).all(1).tolist() == [False, True, False]
    assert torch.equal(kept[2], zeros[0])
    assert (kept[0] - mixed[0]).abs().max() < 1e-3 * mixed[0].abs().max()
    infinite = normal(1, 32, 32)
    infinite[0, 3, 4], infinite[0, 5, 6] = inf, -inf
    (kept,) = stored(infinite)
    assert torch.equal(kept.isinf(), infinite.isinf()) and kept[0, 3, 4] == inf and kept[0, 5, 6] == -inf
    finite = infinite.isfinite()
    assert (kept - infinite)[finite].abs().max() < 1e-3 * infinite[finite].abs().max()


def test_what_is_kept_of_a_fine_map_is_its_averages():
    heat = normal(2, 224, 160)
    (kept,) = stored(heat)
    expected = F.adaptive_avg_pool2d(heat[:, None], (37, 27))[:, 0]
    assert kept.shape == expected.shape
    assert (kept - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("shape", [(7, 7), (32, 32)])
def test_the_state_of_large_and_small_maps_comes_back_to_the_bit(shape):
    history = History()
    for i in range(3):
        history.add(str(i), normal(2, *shape, seed=i) * 10**i, -float(i), float(i))
        history.rate(float(i == 1), higher_is_better=True)
    buffer = io.BytesIO()
    torch.save(history.state_dict(), buffer)
    buffer.seek(0)
    again = History.of(torch.load(buffer, weights_only=True))
    assert (again.titles, again.lowest, again.highest, again.best) == (["0", "1", "2"], -2.0, 2.0, 1)
    assert all(torch.equal(a, b) for a, b in zip(again.heats, history.heats, strict=True))
    again.rate(0.5, higher_is_better=True)  # the best value came back too
    assert again.best == 1


def test_a_state_of_the_first_layout_still_loads():
    fine, coarse = [normal(2, 64, 64, seed=i) for i in range(3)], [normal(2, 7, 7, seed=i) for i in range(3)]
    for heats in (fine, coarse):
        old = {"titles": ["start", "1", "2"], "places": [0, 4, 9], "heats": heats, "extremes": [-3.0, 5.0]}
        history = History.of(old)
        assert history.titles == ["start", "1", "2"] and [look.place for look in history.looks] == [0, 4, 9]
        assert (history.lowest, history.highest, history.best) == (-3.0, 5.0, None)
        for kept, heat in zip(history.heats, heats, strict=True):
            expected = condense(heat)
            assert kept.shape == expected.shape
            assert (kept - expected).abs().max() <= (1e-3 * expected.abs().max() if heats is fine else 0)
        history.add("3", condense(heats[0]), -4.0, 1.0)
        assert [look.place for look in history.looks] == [0, 4, 9, 10] and history.lowest == -4.0
        history.rate(0.1, higher_is_better=True)
        assert history.best == 10


# the best


def rated(values, higher_is_better, looks=None):
    """A history whose looks were given these values."""
    history = History()
    for i in range(looks or len(values)):
        history.add(str(i), torch.full((1, 2, 2), float(i)), 0.0, 1.0)
        if i < len(values):
            history.rate(values[i], higher_is_better)
    return history


@pytest.mark.parametrize(
    ("values", "highest", "lowest"),
    [
        ([1.0, 3.0, 2.0], 1, 0),
        ([3.0, 3.0, 3.0], 0, 0),
        ([nan, 2.0, 5.0], 2, 1),
        ([2.0, nan, 1.0], 0, 2),
        ([nan, nan], None, None),
        ([-1.0, -3.0, -2.0], 0, 1),
        ([1.0, inf, 2.0], 1, 0),
    ],
)
def test_the_best_look_is_that_of_the_best_value_by_its_direction(values, highest, lowest):
    assert rated(values, True).best == highest
    assert rated(values, False).best == lowest


def test_without_a_look_there_is_nothing_to_rate():
    history = History()
    history.rate(1.0, True)
    assert history.best is None


@pytest.mark.parametrize("place", [1, 5, 31, 33])
def test_the_best_look_is_never_dropped(place):
    history = rated([float(i == place) for i in range(place + 1)], True, looks=1000)
    assert len(history.looks) == 64 and history.best == place
    present = history.looks[-1].values
    best = history.earlier(0, present.unflatten(0, (-1, 1))).best
    assert best is not None and best.unique().tolist() == [place]
    assert rated([], True, looks=1000).best is None
    assert str(place) in history.titles and history.titles[0] == "0" and history.titles[-1] == "999"


def test_a_look_that_would_be_dropped_is_not_kept_without_being_the_best():
    titles = rated([], True, looks=1000).titles
    assert not {"1", "5", "31", "33"} <= set(titles)


def test_earlier_looks_are_those_before_the_last_by_target():
    history = History()
    assert history.earlier(0, torch.zeros(3, 2, 2, 2)).now is None
    heats = [normal(6, 2, 2, seed=i) for i in range(4)]  # three samples, two targets each
    for i, heat in enumerate(heats):
        history.add(str(i), heat, 0.0, 1.0)
        for position in (0, 1):
            earlier, past = history.earlier(position, heat.reshape(3, 2, 2, 2).double()), heats[:i]
            assert earlier.now.dtype == torch.float64  # as the maps of now are
            assert torch.equal(earlier.now, heat.reshape(3, 2, 2, 2)[:, position].double())
            if not past:
                assert (earlier.baseline, earlier.previous, earlier.best) == (None, None, None)
                continue
            assert torch.equal(earlier.baseline, past[0].reshape(3, 2, 2, 2)[:, position].double())
            assert torch.equal(earlier.previous, past[-1].reshape(3, 2, 2, 2)[:, position].double())
            assert torch.equal(earlier.best, past[min(i - 1, 1)].reshape(3, 2, 2, 2)[:, position].double())
        history.rate([1.0, 3.0, 2.0, 4.0][i], True)


# of which class


def explained(*classes, shape=(3, 3)):
    """A history of looks at three samples that explained these classes."""
    history = History()
    for i, row in enumerate(classes):
        history.add(str(i), normal(len(row), *shape, seed=i), 0.0, 1.0, torch.tensor(row))
        history.rate(float(i == 1), True)
    return history


def absent(heat):
    return heat.flatten(1).isnan().all(1).tolist()


@pytest.mark.parametrize("shape", [(9,), (3, 3), (27, 36), (2, 3, 4)])
def test_a_map_of_another_class_than_now_is_handed_over_as_nan(shape):
    looks = [[0, 1, 2], [0, 5, 2], [4, 1, 2], [0, 1, 7]]
    earlier = explained(*looks, shape=shape).earlier(0, torch.zeros(3, 1, *shape))
    plain = explained(*[[0, 0, 0]] * 4, shape=shape).earlier(0, torch.zeros(3, 1, *shape))
    for name, expected in (("baseline", [0, 0, 1]), ("best", [0, 1, 1]), ("previous", [1, 0, 1]), ("now", [0, 0, 0])):
        heat, whole = getattr(earlier, name), getattr(plain, name)
        assert absent(heat) == [bool(other) for other in expected], name
        assert torch.equal(heat[~torch.tensor(absent(heat))], whole[~torch.tensor(absent(heat))])


def test_each_target_is_of_its_own_class():
    history = explained([0, 1, 2, 3, 4, 5], [0, 1, 2, 9, 9, 5])  # three samples of two targets each
    like = torch.zeros(3, 2, 3, 3)
    assert absent(history.earlier(0, like).baseline) == [False, False, True]
    assert absent(history.earlier(1, like).baseline) == [False, True, False]


def test_what_is_of_no_class_or_of_one_not_known_is_compared():
    history = explained([-1, -1, 2], [-1, 3, -1])
    assert absent(history.earlier(0, torch.zeros(3, 1, 3, 3)).baseline) == [False] * 3
    untold = run(2, (3, 3, 3))
    assert absent(untold.earlier(0, torch.zeros(3, 1, 3, 3)).baseline) == [False] * 3


def test_classes_survive_a_checkpoint_and_one_without_them_still_loads():
    history, like = explained([0, 1, 2], [0, 5, 2]), torch.zeros(3, 1, 3, 3)
    buffer = io.BytesIO()
    torch.save(history.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert absent(History.of(state).earlier(0, like).baseline) == [False, True, False]
    del state["classes"]
    old = History.of(state)
    assert absent(old.earlier(0, like).baseline) == [False] * 3
    old.add("2", normal(3, 3, 3), 0.0, 1.0, torch.tensor([0, 1, 2]))
    old.add("3", normal(3, 3, 3), 0.0, 1.0, torch.tensor([1, 1, 2]))
    assert absent(old.earlier(0, like).baseline) == [False] * 3  # nothing is known of it
    assert absent(old.earlier(0, like).previous) == [True, False, False]
    assert [look.classes.tolist() for look in History.of(old.state_dict()).looks] == [[-1] * 3, [-1] * 3, [0, 1, 2], [1, 1, 2]]


def test_cleared_it_knows_nothing():
    history = rated([1.0, 2.0], True)
    history.clear()
    assert (history.looks, history.best, history.lowest, history.highest) == ([], None, inf, -inf)
    history.add("0", torch.zeros(1, 2, 2), 0.0, 0.0)
    history.rate(0.5, True)  # less than what was best before
    assert history.best == 0
