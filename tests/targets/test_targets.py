"""Every target's number and map equal its formula; what a target cannot explain it says."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import ZOO, conv_head, flatten_linear, gap_linear, gap_mlp, images

from lightning_cam import explain, targets
from lightning_cam.capture.hooks import watch
from lightning_cam.capture.seen import Seen
from lightning_cam.heat import maximum
from lightning_cam.methods import cam, grad_cam
from lightning_cam.targets.target import find


def close(a, b):
    return torch.allclose(a, b, rtol=1e-11, atol=1e-13)


def look(net, target, labels=None, x=None):
    """The aim, the grad_cam map of each target, and scores of changed samples, as a callback would see them."""
    x = images() if x is None else x
    with watch(net, ["features"]) as look_at:
        seen = look_at(x, find(target), labels)
        aim = seen.aim
        heat = torch.stack([grad_cam(Seen(seen, "features", t)) for t in range(aim.score.shape[1])], 1)
        again = torch.stack([Seen(seen, "features").rescore(i, image=x[[i, i]]) for i in range(len(x))])
    return SimpleNamespace(aim=aim, heat=heat, again=again)


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
    assert seen.aim.classes.tolist() == [[0, 2, 3], [-1, -1, -1], [1, -1, -1]]
    assert torch.equal(seen.aim.absent, seen.aim.classes < 0)
    assert torch.equal(seen.aim.score.isnan(), seen.aim.absent)
    for i, t, c in [(0, 0, 0), (0, 1, 2), (0, 2, 3), (2, 0, 1)]:
        assert torch.equal(seen.heat[i, t], explain(net, images(), target=c).heat[i])
    assert close(seen.again[0], seen.aim.score[0, :1].expand(2))


def test_classes_given_may_differ_in_number():
    net, x = gap_linear(), images()
    found = explain(net, x, target=torch.tensor([[0, 2], [1, -1], [3, -1]]))
    assert found.heat.shape == (3, 2, 4, 5)
    assert found.heat[1:, 1].isnan().all() and found.score[1:, 1].isnan().all()
    assert close(found.heat[:, 0], explain(net, x, target=torch.tensor([0, 1, 3])).heat)
    assert close(found.heat[0, 1], explain(net, x, target=2).heat[0])
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


def test_log_probability_is_the_probability_divided_by_itself():
    for net in ZOO.values():
        x = images()
        log, p = (explain(net(), x, target={name: {"of": 2}}) for name in ("log_probability", "softmax_probability"))
        assert close(log.score.exp(), p.score)
        assert close(log.heat * p.score[:, None, None], p.heat)


def test_log_probability_is_the_logit_less_the_mean_by_probability():
    x, net = images(), gap_mlp()
    each = explain(net, x, target=[0, 1, 2, 3])
    p = each.logits.softmax(1)
    expected = each.heat[:, 1] - torch.einsum("bk,bkuv->buv", p, each.heat)
    assert close(explain(net, x, target={"log_probability": {"of": 1}}).heat, expected)


@pytest.mark.parametrize("name", ["probability", "softmax", "prob", {"probability": {"of": 2}}])
def test_a_probability_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=r"scaled by p \(1 - p\), so it fades.*'softmax_probability'"):
        explain(gap_linear(), images(), target=name)


def test_a_counterfactual_is_minus_the_logit():
    seen = explain(gap_mlp(), images(), target={"counterfactual": {"of": 1}})
    logit = explain(gap_mlp(), images(), target=1)
    assert torch.equal(seen.score, -logit.score)
    assert torch.equal(seen.heat, -logit.heat)


def test_contrast_without_strength_is_grad_cam_of_the_class():
    for net in ZOO.values():
        x = images()
        for name in ("contrast", "rivals"):
            seen = explain(net(), x, target={name: {"gamma": 0.0}})
            assert close(seen.heat, explain(net(), x).heat)
            assert torch.equal(seen.score, explain(net(), x).score)


def alike(w, c, n):
    cosine = F.cosine_similarity(w[c][None], w, dim=1)
    return [d for d in cosine.argsort(descending=True).tolist() if d != c][:n]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("gamma", [0.6, 1.0])
def test_finer_cam_is_cam_of_the_weights_less_those_of_the_look_alikes(gamma, n):
    net, x = gap_linear(), images()
    a, w = net.features(x).detach(), net.head[-1].weight.detach()
    seen = look(net, {"contrast": {"gamma": gamma, "nearest": n}}, torch.tensor([2, 0, 1]))
    for i, c in enumerate([2, 0, 1]):
        fine = w[c] - gamma * w[alike(w, c, n)].mean(0)
        expected = torch.einsum("c,cuv->uv", fine, a[i]) / (a.shape[2] * a.shape[3])
        assert close(seen.heat[i, 0], expected)


def test_the_look_alikes_of_a_convolutional_head_are_found_too():
    x = images()
    net = conv_head()
    w = net.head[1].weight.detach().flatten(1)
    seen = explain(net, x, target={"contrast": {"of": 1, "nearest": 2}})
    given = explain(net, x, target={"contrast": {"of": 1, "nearest": alike(w, 1, 2)}})
    assert close(seen.heat, given.heat)
    assert close(seen.score, seen.logits[:, 1] - 0.6 * seen.logits[:, alike(w, 1, 2)].mean(1))


def test_look_alikes_given_and_rivals_are_the_classes_said():
    net, x = gap_mlp(), images()
    z = explain(net, x).logits
    seen = explain(net, x, target={"contrast": {"of": 1, "gamma": 1.0, "nearest": [0, 1, 3]}})
    assert close(seen.score, z[:, 1] - z[:, [0, 3]].mean(1))  # a class is no look-alike of its own
    rival = explain(net, x, target={"rivals": {"gamma": 0.5, "nearest": 2}})
    assert close(rival.score, z.max(1).values - 0.5 * z.topk(3).values[:, 1:].mean(1))


def test_a_score_of_positives_and_of_several_classes_has_a_map_for_each():
    hot = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1], [0, 1, 0, 0]])
    for name in ("contrast", "rivals", "log_probability", "counterfactual"):
        seen = look(gap_linear(), {name: {"of": "positives"}}, hot)
        assert seen.aim.absent.tolist() == [[False] * 3, [False, True, True], [False, True, True]]
        one = look(gap_linear(), {name: {"of": "label"}}, torch.tensor([2, 3, 1]))
        assert close(seen.heat[0, 1], one.heat[0, 0])
        assert close(seen.heat[1:, 0], one.heat[1:, 0])
        assert seen.aim.named.tolist() == [[0, 2, 3], [3, -1, -1], [1, -1, -1]]


def test_maps_are_linear_in_the_target():
    for net in ZOO.values():
        x = images()
        both = explain(net(), x, target=lambda z, label: 2 * z[:, 0] - 3 * z[:, 1]).heat
        assert close(both, 2 * explain(net(), x, target=0).heat - 3 * explain(net(), x, target=1).heat)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_single_logit_is_signed_by_its_label(shape):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_linear(k=1)

        @property
        def features(self):
            return self.net.features

        def forward(self, x):
            return self.net(x).reshape(len(x), *shape[1:])

    x, net = images(), One()
    z = net(x).detach()
    plain = explain(net, x, layer="net.features", target=lambda z, label: z.flatten()).heat
    for label in ([1, 0, 1], [1.0, 0.0, 1.0], [True, False, True], [1, -1, 1]):
        with watch(net, ["net.features"]) as look_at:
            seen = look_at(x, find("binary"), torch.tensor(label).reshape(shape))
            sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
            assert torch.equal(seen.aim.score[:, 0], z.flatten() * sign)
            assert torch.equal(grad_cam(Seen(seen, "net.features")), plain * sign[:, None, None])
    said = explain(net, x, layer="net.features", target="binary")
    assert torch.equal(said.score, z.flatten().abs())


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
        ({"rivals": {"nearest": 1, "gamma": 1.0}}, changed[:, c] - changed[:, second]),
        ("counterfactual", -changed[:, c]),
        ("projection", F.normalize(z[:1], dim=1) @ changed.T),
        ("value", changed[:, 0]),
    ]:
        with watch(net, ["features"]) as look_at:
            seen = Seen(look_at(x, find(spec)), "features")
            assert close(seen.rescore(0, image=other), expected.reshape(-1)), spec
            moved = seen.with_image(other[:3])
            assert close(moved.score[0], expected.reshape(-1)[0]), spec


def test_targets_of_every_kind_stand_side_by_side():
    net, x = gap_linear(), images()
    specs = [2, "log_probability", lambda z, label: z[:, 1] * 2, {"top_k": {"k": 2}}, {"contrast": {"of": [0, 3]}}]
    seen = explain(net, x, target=specs)
    assert seen.heat.shape == (3, 7, 4, 5)
    assert seen.classes is None
    for t, spec in [(0, 2), (1, "log_probability"), (2, specs[2]), (3, "predicted")]:
        assert torch.equal(seen.heat[:, t], explain(net, x, target=spec).heat)
    assert close(seen.heat[:, 6], explain(net, x, target={"contrast": {"of": 3}}).heat)


def test_a_regression_is_signed_and_told_from_a_reference():
    net, x = gap_mlp(), images()
    y = net(x).detach()
    seen = explain(net, x, target={"value": {"of": 2, "less": 1.5}})
    assert torch.equal(seen.score, y[:, 2] - 1.5)
    assert torch.equal(seen.heat, explain(net, x, target=2).heat)
    error = look(net, {"value": {"of": 1, "less": "label"}}, torch.ones(3, 4))
    assert close(error.aim.score[:, 0], y[:, 1] - 1)


class Dense(nn.Module):
    """As torchvision's segmentation models answer."""

    def __init__(self, wrap=lambda z: {"out": z, "aux": z}):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)
        self.wrap = wrap
        self.double().eval()

    def forward(self, x):
        return self.wrap(F.interpolate(self.head(self.features(x)), x.shape[-2:], mode="bilinear"))


