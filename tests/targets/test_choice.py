"""A target chooses once and scores at any output: what was chosen stays, whatever the changed sample would choose."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compare import near
from torch import Tensor, nn

from lightning_cam import targets
from lightning_cam.targets import Choice, Target, find
from lightning_cam.targets.adapters import FixedClasses, FunctionTarget, TargetList
from lightning_cam.targets.target import score_output

B, K = 3, 4
ROWS = torch.arange(B)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


Z = normal(B, K, seed=0)
CHANGED = normal(B, K, seed=3) - Z  # other classes win
ORDER = Z.argsort(1, descending=True)
BEST, SECOND = ORDER[:, 0], ORDER[:, 1]
LABEL = torch.tensor([2, 0, 3])
HEAD = normal(K, 6, seed=5)
PLACES, PLACES_CHANGED = normal(B, K, 4, 5, seed=8), normal(B, K, 4, 5, seed=9)


def likest_by_head(classes):
    w = F.normalize(HEAD.float(), dim=1)
    cosine = w @ w.T - 9 * torch.eye(K)
    return cosine[classes].argmax(1)


def predicted_region():
    """The commonest predicted class of each sample other than the background, and where it is."""
    predicted = PLACES.argmax(1)
    votes = torch.stack([(predicted == c).flatten(1).sum(1) for c in range(1, K)], 1)
    classes = votes.argmax(1) + 1
    return classes, predicted == classes[:, None, None]


def summed(places, classes, region):
    return (places[ROWS, classes] * region).flatten(1).sum(1)


def boxes(rows, scores, labels):
    wide = torch.float64
    return {"boxes": torch.tensor(rows, dtype=wide), "scores": torch.tensor(scores, dtype=wide), "labels": torch.tensor(labels)}


FOUND = [
    boxes([[0, 0, 4, 4], [5, 5, 9, 9]], [0.9, 0.4], [1, 2]),
    boxes([[1, 1, 3, 3]], [0.5], [3]),
    boxes([[2, 2, 6, 6], [0, 0, 1, 1]], [0.3, 0.7], [1, 1]),
]
FOUND_CHANGED = [  # the pinned box moved and weakened, another stronger; none of the class; the same box
    boxes([[0, 0, 4, 5], [5, 5, 9, 9]], [0.2, 0.95], [1, 2]),
    boxes([[1, 1, 3, 3]], [0.9], [2]),
    boxes([[0, 0, 1, 1], [2, 2, 6, 6]], [0.1, 0.8], [1, 1]),
]


WORDS = normal(2, K, seed=7)


def prompts():
    """Two prompts, encoded."""
    target = targets.text(prompts=torch.tensor([[1], [2]]), tower=lambda model, tokens: WORDS)
    target.prepare(nn.Identity())
    return target


@dataclass
class Case:
    """A target, the outputs, and by hand its score of the changed output for what the unchanged chose."""

    spec: Any
    expected: Tensor
    output: Any = field(default_factory=lambda: Z)
    changed: Any = field(default_factory=lambda: CHANGED)
    label: Tensor | None = None
    moves: bool = True  # whether asked again at the changed output it would choose otherwise


ONE, ONE_CHANGED = normal(B, 1, seed=1), normal(B, 1, seed=2)
SIGN = (ONE > 0).double() * 2 - 1
HOT = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
REGION_CLASS, REGION = predicted_region()
UNIT = F.normalize(Z, dim=1)

CASES = {
    "label": Case("label", CHANGED[ROWS, LABEL], label=LABEL, moves=False),
    "predicted": Case("predicted", CHANGED[ROWS, BEST]),
    "runner_up": Case("runner_up", CHANGED[ROWS, SECOND]),
    "top_k": Case({"top_k": {"k": 2}}, CHANGED.gather(1, ORDER[:, :2])),
    "positives": Case(
        "positives",
        torch.stack([CHANGED[0, [0, 2]], CHANGED[1, [0, 0]] * torch.nan, CHANGED[2, [1, 0]] * torch.tensor([1, torch.nan])]),
        label=HOT,
        moves=False,
    ),
    "log_probability": Case("log_probability", CHANGED.log_softmax(1)[ROWS, BEST]),
    "softmax_probability": Case("softmax_probability", CHANGED.softmax(1)[ROWS, BEST]),
    "counterfactual": Case("counterfactual", -CHANGED[ROWS, BEST]),
    "contrast": Case(
        {"contrast": {"similar": 1, "gamma": 0.5}}, CHANGED[ROWS, BEST] - 0.5 * CHANGED[ROWS, likest_by_head(BEST)]
    ),
    "rivals": Case(
        {"rivals": {"similar": 2, "gamma": 0.5}}, CHANGED[ROWS, BEST] - 0.5 * CHANGED.gather(1, ORDER[:, 1:3]).mean(1)
    ),
    "binary": Case("binary", (ONE_CHANGED * SIGN)[:, 0], ONE, ONE_CHANGED),
    "value": Case({"value": {"index": 1, "reference": 0.25}}, CHANGED[:, 1] - 0.25, moves=False),
    "segment": Case("segment", summed(PLACES_CHANGED, REGION_CLASS, REGION), PLACES, PLACES_CHANGED),
    "similarity": Case("similarity", (F.normalize(CHANGED, dim=1) * UNIT).sum(1), moves=False),
    "projection": Case("projection", (CHANGED * UNIT).sum(1), moves=False),
    "text": Case(prompts(), F.cosine_similarity(CHANGED[:, None], WORDS, dim=2), moves=False),
    "detection": Case("detection", torch.tensor([0.2 + 16 / 20, 0.0, 0.1 + 1.0], dtype=torch.float64), FOUND, FOUND_CHANGED),
}
# targets with options by which they choose elsewhere
MORE = {
    "log_probability of the label": Case("log_probability", CHANGED.log_softmax(1)[ROWS, LABEL], label=LABEL, moves=False),
    "log_probability of several": Case(
        {"log_probability": {"classes": {"top_k": {"k": 2}}}}, CHANGED.log_softmax(1).gather(1, ORDER[:, :2])
    ),
    "contrast of named": Case(
        {"contrast": {"similar": [0, 3], "gamma": 1.0, "classes": 1}},
        CHANGED[:, 1] - CHANGED[:, [0, 3]].mean(1),
        moves=False,
    ),
    "value of the label": Case({"value": {"reference": "label"}}, CHANGED[:, 0] - LABEL, label=LABEL, moves=False),
    "binary of the label": Case(
        "binary", ONE_CHANGED[:, 0] * torch.tensor([1, -1, -1]), ONE, ONE_CHANGED, torch.tensor([1, 0, 0]), moves=False
    ),
    "label of soft labels": Case("label", CHANGED[ROWS, LABEL], label=F.one_hot(LABEL, K) * 0.6 + 0.1, moves=False),
    "label of multi-hot labels": Case("label", CASES["positives"].expected, label=HOT, moves=False),
    "label without labels": Case("label", CHANGED[ROWS, BEST]),
    "label of one logit": Case(
        "label", ONE_CHANGED[:, 0] * torch.tensor([1, -1, -1]), ONE, ONE_CHANGED, torch.tensor([1, 0, 0]), moves=False
    ),
    "label of a regression": Case("label", ONE_CHANGED[:, 0], ONE, ONE_CHANGED, torch.tensor([1.5, 0, 0]), moves=False),
    "a class id": Case(3, CHANGED[:, 3], moves=False),
    "class ids": Case(torch.tensor([1, 3, 0]), CHANGED[ROWS, [1, 3, 0]], moves=False),
    "classes by a callable": Case(lambda z, label: z.argmin(1), CHANGED[ROWS, ORDER[:, 3]]),
    "scores by a callable": Case(lambda z, label: z.logsumexp(1), CHANGED.logsumexp(1), moves=False),
    "a list": Case(
        ["predicted", 1, {"top_k": {"k": 2}}, lambda z, label: z[:, 0] * 2],
        torch.cat([CHANGED[ROWS, BEST, None], CHANGED[:, [1]], CHANGED.gather(1, ORDER[:, :2]), 2 * CHANGED[:, [0]]], 1),
    ),
}
ALL = CASES | MORE


def equal(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, NaN where the other is."""
    return torch.equal(a.isnan(), b.isnan()) and near(a.nan_to_num(), b.nan_to_num())


