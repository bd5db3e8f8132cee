"""What jumps: false alarms over simulated runs, planted changes that are found, the tail of t, and too little to tell by."""

import math

import pytest
import torch
from nets import STRICT
from plain import plain_net, watcher
from torch import nan

from lightning_cam.change.events import NoiseScale, _log_tail, is_change_point, jumps
from lightning_cam.metrics.comparison.direction import cosine_distance

pytestmark = STRICT

SIDE, N = 7, 16
Y, X = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")


class Run:
    """Maps of sixteen samples over looks: a blob each, with noise of a strength of its own, and a floor measured in turn.

    Half of them are at least twice as noisy as the other half: the standard deviation is that given times exp(0.7 e).
    """

    def __init__(self, seed: int, noise: float = 0.02) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.centres = torch.rand(N, 2, generator=self.generator) * 3 + 1.5
        self.noise = noise * torch.exp(0.7 * self.normal(N, 1, 1))
        self.last, self.turn, self.looks = self.maps(), 0, 0
        self.moved = [cosine_distance(self.last, self.maps()) for _ in range(3)]
        self.changes: list[torch.Tensor] = []

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def maps(self):
        square = (X - self.centres[:, :1, None]).square() + (Y - self.centres[:, 1:, None]).square()
        return torch.exp(-square / 4) + self.noise * self.normal(N, SIDE, SIDE)

    def look(self):
        """Which maps jumped since the last look, and whether it is a change point."""
        now = self.maps()
        self.looks += 1
        i, kind = divmod(self.turn % (3 * N), 3)
        self.moved[kind][i] = cosine_distance(now[i : i + 1], self.maps()[i : i + 1])[0]
        self.turn += 1
        self.changes.append(cosine_distance(now, self.last))
        self.last = now
        noise = NoiseScale.of(self.moved)
        return jumps(self.changes[-1], noise, self.looks), is_change_point(self.changes, noise, self.looks)


@pytest.mark.slow
def test_of_two_hundred_runs_without_a_change_at_most_one_in_twenty_has_any_event():
    alarms = 0
    for seed in range(200):
        run = Run(seed, noise=0.03)
        looks = [run.look() for _ in range(20)]
        alarms += any(bool(jumped.any()) or point for jumped, point in looks)
    assert alarms <= 10


@pytest.mark.parametrize("before", [0, 4, 14])
def test_a_map_that_moves_by_one_cell_is_found_at_that_look_nine_times_in_ten(before):
    found = others = 0
    for seed in range(100):
        run = Run(1000 + seed)
        for _ in range(before):
            run.look()
        run.centres[3, 0] += 1
        jumped, _ = run.look()
        found += bool(jumped[3])
        others += bool(jumped[:3].any() or jumped[4:].any())
    assert found >= 90
    assert others <= 5


def test_a_change_of_all_maps_is_a_change_point_and_nobodys_jump():
    found = jumped_maps = 0
    for seed in range(50):
        run = Run(2000 + seed)
        points = []
        for look in range(1, 9):
            if look == 6:
                run.centres += 1
            jumped, point = run.look()
            points.append(point)
            jumped_maps += int(jumped.sum())
        assert not any(points[:5])
        found += points == [False] * 5 + [True] + [False] * 2
    assert found >= 45
    assert jumped_maps <= 5  # of 6400


def test_the_first_five_looks_are_no_change_points():
    noise = NoiseScale(torch.full((3,), 1e-3).double().log(), 0.3, 30, 3)
    calm, moved = torch.full((3,), 1e-3), torch.full((3,), 0.9)
    for look in range(1, 8):
        assert is_change_point([*[calm] * (look - 1), moved], noise, look) == (look > 5)


@pytest.mark.parametrize("step", [0.1, 0.25, 0.5])
def test_while_all_maps_move_in_training_one_that_jumps_stands_out_and_calm_ones_do_not(step):
    found = others = 0
    for seed in range(40):
        run = Run(3000 + seed)
        for look in range(1, 7):
            run.centres += step * torch.sign(run.normal(N, 2))
            if look == 6:
                run.centres[5] += torch.where(run.centres[5] < 3, 3, -3)
            jumped, _ = run.look()
            others += int(jumped.sum()) - int(jumped[5])
        found += bool(jumped[5])
    assert found >= 36
    assert others <= 3  # of 3800


def test_a_batch_that_moves_hides_what_moves_no_more_than_the_others():
    noise = NoiseScale(torch.full((6,), 1e-4).double().log(), 0.3, 30, 3)
    change = torch.tensor([0.1, 0.12, 0.09, 0.11, 0.1, 0.13])
    assert not jumps(change, noise, 1).any()
    change[4] = 1.9
    assert jumps(change, noise, 1).tolist() == [False] * 4 + [True, False]


