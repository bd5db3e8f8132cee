"""A sheet may show first what is right for the wrong reason, then what jumped, and says so."""

import pytest
import torch
from run_records import made_batch, made_record

from lightning_cam import Style
from lightning_cam.figures import pages as module
from lightning_cam.figures.pages import RecordPages, RunColumns
from lightning_cam.figures.ranking import JUMPED, MISPLACED, knows_places, misplaced, rank
from lightning_cam.figures.sheet import laid_out
from lightning_cam.record import Predictions


def told(labels, predicted, classes=None, **values):
    """A Record of these predictions and numbers."""
    b = len(labels)
    classes = [[label] for label in labels] if classes is None else classes
    said = Predictions(
        torch.tensor(classes),
        torch.full((b, len(classes[0])), 0.5),
        torch.tensor(predicted),
        torch.full((b,), 0.5),
        torch.tensor(labels),
    )
    numbers = {name: torch.tensor(value) for name, value in values.items()}
    return made_record(b, len(classes[0]), full=False, predictions=said, values=numbers, target_names=())


def test_right_with_the_heat_elsewhere_comes_first_then_what_jumped_then_the_rest_in_order():
    enrichment = [[1.2], [0.4], [0.5], [torch.nan], [0.9], [1.0]]
    record = told([0, 1, 0, 0, 1, 1], [0, 1, 1, 0, 1, 1], enrichment=enrichment)
    jumped = torch.tensor([[False], [False], [True], [True], [True], [False]])
    ranking = rank(record, made_batch(6), jumped)
    # 1 and 4 are right below chance, 2 is wrong, 3 is not defined, 5 is at chance
    assert list(ranking.samples) == [1, 4, 2, 3, 0, 5]
    assert ranking.words == {1: MISPLACED, 4: MISPLACED, 2: JUMPED, 3: JUMPED}
    assert list(rank(record, made_batch(6)).samples) == [1, 4, 0, 2, 3, 5]


def test_without_enrichment_the_energy_is_compared_with_the_share_of_all_regions():
    batch = made_batch(3)
    regions = {"a": torch.zeros(3, 10, 10, dtype=torch.bool), "b": torch.zeros(3, 10, 10, dtype=torch.bool)}
    regions["a"][:, :3], regions["b"][:, 2:5] = True, True  # a half together
    record = told([0, 1, 2], [0, 1, 2], energy_inside=[[0.49], [0.51], [0.1]])
    batch = made_batch(3, regions=regions)
    assert misplaced(record, batch)[:, 0].tolist() == [True, False, True]
    assert not misplaced(record, made_batch(3, regions={})).any()
    assert knows_places(record) and not knows_places(told([0], [0]))
    assert not misplaced(told([0], [0]), made_batch(1)).any()


def test_where_no_class_is_known_nothing_is_right():
    record = told([-1, 0], [-1, -1], enrichment=[[0.1], [0.1]])
    assert not misplaced(record, made_batch(2)).any()


def test_of_several_targets_the_label_s_map_counts_and_a_row_keeps_together():
    classes = [[0, 1], [0, 1], [1, 0]]
    # of the first the other class's map lies elsewhere, of the last the label's
    record = told([0, 0, 0], [0, 0, 0], classes, enrichment=[[1.5, 0.1], [2.0, 2.0], [1.5, 0.1]])
    ranking = rank(record, made_batch(3), torch.tensor([[False, False], [False, True], [False, False]]))
    assert list(ranking.samples) == [2, 1, 0] and ranking.words == {2: MISPLACED, 1: JUMPED}
    assert ranking.positions(range(6), 2) == [4, 5, 2, 3, 0, 1]
    assert ranking.positions([0, 3, 4], 2) == [4, 3, 0]  # absent ones have no place


@pytest.mark.parametrize("jumped", [None, torch.tensor([False, False, True])])
def test_a_sheet_shows_its_cards_in_that_order_with_their_words(jumped, monkeypatch):
    record, batch = told([0, 1, 1], [0, 1, 0], enrichment=[[2.0], [0.5], [3.0]]), made_batch(3)
    heat = record.heat.flatten(0, 1)
    # what jumped at a look between the columns is marked, and no reason to look at it now
    run = RunColumns(["start", "2"], [heat, heat], -1.0, 1.0, None, torch.ones(2, 3, dtype=torch.bool), jumped)
    plain, ranked = (
        RecordPages(record, batch, Style(tile=64, panels=("overlay",), order=order), "label", run)
        for order in ("batch", "suspect")
    )
    order = [1, 0, 2] if jumped is None else [1, 2, 0]  # only what jumped at this very look
    kept = []

    def keep(panels, words, style, columns):
        kept.append((panels, words))
        return laid_out(panels, words, style, columns)

    monkeypatch.setattr(module, "laid_out", keep)
    before, after = plain.sheet().pixels, ranked.sheet().pixels
    (panels, words), (ranked_panels, ranked_words) = kept
    assert torch.equal(ranked_panels, panels[order])
    assert [word.line for word in ranked_words] == [words[i].line for i in order]
    remarks = {1: MISPLACED} if jumped is None else {1: MISPLACED, 2: JUMPED}
    assert [word.remark for word in ranked_words] == [remarks.get(i, "") for i in order]
    assert {word.remark for word in words} == {""}
    assert before.shape == after.shape and (before != after).any()


def test_an_unknown_order_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"Style\(order='suspects'\): expected one of batch, suspect.*'suspect'"):
        Style(order="suspects")