def by_hand(net, x, c, region):
    a = net.features(x).detach().requires_grad_()
    z = F.interpolate(net.head(a), x.shape[-2:], mode="bilinear")
    score = torch.stack([(z[i, int(c[i])] * region[i]).sum() for i in range(len(x))])
    (g,) = torch.autograd.grad(score.sum(), a)
    return score.detach(), torch.einsum("bc,bcuv->buv", g.mean((2, 3)), a.detach())


@pytest.mark.parametrize("wrap", [lambda z: {"out": z}, lambda z: z])
def test_a_segmentation_is_explained_over_a_region(wrap):
    net, x = Dense(wrap), images()
    z = net(x)
    said = (z["out"] if isinstance(z, dict) else z).argmax(1)
    label = torch.arange(3)[:, None, None].expand(3, 8, 10).contiguous()
    point, mask = torch.zeros_like(said).bool(), torch.rand(8, 10) > 0.5
    point[:, 3, 7] = True
    for where, region in [
        ("predicted", said == 2), ("label", label == 2), ("everywhere", said >= 0), ((3, 7), point),
        (mask, mask.expand(3, 8, 10)),
    ]:  # fmt: skip
        with watch(net, ["features"]) as look_at:
            seen = look_at(x, find({"segment": {"of": 2, "where": where}}), label)
            there = region.flatten(1).any(1)
            score, heat = by_hand(net, x, [2, 2, 2], region)
            assert torch.equal(seen.aim.score[:, 0].isnan(), ~there)
            assert close(seen.aim.score[there, 0], score[there])
            assert close(grad_cam(Seen(seen, "features"))[there], heat[there])
            again = Seen(seen, "features").rescore(2, image=x[:2])  # the region stays where it was
            if there[2]:
                assert close(again, (net(x[:2])["out"] if isinstance(z, dict) else net(x[:2]))[:, 2].mul(region[2]).sum((1, 2)))