def test_among_maps_that_move_by_more_or_less_the_farthest_are_no_jumps():
    noise = NoiseScale(torch.full((16,), 1e-4).double().log(), 0.1, 30, 3)
    change = torch.logspace(-3, -1, 16, dtype=torch.float64)
    assert not jumps(change, noise, 1).any()


def test_less_change_than_noise_is_nothing():
    noise = NoiseScale(torch.full((4,), 0.1).double().log(), 0.3, 30, 3)
    # among maps that stay put a little noise is far from the median
    assert not jumps(torch.tensor([1e-9, 1e-9, 1e-9, 0.1]), noise, 1).any()
    assert not jumps(torch.zeros(4), noise, 1).any()
    assert not is_change_point([torch.full((4,), 1e-9)] * 6 + [torch.full((4,), 0.1)], noise, 7)


def test_the_level_is_spent_over_looks_and_maps():
    normal = torch.distributions.Normal(0, 1)
    for look, n in ((1, 4), (3, 4), (10, 16)):
        noise = NoiseScale(torch.zeros(n).double(), 1.0, 10**6, 10**6)
        level = torch.tensor(0.025 / (look * (look + 1) * n), dtype=torch.float64)
        limit = float(normal.icdf(1 - level))
        change = torch.ones(n, dtype=torch.float64)
        for t, expected in ((limit - 1e-3, False), (limit + 1e-3, True)):
            change[0] = math.exp(t)
            assert bool(jumps(change, noise, look)[0]) is expected
    assert sum(0.025 / (look * (look + 1)) for look in range(1, 10**5)) < 0.025


def test_a_change_point_of_a_long_run_has_the_level_of_its_look():
    noise = NoiseScale(torch.zeros(2).double(), 1.0, 10**6, 3)
    calm, moved = [torch.ones(2)] * 60, torch.full((2,), math.exp(5.5))
    assert is_change_point([*calm, moved], noise, 61)
    assert not is_change_point([*calm, moved], noise, 10**4)  # most of its looks are no longer kept


@pytest.mark.parametrize("freedom", [3, 4, 5, 8, 12, 20, 30, 45, 60])
def test_wallaces_tail_is_that_of_t(freedom):
    stats = pytest.importorskip("scipy.stats")
    levels = torch.tensor([0.5, 0.3, 0.1, 0.025, 1e-3, 1e-4, 1e-5, 1e-6], dtype=torch.float64)
    t = torch.tensor(stats.t.isf(levels.numpy(), freedom))
    share = _log_tail(t, freedom).exp() / levels
    assert (share < 1 + 12 / freedom**2).all()
    assert (share > 1 - 3e-3).all()  # so it hardly ever tells more than there is
    opposite = _log_tail(-t, freedom).exp()
    torch.testing.assert_close(opposite, 1 - _log_tail(t, freedom).exp(), rtol=1e-12, atol=0)
    assert _log_tail(torch.tensor([nan]), freedom).isnan().all()


def test_the_scale_is_that_of_a_table_without_its_rows_and_columns():
    torch.manual_seed(0)
    table = torch.randn(3, 6, dtype=torch.float64)
    table[:, 2] += 5
    noise = NoiseScale.of(list(table.exp()))
    rest, rows, total = 0.0, table.mean(1).tolist(), float(table.mean())
    for k in range(3):
        for i in range(6):
            rest += float(table[k, i] - table[:, i].mean() - rows[k] + total) ** 2
    assert noise.scale == pytest.approx(math.sqrt(rest / 10), rel=1e-12)
    assert (noise.freedom, noise.known) == (10, 3)
    slow = [sorted(rows)[1] + float(table[:, i].mean()) - total for i in range(6)]
    assert noise.location.tolist() == pytest.approx(slow, rel=1e-12)


def test_how_noisy_each_map_and_how_strong_each_disturbance_is_does_not_widen_it():
    torch.manual_seed(0)
    rest = 0.1 * torch.randn(3, 16, dtype=torch.float64)
    plain = NoiseScale.of(list(rest.exp()))
    apart = NoiseScale.of(list((rest + 2 * torch.arange(3)[:, None] - torch.arange(16) / 4).exp()))
    assert apart.scale == pytest.approx(plain.scale, rel=1e-9)
    assert apart.location[0] - apart.location[15] == pytest.approx(float(plain.location[0] - plain.location[15]) + 15 / 4)


def test_of_a_single_disturbance_all_that_is_between_maps_is_noise():
    values = torch.tensor([0.1, 0.2, 0.4, 0.8, nan])
    noise = NoiseScale.of([values])
    logs = [math.log(value) for value in (0.1, 0.2, 0.4, 0.8)]
    middle = sum(logs) / 4
    assert noise.scale == pytest.approx(math.sqrt(sum((value - middle) ** 2 for value in logs) / 3), rel=1e-6)
    assert (noise.freedom, noise.known) == (3, 1)
    assert noise.location.tolist() == pytest.approx([middle] * 4 + [nan], nan_ok=True, rel=1e-6)