def test_every_target_of_the_package_is_here():
    assert set(CASES) == set(targets.names())


@pytest.mark.parametrize("name", ALL)
def test_a_changed_sample_is_scored_by_what_the_unchanged_one_chose(name):
    case, target = ALL[name], find(ALL[name].spec)
    first = score_output(target, case.output, case.label, HEAD)
    again = score_output(target, case.changed, case.label, HEAD, first.choice)
    expected = case.expected.reshape(B, -1)
    assert equal(again.score, expected)
    assert again.choice is first.choice
    assert equal(first.of_output(case.changed, slice(None), B), expected)
    assert equal(score_output(target, case.output, case.label, HEAD, first.choice).score, first.score)
    anew = score_output(target, case.changed, case.label, HEAD).score
    assert equal(anew, expected) is not case.moves  # what moves would score otherwise, so the equality above says something


def repeated(output: Any, n: int) -> Any:
    """The output of n changes of one sample."""
    if isinstance(output, Tensor):
        return torch.cat([output * (1 + i) for i in range(n)])
    return [output[0]] * n


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sample", range(B))
def test_n_changes_of_a_sample_are_scored_by_its_own_choice(name, sample):
    case, target = ALL[name], find(ALL[name].spec)
    first = score_output(target, case.output, case.label, HEAD)
    changed = repeated(case.changed[sample : sample + 1], 4)
    scores = first.of_output(changed, slice(sample, sample + 1), 4)
    assert scores.shape == (4, first.score.shape[1])
    assert equal(scores[:1], case.expected.reshape(B, -1)[sample : sample + 1])
    if case.expected.reshape(B, -1)[sample].isfinite().all() and name != "detection":
        assert not torch.equal(scores[0], scores[1]) or name in ("similarity", "text")  # a cosine knows no length