def test_the_class_of_a_segmentation_is_the_commonest_but_the_background():
    z = torch.zeros(3, 4, 2, 3)
    z[0, 0], z[0, 2, 0, 0] = 1, 2  # background but for one place
    z[1, 0] = 1  # background only
    z[2, 3], z[2, 1, 0, :2] = 1, 2
    chosen = targets.segment(z, None)
    assert chosen.classes.tolist() == [2, 0, 3]
    assert chosen.choices[1].sum((1, 2)).tolist() == [1, 6, 4]
    assert targets.segment(z, None, where=(0, 1)).classes.tolist() == [0, 0, 1]
    assert targets.segment(z, None, background=None).classes.tolist() == [0, 0, 3]
    ignored = torch.full((3, 2, 3), 255)
    ignored[0, 0, 0] = 1
    there = targets.segment(z, ignored, where="label")
    assert there.classes.tolist()[0] == 1
    assert there.absent.tolist() == [False, True, True]


def test_a_reference_is_frozen_at_the_first_look_and_kept():
    net, x = gap_mlp(), images()
    first = net(x).detach()
    for name in ("similarity", "projection"):
        target = find(name)
        start = look(net, target)
        if name == "similarity":
            assert close(start.aim.score[:, 0], torch.ones(3, dtype=torch.float64))
            assert maximum(start.heat[:, 0].abs()).max() < 1e-12  # the cosine is at its maximum
        else:
            assert close(start.aim.score[:, 0], first.norm(dim=1))
            assert start.heat.abs().max() > 1e-3
        trained = gap_mlp(1)
        e = trained(x).detach()
        later = look(trained, target)
        measure = F.cosine_similarity(e, first) if name == "similarity" else (e * F.normalize(first, dim=1)).sum(1)
        assert close(later.aim.score[:, 0], measure)
        resumed = find(name)
        resumed.load_state_dict(target.state_dict())
        assert torch.equal(look(trained, resumed).heat, later.heat)
        assert close(look(trained, resumed.anew()).aim.score[:, 0], look(trained, find(name)).aim.score[:, 0])


