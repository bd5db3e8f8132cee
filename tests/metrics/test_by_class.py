"""Metrics by class: exact means, who belongs to which class, and tags that loggers take."""

import math
import re

import pytest
import torch
from run_records import HOSTILE, made_record
from torch import nan

from lightning_cam import metrics
from lightning_cam.record import Predictions


def record(labels, explained, **values):
    """A Record of samples of these labels, whose targets explain these classes."""
    labels, explained = torch.tensor(labels), torch.tensor(explained)
    b, t = explained.shape
    told = Predictions(explained, torch.zeros(b, t), labels, torch.zeros(b), labels)
    values = {name: torch.tensor(value) for name, value in values.items()}
    return made_record(b, t, full=False, predictions=told, values=values)


def test_each_class_has_the_mean_of_its_samples():
    made = record([1, 0, 1, 1], [[1], [0], [1], [1]], drift=[[1.0], [4.0], [2.0], [6.0]], gini=[[0.5]] * 4)
    assert metrics.by_class(made, ["cat", "dog", "owl"]) == {
        **{"drift/cat": 4.0, "drift/dog": 3.0},
        **{"gini/cat": 0.5, "gini/dog": 0.5},
    }


def test_undefined_values_are_left_out_and_a_class_of_nothing_else_is_nan():
    made = record([0, 0, 1, 1], [[0], [0], [1], [1]], drift=[[nan], [2.0], [nan], [torch.inf]])
    found = metrics.by_class(made, ["cat", "dog"])
    assert found["drift/cat"] == 2.0 and math.isnan(found["drift/dog"])


def test_the_label_says_the_class_and_without_one_the_class_explained_of_each_target():
    values = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    made = record([0, -1, -1], [[7, 8], [1, 0], [1, -1]], drift=values)
    # the first by its label, with both targets; of the last target nothing is known
    assert metrics.by_class(made) == {"drift/class_0": (1 + 2 + 4) / 3, "drift/class_1": (3 + 5) / 2}


def test_nothing_known_and_nothing_measured_give_nothing():
    assert metrics.by_class(record([-1], [[-1]], drift=[[1.0]])) == {}
    assert metrics.by_class(record([0], [[0]])) == {}


@pytest.mark.parametrize("seed", range(20))
def test_they_are_those_of_a_loop_over_samples_and_targets(seed):
    own = torch.Generator().manual_seed(seed)
    b, t = 12, 3
    labels = torch.randint(-1, 4, (b,), generator=own)
    explained = torch.randint(-1, 6, (b, t), generator=own)
    value = torch.randn(b, t, generator=own)
    value[torch.rand(b, t, generator=own) < 0.3] = nan
    found = metrics.by_class(record(labels.tolist(), explained.tolist(), drift=value.tolist()), ["a", "b"])
    groups: dict[str, list[float]] = {}
    for i in range(b):
        for j in range(t):
            c = int(labels[i]) if labels[i] >= 0 else int(explained[i, j])
            if c >= 0:
                groups.setdefault(f"drift/{['a', 'b'][c] if c < 2 else f'class_{c}'}", []).append(float(value[i, j]))
    assert set(found) == set(groups)
    for name, group in groups.items():
        defined = [x for x in group if x == x]
        if defined:
            assert found[name] == pytest.approx(sum(defined) / len(defined), rel=1e-12)
        else:
            assert math.isnan(found[name])


def test_their_mean_weighed_by_samples_is_what_is_logged_for_all():
    from lightning_cam.metrics.measure import summarize

    values = torch.rand(9, 1, generator=torch.Generator().manual_seed(0))
    made = record([0, 0, 0, 0, 0, 1, 1, 1, 2], [[0]] * 9, drift=values.tolist())
    found = metrics.by_class(made)
    mean = (5 * found["drift/class_0"] + 3 * found["drift/class_1"] + found["drift/class_2"]) / 9
    assert mean == pytest.approx(summarize(made.values)["drift"], rel=1e-12)


def test_tags_are_safe_for_loggers_and_every_class_has_its_own():
    names = [*HOSTILE, "a b", "a_b", "a/b", "ok-1.5", "x" * 70, "x" * 80, "Zürich", "..", "__"]
    labels = list(range(len(names)))
    made = record(labels, [[i] for i in labels], drift=[[float(i)] for i in labels])
    found = metrics.by_class(made, names)
    assert list(found.values()) == labels  # none fell together
    tags = [tag.removeprefix("drift/") for tag in found]
    assert all(re.fullmatch(r"[\w.\-]+", tag) and len(tag) < 70 and tag.strip("._") for tag in tags)
    by_name = dict(zip(names, tags, strict=True))
    assert by_name["ok-1.5"] == "ok-1.5" and by_name["Zürich"] == "Zürich"
    assert by_name["__"] == f"class_{len(names) - 1}"
    assert by_name["a b"] == f"a_b_{names.index('a b')}" and by_name["a_b"] == f"a_b_{names.index('a_b')}"


def test_a_tag_is_the_same_whichever_classes_a_look_meets():
    names = ["a b", "a_b", "c"]
    both = metrics.by_class(record([0, 1], [[0], [1]], drift=[[1.0], [2.0]]), names)
    alone = metrics.by_class(record([0], [[0]], drift=[[1.0]]), names)
    assert list(both) == ["drift/a_b_0", "drift/a_b_1"] and list(alone) == ["drift/a_b_0"]


def test_single_precision_does_not_show():
    values = [[1e8], *[[1.0]] * 5]
    assert metrics.by_class(record([0] * 6, [[0]] * 6, drift=values))["drift/class_0"] == (1e8 + 5) / 6