@pytest.mark.parametrize(
    "moved",
    [
        [],
        [torch.tensor([0.1, 0.2, 0.3])],
        [torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.1])],
        [torch.tensor([0.1, 0.2, 0.3, nan, nan]), torch.tensor([nan, 0.1, 0.2, 0.4, nan])],
        [torch.full((8,), nan)] * 3,
    ],
)
def test_of_too_few_numbers_there_is_no_scale(moved):
    assert NoiseScale.of(moved) is None


def test_noise_that_is_always_the_same_still_has_a_width():
    assert NoiseScale.of([torch.full((8,), 0.1)] * 3).scale == 1e-3
    assert NoiseScale.of([torch.zeros(8)] * 3).location.exp().tolist() == pytest.approx([1e-12] * 8)


def test_what_is_not_known_is_no_event_and_hides_none():
    location = torch.tensor([1e-3, 1e-3, nan, 1e-3, 1e-3]).double().log()
    noise = NoiseScale(location, 0.3, 30, 3)
    change = torch.tensor([1e-3, nan, 0.5, 0.5, 1e-3])
    assert jumps(change, noise, 1).tolist() == [False, False, False, True, False]
    assert not jumps(torch.full((5,), nan), noise, 1).any()
    looks = [torch.full((5,), 1e-3)] * 6
    assert not is_change_point([*looks, torch.full((5,), nan)], noise, 7)
    assert is_change_point([*looks, torch.tensor([nan, 0.9, nan, 0.9, 0.9])], noise, 7)


def test_a_look_of_which_nothing_is_known_is_not_judged_by_the_look_before_it():
    noise = NoiseScale(torch.full((3,), 1e-3).double().log(), 0.3, 30, 3)
    looks = [torch.full((3,), 1e-3)] * 6 + [torch.full((3,), 0.9)]
    assert is_change_point(looks, noise, 7)
    assert not is_change_point([*looks, torch.full((3,), nan)], noise, 8)


def test_the_order_of_samples_does_not_matter():
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    run = Run(7)
    for _ in range(6):
        run.look()
    run.centres[3, 0] += 3
    jumped, point = run.look()
    noise = NoiseScale.of([values[order] for values in run.moved])
    assert torch.equal(jumps(run.changes[-1][order], noise, run.looks), jumped[order]) and jumped[3]
    assert is_change_point([change[order] for change in run.changes], noise, run.looks) == point


def test_a_run_tells_which_target_of_which_sample_jumped(tmp_path):
    jumping = []

    def planned(seen):
        heat = seen.activation.mean(1)
        marked = torch.tensor([len(jumping) == 1 and i == 5 and seen.position == 1 for i in range(len(heat))])
        return heat.where(~marked[:, None, None], -heat)

    images = torch.rand(8, 3, 8, 8)
    events, net = [], plain_net()
    watching = watcher(net, tmp_path, (images, torch.zeros(8).long()), method=planned, target=[0, 2], metrics=["drift_floor"])
    watching.observers.append(lambda result: events.append(list(result.events)))
    for step in range(5):
        if step == 3:
            jumping.append(1)
        watching.look(step)
    (event,) = events[3]
    assert (event.sample, event.target, event.moment.step) == (5, 1, 3)
    assert event.change == pytest.approx(2) and event.floor < 0.5
    assert not any(events[:3]) and not events[4]
    looks = watching.history[event.tag].looks
    assert looks[0].change is None and looks[0].jumped is None
    assert [int(look.jumped.sum()) for look in looks[1:]] == [0, 0, 1, 0]
    assert looks[3].jumped.nonzero().tolist() == [[5 * 2 + 1]]


def test_a_run_tells_that_the_whole_batch_moved_also_after_a_break(tmp_path):
    turned = []

    def planned(seen):
        heat = seen.activation.mean(1)
        return -heat if turned else heat

    data = (torch.rand(8, 3, 8, 8), torch.zeros(8).long())
    options = dict(method=planned, metrics=["drift_floor"])
    whole = watcher(plain_net(), tmp_path, data, **options)
    for step in range(6):
        whole.look(step)
    state = whole.state_dict()
    torch.save(state, tmp_path / "state.ckpt")
    resumed = watcher(plain_net(), tmp_path, data, **options)
    resumed.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True))
    turned.append(1)
    for watching in (whole, resumed):
        events = []
        watching.observers.append(lambda result, events=events: events.extend(result.events))
        watching.look(6)
        # all moved alike, and so none of them jumped
        assert [(event.sample, event.target, event.change) for event in events] == [(None, 0, pytest.approx(2))]
