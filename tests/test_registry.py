"""What is said of a function when it is registered stays with it, and what is registered can be forgotten."""

import functools

import pytest

from lightning_cam.registry import METHODS, METRICS, Entry, Registry


@pytest.fixture
def registry():
    return Registry("metric", facts=("range", "floor"))


def test_register_is_a_decorator_with_and_without_facts(registry):
    @registry.register
    def plain(heat, seen):
        return 1.0

    @registry.register()
    def called(heat, seen):
        return 2.0

    @registry.register(range=(0.0, 1.0), floor=0.5)
    def told(heat, seen):
        return 3.0

    assert registry.names() == ["plain", "called", "told"]
    assert [registry.find(name).function(None, None) for name in registry.names()] == [1.0, 2.0, 3.0]
    assert [registry.find(name).facts for name in registry.names()] == [{}, {}, {"range": (0.0, 1.0), "floor": 0.5}]


def measured(heat, seen, *, above=0.0):
    """How much."""
    return above


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("measured", "measured"),
        (f"{__name__}.measured", "measured"),
        (measured, "measured"),
        ({"measured": None}, "measured"),
        ({"measured": {"above": 2.0}}, "measured_2.0"),
        (functools.partial(measured, above=3.0), "measured_3.0"),
    ],
)
def test_facts_are_kept_however_the_function_is_named_and_when_options_are_bound(registry, spec, label):
    registry.register(range=(0.0, None))(measured)
    entry = registry.find(spec)
    assert entry.label == label
    assert entry.facts == {"range": (0.0, None)}
    assert registry.find(entry) is entry


def test_facts_belong_to_the_function_and_not_to_its_name(registry):
    registry.register(floor=0.0)(measured)

    def other(heat, seen):
        return 0.0

    other.__name__ = "measured"
    assert registry.find(other).facts == {}
    registry.register(other)  # the same name again
    assert registry.find("measured").facts == {}


def test_an_entry_cannot_change_what_is_registered(registry):
    registry.register(floor=0.0)(measured)
    registry.find("measured").facts["floor"] = 9.0
    assert registry.find("measured").facts == {"floor": 0.0}


def test_an_entry_without_facts_has_none_and_can_be_a_key():
    assert Entry("label", measured).facts == {}
    assert {Entry("label", measured, {"floor": 0.0}): 1}


def test_unknown_facts_are_refused_and_known_ones_named(registry):
    with pytest.raises(TypeError, match=r"A metric has no fact 'flor'\. Did you mean 'floor'\? It takes: range, floor\."):
        registry.register(flor=1.0)
    with pytest.raises(TypeError, match=r"A method has no fact 'range'\. It takes: none\."):
        METHODS.register(range=(0, 1))
    assert registry.names() == []


def test_metrics_take_range_direction_and_floor():
    def nothing(heat, seen):
        return heat.flatten(1).sum(1)

    METRICS.register(range=(0.0, 1.0), higher_is_better=True, floor=0.5)(nothing)
    assert METRICS.find("nothing").facts == {"range": (0.0, 1.0), "higher_is_better": True, "floor": 0.5}
    METRICS.unregister("nothing")
    assert "nothing" not in METRICS.names()


def test_what_is_registered_can_be_forgotten(registry):
    registry.register(floor=0.0)(measured)

    @registry.wrapper
    def twice(metric):
        return lambda heat, seen: 2 * metric(heat, seen)

    registry.unregister("measured")
    registry.unregister("twice")
    assert registry.names() == registry.wrappers() == []
    assert registry.find(measured).facts == {}
    with pytest.raises(ValueError, match="No metric 'measured'"):
        registry.find("measured")
    with pytest.raises(ValueError, match="No metric 'twice'"):
        registry.unregister("twice")
