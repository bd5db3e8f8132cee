"""Every target's number and map equal its formula; what a target cannot explain it says."""

import pytest
import torch
import torch.nn.functional as F
from aims import Dense, look
from compare import near
from zoo import ZOO, gap_linear, images

from lightning_cam import explain, targets
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods import cam
from lightning_cam.targets import find


def test_every_target_is_known_by_name():
    assert set(targets.names()) >= {
        "label", "predicted", "runner_up", "top_k", "positives", "log_probability", "softmax_probability", "counterfactual",
        "contrast", "rivals", "binary", "value", "segment", "similarity", "projection", "detection",
    }  # fmt: skip


def test_the_runner_up_has_the_second_largest_logit():
    seen = explain(gap_linear(), images(), target="runner_up")
    assert torch.equal(seen.classes, seen.logits.topk(2).indices[:, 1])
    assert torch.equal(seen.score, seen.logits.sort(descending=True).values[:, 1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_every_positive_of_a_sample_has_its_own_map_and_no_other(dtype):
    net, hot = gap_linear(), torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).to(dtype)
    seen = look(net, "positives", hot)
    assert seen.scores.choice.classes.tolist() == [[0, 2, 3], [-1, -1, -1], [1, -1, -1]]
    assert torch.equal(seen.scores.choice.absent, seen.scores.choice.classes < 0)
    assert torch.equal(seen.scores.score.isnan(), seen.scores.choice.absent)
    for i, t, c in [(0, 0, 0), (0, 1, 2), (0, 2, 3), (2, 0, 1)]:
        assert torch.equal(seen.heat[i, t], explain(net, images(), target=c).heat[i])
    assert near(seen.again[0], seen.scores.score[0, :1].expand(2))


def test_classes_given_may_differ_in_number():
    net, x = gap_linear(), images()
    found = explain(net, x, target=torch.tensor([[0, 2], [1, -1], [3, -1]]))
    assert found.heat.shape == (3, 2, 4, 5)
    assert found.heat[1:, 1].isnan().all() and found.score[1:, 1].isnan().all()
    assert near(found.heat[:, 0], explain(net, x, target=torch.tensor([0, 1, 3])).heat)
    assert near(found.heat[0, 1], explain(net, x, target=2).heat[0])
    with pytest.raises(ValueError, match="Class 4 is out of range"):
        explain(net, x, target=torch.tensor([[0, 4], [1, 0], [1, 1]]))
    with pytest.raises(ValueError, match="Class -2 is out of range"):
        explain(net, x, target=torch.tensor([[0, -2], [1, 0], [1, 1]]))
    with pytest.raises(TypeError, match=r"integer tensor \[b\] or \[b t\]; got \(1, 1, 1\)"):
        explain(net, x, target=torch.ones(1, 1, 1).long())


def test_an_absent_target_is_nan_and_not_a_map_of_zeros():
    for method in ("grad_cam", "cam"):
        one = explain(
            gap_linear(), images(), method=method, target=lambda logits, label: torch.tensor([[0, 2], [1, -1], [3, -1]])
        )
        assert one.heat.isnan().flatten(2).all(2).tolist() == [[False, False], [False, True], [False, True]]
        assert one.heat[0].isfinite().all()
        assert one.score.isnan().tolist() == [[False, False], [False, True], [False, True]]


def test_maps_are_linear_in_the_target():
    for net in ZOO.values():
        x = images()
        both = explain(net(), x, target=lambda z, label: 2 * z[:, 0] - 3 * z[:, 1]).heat
        assert near(both, 2 * explain(net(), x, target=0).heat - 3 * explain(net(), x, target=1).heat)


def test_a_choice_once_made_is_kept_when_the_sample_is_changed():
    net, x = gap_linear(), images()
    with torch.no_grad():
        net.head[-1].bias.sub_(net(x).mean(0))  # no class wins everywhere
    other = images(40, seed=5)
    z, changed = net(x).detach(), net(other).detach()
    c, second = z[0].topk(2).indices.tolist()
    assert (changed.argmax(1) != c).any()  # else this would show nothing
    for spec, expected in [
        ("predicted", changed[:, c]),
        ("runner_up", changed[:, second]),
        ("log_probability", changed.log_softmax(1)[:, c]),
        ({"rivals": {"similar": 1, "gamma": 1.0}}, changed[:, c] - changed[:, second]),
        ("counterfactual", -changed[:, c]),
        ("projection", F.normalize(z[:1], dim=1) @ changed.T),
        ("value", changed[:, 0]),
    ]:
        with open_session(net, ["features"]) as session:
            seen = Seen(session.forward(x, find(spec)), "features")
            assert near(seen.rescore(0, image=other), expected.reshape(-1)), spec
            moved = seen.with_image(other[:3])
            assert near(moved.score[0], expected.reshape(-1)[0]), spec


def test_targets_of_every_kind_stand_side_by_side():
    net, x = gap_linear(), images()
    specs = [2, "log_probability", lambda z, label: z[:, 1] * 2, {"top_k": {"k": 2}}, {"contrast": {"classes": [0, 3]}}]
    seen = explain(net, x, target=specs)
    assert seen.heat.shape == (3, 7, 4, 5)
    assert seen.classes is None
    for t, spec in [(0, 2), (1, "log_probability"), (2, specs[2]), (3, "predicted")]:
        assert torch.equal(seen.heat[:, t], explain(net, x, target=spec).heat)
    assert near(seen.heat[:, 6], explain(net, x, target={"contrast": {"classes": 3}}).heat)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("net", "target", "labels", "message"),
    [
        (gap_linear, "positives", None, r"multi-hot labels \(3, 4\), one for each logit; got none"),
        (gap_linear, "positives", torch.tensor([0, 1, 2]), r"got \(3,\)\. For one class a sample use 'label'"),
        (
            gap_linear,
            "label",
            torch.full((3, 4), 2.0),
            "'positives' explains every class that is set, {'value': {'index': 0}} one",
        ),
        (gap_linear, "label", torch.full((3, 4), torch.nan), "'positives' explains every class that is set"),
        (gap_linear, "label", torch.tensor([[0, 2, 0, 1]] * 3), "'positives' explains every class that is set"),
        (
            gap_linear,
            "label",
            torch.rand(3),
            r"got \(3,\) of torch.float32 for \(3, 4\) logits. For other labels pass a callable",
        ),
        (gap_linear, "label", torch.zeros(3, 8, 10).long(), r"got \(3, 8, 10\).*pass a callable \(logits, label\)"),
        (gap_linear, "label", torch.tensor([0, 4, 1]), "Class 4 is out of range: the model has 4 outputs"),
        (lambda: gap_linear(k=1), "label", torch.tensor([0, 2, 1]), "'binary' explains a single logit, 'value' a regression"),
        (lambda: gap_linear(k=1), "label", torch.rand(3, 4), "'binary' explains a single logit, 'value' a regression"),
        (lambda: gap_linear(k=1), "label", None, r"one number a sample, \(3, 1\), and there are none.*'binary'.*'value' for a"),
        (lambda: gap_linear(k=1), "runner_up", None, "Use 'binary'"),
        (lambda: gap_linear(k=1), "log_probability", None, "Use 'binary'"),
        (gap_linear, "binary", None, r"one logit a sample, \[b\] or \[b 1\]; got \(3, 4\)"),
        (gap_linear, {"log_probability": {"classes": lambda z, label: z[:, 0]}}, None, "gives scores, and classes are needed"),
        (gap_linear, {"contrast": {"classes": 7}}, None, "Class 7 is out of range: the model has 4 outputs"),
        (gap_linear, {"contrast": {"similar": [4]}}, None, "expected class ids from 0 to 3"),
        (gap_linear, {"contrast": {"similar": 0}}, None, "at least one class"),
        (gap_linear, {"contrast": {"gama": 1.0}}, None, "no option 'gama'. Did you mean 'gamma'"),
        (gap_linear, -1, None, "Class -1 is out of range: the model has 4 outputs, so classes are 0 to 3"),
        (gap_linear, "runnerup", None, "Did you mean 'runner_up'"),
        (gap_linear, {"value": {"index": 4}}, None, "with k above 4"),
        (gap_linear, {"value": {"reference": "label"}}, None, "got none"),
        (gap_linear, "segment", None, r"logits of every place, \[b k h w\]; the model gave \(3, 4\)"),
        (Dense, {"segment": {"class_id": 4}}, None, "has 4 classes, 0 to 3"),
        (Dense, {"segment": {"region": (8, 0)}}, None, r"a place in \(8, 10\)"),
        (Dense, {"segment": {"region": "label"}}, None, r"class ids \(3, 8, 10\); got none"),
        (Dense, {"segment": {"region": torch.ones(3, 3)}}, None, r"a mask is \(8, 10\) or \(3, 8, 10\)"),
        (Dense, {"segment": {"region": "here"}}, None, "expected 'predicted'"),
        (Dense, "similarity", None, r"needs embeddings \[b e\]"),
        (gap_linear, "detection", None, "name them with output="),
    ],
)
def test_every_mistake_says_what_would_be_right(net, target, labels, message):
    with pytest.raises(ValueError, match=message), open_session(net(), ["features"]) as session:
        session.forward(images(), find(target), labels)


def test_cam_takes_a_class_and_no_score_of_one():
    with pytest.raises(ValueError, match="cam needs a class as its target"):
        explain(gap_linear(), images(), method=cam, target="log_probability")