# rows of a choice


def choice_of(rows: int = 3) -> Choice:
    return Choice(
        parts=(torch.arange(rows * 2).reshape(rows, 2), None),
        classes=torch.arange(rows)[:, None] * 10,
        absent=torch.arange(rows)[:, None] == 1,
        logit=True,
        single=False,
        placed=True,
    )


def test_rows_take_a_slice_of_the_batch():
    rows = choice_of().rows(slice(1, 3), 2)
    assert rows.parts[0].tolist() == [[2, 3], [4, 5]] and rows.parts[1] is None
    assert rows.classes.tolist() == [[10], [20]] and rows.absent.tolist() == [[True], [False]]
    assert (rows.logit, rows.single, rows.placed) == (True, False, True)


def test_rows_repeat_one_sample():
    rows = choice_of().rows(slice(1, 2), 3)
    assert rows.parts[0].tolist() == [[2, 3]] * 3
    assert rows.classes.tolist() == [[10]] * 3 and rows.absent.tolist() == [[True]] * 3


def test_rows_reach_into_the_choices_of_a_list():
    nested = Choice(parts=(choice_of(), Choice(parts=(choice_of(), torch.arange(3.0)))))
    rows = nested.rows(slice(2, 3), 4)
    assert rows.classes is None and rows.absent is None
    first, second = rows.parts
    assert first.parts[0].tolist() == second.parts[0].parts[0].tolist() == [[4, 5]] * 4
    assert first.classes.tolist() == [[20]] * 4 and second.parts[1].tolist() == [2.0] * 4
    assert nested.rows(slice(None), 3).parts[1].parts[1].tolist() == [0.0, 1.0, 2.0]


