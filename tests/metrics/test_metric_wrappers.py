"""Metrics made from metrics: the random-map control, and those measured at some looks only."""

import pytest
import torch
from nets import STRICT, Net, cam, fit, loader, trainer
from plain import plain_net, watcher
from traces import random_states

from lightning_cam import metrics
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.model.trace import Calls
from lightning_cam.registry import METRICS, Registry

pytestmark = STRICT

NOTHING = Seen(Forward(None, torch.zeros(1, 1), None, None, {}, Calls()), "layer")


def permuted(heat, **options):
    """The map that a control is measured of."""
    handed = []

    def metric(heat, seen):
        handed.append(heat)
        return heat.flatten(1).sum(1)

    metrics.control(metric, **options)(heat, NOTHING)
    return handed[0]


# the control


@pytest.mark.parametrize("cells", [(40,), (7, 6), (3, 4, 5)])
def test_the_control_has_every_sample_s_own_cells_at_other_places(cells):
    heat = torch.randn(3, *cells)
    before = random_states()
    shuffled = permuted(heat)
    assert shuffled.shape == heat.shape and random_states() == before
    assert torch.equal(shuffled.flatten(1).sort(1).values, heat.flatten(1).sort(1).values)
    assert (shuffled != heat).flatten(1).float().mean() > 0.8
    assert torch.equal(permuted(heat), shuffled)  # at every look
    assert torch.equal(permuted(heat[:2]), shuffled[:2])  # however many follow
    assert not torch.equal(permuted(heat, seed=1), shuffled)
    places = permuted(torch.arange(42.0).reshape(1, 7, 6).expand(2, 7, 6).clone())
    assert not torch.equal(places[0], places[1])  # samples have orders of their own


def test_a_control_is_found_by_name_and_says_what_holds_for_it():
    entry = METRICS.find({"control": {"metric": {"energy_inside": {"region": "a"}}, "seed": 2}})
    assert entry.label == "control_energy_inside_a_2"
    inner = METRICS.find("energy_inside").facts
    assert entry.facts == {fact: inner[fact] for fact in ("range", "cost") if fact in inner}
    assert METRICS.find({"control": {"metric": "average_drop"}}).facts == {
        "range": (0.0, 1.0),
        "cost": METRICS.find("average_drop").facts["cost"],
    }
    assert METRICS.find({"control": {"metric": lambda heat, seen: heat}}).facts == {}
    with pytest.raises(ValueError, match="control wraps another metric"):
        METRICS.find("control")


def test_a_control_never_says_which_look_is_the_best(tmp_path):
    watching = watcher(plain_net(), tmp_path, metrics=[{"control": {"metric": "average_drop"}}])
    watching.look(0)
    assert watching.history["relu/grad_cam"].best is None


def test_a_control_is_the_metric_of_the_permuted_map(tmp_path):
    def by_hand(heat, seen):
        return metrics.average_drop(permuted(heat, seed=4), seen)

    specs = ["average_drop", {"control": {"metric": "average_drop", "seed": 4}}, by_hand]
    (record,) = watcher(plain_net(), tmp_path, metrics=specs).look(0)
    drop, controlled, wanted = (values.nan_to_num(-1) for values in record.values.values())
    assert torch.equal(controlled, wanted) and not torch.equal(controlled, drop) and (wanted > 0).any()


def test_registered_wrappers_keep_the_facts_they_name():
    registry = Registry("metric", facts=("range", "floor"))

    @registry.register(range=(0.0, 1.0), floor=0.5)
    def plain(heat, seen):
        return heat

    def twice(metric):
        return lambda heat, seen: 2 * metric(heat, seen)

    registry.wrapper(twice)
    assert registry.find({"twice": {"metric": "plain"}}).facts == {}
    registry.wrapper(twice, keeps=("floor",))
    assert registry.find({"twice": {"metric": "plain"}}).facts == {"floor": 0.5}
    assert registry.find({"twice": {"metric": {"twice": {"metric": "plain"}}}}).facts == {"floor": 0.5}


# at some looks only


class Counting:
    """A metric that counts how often it is asked."""

    __name__ = "counting"

    def __init__(self):
        self.asked = 0

    def __call__(self, heat, seen):
        self.asked += 1
        return torch.full((len(heat),), float(self.asked))


def test_a_metric_is_measured_at_every_nth_look_and_has_no_number_at_the_others(tmp_path):
    counting = Counting()
    watching = watcher(plain_net(), tmp_path, metrics=[{"every": {"metric": counting, "n": 3}}, "complexity"])
    names = [set(watching.look(step)[0].values) for step in range(8)]
    assert [("every_counting_3" in found) for found in names] == [True, False, False, True, False, False, True, False]
    assert all("complexity" in found for found in names) and counting.asked == 3


def test_a_resumed_run_goes_on_counting(tmp_path):
    net, spec = plain_net(), [{"every": {"metric": "complexity", "n": 2}}]
    first = watcher(net, tmp_path, metrics=spec)
    first.look(0)
    second = watcher(net, tmp_path, metrics=spec)
    second.load_state_dict(first.state_dict())
    assert [len(second.look(step)[0].values) for step in (1, 2, 3)] == [0, 1, 0]


def test_looks_are_counted_also_where_a_long_run_s_maps_are_dropped(tmp_path, monkeypatch):
    from lightning_cam.training import history

    monkeypatch.setattr(history, "_MOST_LOOKS", 3)
    watching = watcher(plain_net(), tmp_path, metrics=[{"every": {"metric": "complexity", "n": 4}}])
    assert [len(watching.look(step)[0].values) for step in range(9)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_in_a_trainer_the_number_is_that_of_the_last_look_that_had_one(tmp_path):
    counting = Counting()
    run = fit(tmp_path, cam(metrics=[{"every": {"metric": counting, "n": 2}}], on_error="raise"), max_epochs=3)
    assert counting.asked == 2  # looks 0 and 2 of four
    assert run.callback_metrics["cam/every_counting_2"] == 2


def test_outside_a_fit_it_is_measured(tmp_path):
    callback = cam(metrics=[{"every": {"metric": "complexity", "n": 7}}], on_error="raise")
    run = trainer(tmp_path, [callback])
    run.validate(Net(), loader(), verbose=False)
    assert run.callback_metrics["cam/every_complexity_7"].isfinite()
    assert "cam/every_complexity_7_defined" not in run.callback_metrics


def test_every_keeps_the_direction_and_can_be_controlled():
    facts = METRICS.find("road").facts
    assert METRICS.find({"every": {"metric": "road"}}).facts == {name: facts[name] for name in facts if name != "floor"}
    entry = METRICS.find({"every": {"metric": {"control": {"metric": "road"}}, "n": 5}})
    assert entry.label == "every_control_road_5"
    with pytest.raises(ValueError, match=r"every\(n=0\): expected .* such as n=5"):
        METRICS.find({"every": {"metric": "road", "n": 0}})
    assert METRICS.find({"every": {"metric": "road", "n": 5}}).label == "every_road_5"
