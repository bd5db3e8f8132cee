"""AUC and Dice of a patient: exact with ties, equal to a slow reference and to scikit-learn, undefined where they are."""

import math

import pytest
import reference_patches as reference
import torch

from lightning_cam.patches import PatchTable, score_patches


def table_of(target, probability, patients=None):
    n = len(target)
    columns = {"patient_id": patients or ["a"] * n, "x": list(range(n)), "y": [0] * n}
    return PatchTable.of(columns | {"target": target, "probability": probability})


def one(target, probability):
    scores = score_patches(table_of(target, probability))
    return float(scores.auc[0]), float(scores.dice[0])


@pytest.mark.parametrize(
    ("target", "probability", "auc", "dice"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 1, 1),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], 0, 0),
        ([0, 1, 0, 1], [0.7, 0.7, 0.7, 0.7], 1 / 2, 2 / 3),
        ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9], 7 / 8, 4 / 5),  # the tie counts half, and .5 itself is positive
        ([0, 1, 1], [0.4, 0.3, 0.6], 1 / 2, 2 / 3),
        ([0, 0, 0, 1], [0.2, 0.2, 0.9, 0.2], 1 / 3, 0),
    ],
)
def test_closed_forms(target, probability, auc, dice):
    assert one(target, probability) == pytest.approx((auc, dice), abs=1e-15)


def test_where_they_are_undefined_they_are_nan():
    auc, dice = one([0, 0], [0.1, 0.2])
    assert math.isnan(auc) and math.isnan(dice)  # nothing positive, neither true nor predicted
    auc, dice = one([0, 0], [0.1, 0.7])
    assert math.isnan(auc) and dice == 0
    auc, dice = one([1, 1], [0.1, 0.7])
    assert math.isnan(auc) and dice == pytest.approx(2 / 3)
    auc, dice = one([math.nan, -1], [0.1, 0.7])
    assert math.isnan(auc) and math.isnan(dice)


def test_patches_without_a_label_do_not_count():
    assert one([0, 1, math.nan, 1], [0.2, 0.9, 0.9, 0.1]) == one([0, 1, 1], [0.2, 0.9, 0.1])


def test_a_labelled_patch_without_a_number_leaves_its_patient_alone_undefined():
    scores = score_patches(table_of([0, 1, 0, 1], [0.1, math.nan, 0.2, 0.9], ["a", "a", "b", "b"]))
    assert scores.auc.isnan().tolist() == scores.dice.isnan().tolist() == [True, False]
    assert one([0, math.nan, 1], [0.1, math.nan, 0.9]) == (1, 1)


def many():
    """Seven patients in a mixed order, with many ties and patches without a label."""
    own = torch.Generator().manual_seed(3)
    n = 400
    patient = torch.randint(7, (n,), generator=own)
    target = torch.randint(-1, 2, (n,), generator=own)
    probability = torch.randint(0, 12, (n,), generator=own) / 11
    return patient.tolist(), target.tolist(), probability.tolist()


def of_each(patient, target, probability):
    for name in sorted(set(patient)):
        rows = [i for i, own in enumerate(patient) if own == name and target[i] >= 0]
        yield [target[i] for i in rows], [probability[i] for i in rows]


def test_every_patient_equals_the_slow_reference():
    patient, target, probability = many()
    scores = score_patches(table_of(target, probability, patient))
    rows = list(of_each(patient, target, probability))
    assert scores.auc.tolist() == pytest.approx([reference.auc(*row) for row in rows], abs=1e-12)
    assert scores.dice.tolist() == pytest.approx([reference.dice(*row) for row in rows], abs=1e-12)


def test_every_patient_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    patient, target, probability = many()
    scores = score_patches(table_of(target, probability, patient))
    for i, (labels, values) in enumerate(of_each(patient, target, probability)):
        assert float(scores.auc[i]) == pytest.approx(metrics.roc_auc_score(labels, values), abs=1e-12)
        assert float(scores.dice[i]) == pytest.approx(metrics.f1_score(labels, [p >= 0.5 for p in values]), abs=1e-12)


def test_the_order_of_rows_does_not_matter_and_a_rising_function_keeps_the_auc():
    patient, target, probability = many()
    first = score_patches(table_of(target, probability, patient))
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0)).tolist()
    second = score_patches(table_of(*([column[i] for i in order] for column in (target, probability, patient))))
    assert torch.equal(first.auc, second.auc) and torch.equal(first.dice, second.dice)
    third = score_patches(table_of(target, [p**3 for p in probability], patient))
    assert torch.equal(first.auc, third.auc)


def test_labels_alone_have_no_scores():
    table = PatchTable.of({"patient_id": [1], "x": [0], "y": [0], "target": [1]})
    with pytest.raises(ValueError, match="has labels alone; AUC and Dice need a predicted probability"):
        score_patches(table)