def test_a_reference_given_is_a_linear_target_of_projection():
    net, x, r = gap_linear(), images(), torch.tensor([3.0, 0.0, -4.0, 0.0])
    seen = explain(net, x, target={"projection": {"reference": r}})
    assert close(seen.heat, 0.6 * explain(net, x, target=0).heat - 0.8 * explain(net, x, target=2).heat)
    with pytest.raises(ValueError, match=r"is \(2, 4\) and the embeddings are \(3, 4\)"):
        explain(net, x, target={"similarity": {"reference": torch.ones(2, 4)}})


def test_a_box_is_found_again_by_class_and_overlap():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60], [0, 0, 10, 10]], requires_grad=True)
    scores, labels = torch.tensor([0.9, 0.8, 0.95, 0.7], requires_grad=True), torch.tensor([1, 1, 2, 2])
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}
    found = [{"boxes": boxes, "scores": scores, "labels": labels}, none]
    chosen = targets.detection(found, None)
    assert chosen.classes.tolist() == [2, 0]
    assert chosen.absent.tolist() == [False, True]
    assert chosen.score(found, *chosen.choices).tolist() == pytest.approx([1.95, 0.0])
    pinned = targets.detection(found[:1], None, boxes=[[0, 0, 10, 8]], classes=[1])
    score = pinned.score(found[:1], *pinned.choices)
    assert score.tolist() == pytest.approx([1.8])
    (g,) = torch.autograd.grad(score.sum(), scores)
    assert g.tolist() == [0, 1, 0, 0]
    other = targets.detection(found[:1], None, boxes=[[0, 0, 10, 10]], classes=[2])  # a better box of another class is there
    assert other.score(found[:1], *other.choices).tolist() == pytest.approx([1.7])
    elsewhere = targets.detection(found[:1], None, boxes=[[80, 80, 90, 90]], classes=[1])
    assert elsewhere.score(found[:1], *elsewhere.choices).tolist() == [0]