# what find takes


def test_find_takes_a_class_id():
    target = find(3)
    assert isinstance(target, FixedClasses)
    choice = target.choose(Z, None, None)
    assert choice.classes.tolist() == [[3]] * B and choice.logit and choice.single
    assert torch.equal(target.score(Z, choice), Z[:, [3]])


def test_find_takes_class_ids_as_a_tensor():
    choice = find(torch.tensor([2, 0, 1], dtype=torch.int32)).choose(Z, None, None)
    assert choice.classes.tolist() == [[2], [0], [1]] and choice.single and choice.absent is None
    several = find(torch.tensor([[2, 0], [1, -1], [-1, -1]])).choose(Z, None, None)
    assert not several.single and several.absent.tolist() == [[False, False], [False, True], [True, True]]
    assert find(torch.tensor(1)).choose(Z, None, None).classes.tolist() == [[1]] * B
    with pytest.raises(ValueError, match="2 target classes were given for 3 samples"):
        find(torch.tensor([0, 1])).choose(Z, None, None)
    for wrong in (torch.tensor([0.0, 1.0]), torch.zeros(1, 1, 1).long()):
        with pytest.raises(TypeError, match="Target classes are an integer tensor"):
            find(wrong)


def test_find_takes_a_callable_of_classes_or_scores():
    classes = find(lambda z, label: label)
    assert isinstance(classes, FunctionTarget)
    choice = classes.choose(Z, LABEL, None)
    assert choice.logit and choice.classes.tolist() == [[2], [0], [3]]

    def score(z, label):
        return z[:, :2] * label[:, None]

    target = find(score)
    chosen = target.choose(Z, LABEL, None)
    assert not chosen.logit and chosen.classes is None and not chosen.single
    assert torch.equal(target.score(CHANGED[:2], chosen.rows(slice(1, 3), 2)), (CHANGED[:2, :2] * LABEL[1:, None]))


def test_find_takes_lists_and_lists_within():
    target = find([0, ["label", [lambda z, label: z[:, 1], torch.tensor([[1, 2]] * B)]]])
    assert isinstance(target, TargetList) and len(target.targets) == 4
    choice = target.choose(Z, LABEL, HEAD)
    expected = torch.cat([Z[:, [0]], Z[ROWS, LABEL, None], Z[:, [1]], Z[:, [1, 2]]], 1)
    assert torch.equal(target.score(Z, choice), expected)
    assert choice.classes.tolist() == [[0, c, -1, 1, 2] for c in LABEL.tolist()]
    assert not choice.logit and not choice.single
    alone = find([2]).choose(Z, None, None)
    assert not alone.single and alone.logit
    with pytest.raises(ValueError, match="The list of targets is empty"):
        find([])


class Own:
    """A target in two methods."""

    def choose(self, output, label, head):
        return Choice((output.detach().argmax(1),))

    def score(self, output, choice):
        (classes,) = choice.parts
        return output.gather(1, classes[:, None]) * 2


def test_find_takes_an_object_with_choose_and_score():
    own = Own()
    assert isinstance(own, Target) and find(own) is own
    chosen = find(own).choose(Z, None, None)
    assert torch.equal(own.score(CHANGED, chosen), 2 * CHANGED[ROWS, BEST, None])
    both = find([own, "predicted"])
    assert torch.equal(both.score(CHANGED, both.choose(Z, None, None)), CHANGED[ROWS, BEST, None] * torch.tensor([2, 1]))
    assert isinstance(find(Own()), Own)
    assert find(find(3)) is not None and isinstance(find(find(["label", 3])), TargetList)


def test_find_takes_a_target_it_made_before():
    target = find({"top_k": {"k": 2}})
    assert find(target) is target
    assert find([target, target]).targets == (target, target)


@pytest.mark.parametrize("wrong", [True, 1.5, None, object()])
def test_find_refuses_what_is_no_target(wrong):
    with pytest.raises(TypeError):
        find(wrong)