def test_a_torchvision_detector_is_explained():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as detector

    net = detector(weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0, min_size=64, max_size=96).eval()
    x = torch.rand(2, 3, 64, 96)
    seen = explain(net, x, layer="backbone.body.16", target="detection", output=lambda found: found)
    assert seen.heat.ndim == 3
    assert seen.score.shape == (2,)
    assert seen.heat.isfinite().any()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("net", "target", "labels", "message"),
    [
        (gap_linear, "positives", None, r"multi-hot labels \(3, 4\), one for each logit; got none"),
        (gap_linear, "positives", torch.tensor([0, 1, 2]), r"got \(3,\)\. For one class a sample use 'label'"),
        (gap_linear, "label", torch.zeros(3, 4), "'positives' explains every class that is set"),
        (lambda: gap_linear(k=1), "label", torch.tensor([0, 1, 0]), "'binary' explains a single logit"),
        (lambda: gap_linear(k=1), "runner_up", None, "Use 'binary'"),
        (lambda: gap_linear(k=1), "log_probability", None, "Use 'binary'"),
        (gap_linear, "binary", None, r"one logit a sample, \[b\] or \[b 1\]; got \(3, 4\)"),
        (gap_linear, {"log_probability": {"of": lambda z, label: z[:, 0]}}, None, "gives scores, and classes are needed"),
        (gap_linear, {"contrast": {"of": 7}}, None, "Class 7 is out of range: the model has 4 outputs"),
        (gap_linear, {"contrast": {"nearest": [4]}}, None, "expected class ids from 0 to 3"),
        (gap_linear, {"contrast": {"nearest": 0}}, None, "at least one class"),
        (gap_linear, {"contrast": {"gama": 1.0}}, None, "no option 'gama'. Did you mean 'gamma'"),
        (gap_linear, -1, None, "Class -1 is out of range: the model has 4 outputs, so classes are 0 to 3"),
        (gap_linear, "runnerup", None, "Did you mean 'runner_up'"),
        (gap_linear, {"value": {"of": 4}}, None, "with k above 4"),
        (gap_linear, {"value": {"less": "label"}}, None, "got none"),
        (gap_linear, "segment", None, r"logits of every place, \[b k h w\]; the model gave \(3, 4\)"),
        (Dense, {"segment": {"of": 4}}, None, "has 4 classes, 0 to 3"),
        (Dense, {"segment": {"where": (8, 0)}}, None, r"a place in \(8, 10\)"),
        (Dense, {"segment": {"where": "label"}}, None, r"class ids \(3, 8, 10\); got none"),
        (Dense, {"segment": {"where": torch.ones(3, 3)}}, None, r"a mask is \(8, 10\) or \(3, 8, 10\)"),
        (Dense, {"segment": {"where": "here"}}, None, "expected 'predicted'"),
        (Dense, "similarity", None, r"needs embeddings \[b e\]"),
        (gap_linear, "detection", None, "name them with output="),
    ],
)
def test_every_mistake_says_what_would_be_right(net, target, labels, message):
    with pytest.raises(ValueError, match=message), watch(net(), ["features"]) as look_at:
        look_at(images(), find(target), labels)


def test_look_alikes_need_a_classifier_or_names():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.last = flatten_linear(), nn.Conv1d(1, 1, 1).double()

        def forward(self, x):
            return self.last(self.net(x)[:, None])[:, 0]

    with pytest.raises(ValueError, match=r"'nearest': \[3, 7\].*or use 'rivals'"):
        explain(Scaled(), images(), layer="net.features", target="contrast")


def test_cam_takes_a_class_and_no_score_of_one():
    with pytest.raises(ValueError, match="cam needs a class as its target"):
        explain(gap_linear(), images(), method=cam, target="log_probability")
