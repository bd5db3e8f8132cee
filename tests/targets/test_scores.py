"""Scores made of logits: probabilities, contrasts, signs and values equal their formulas."""

import pytest
import torch
import torch.nn.functional as F
from aims import look
from compare import near
from torch import nn
from zoo import ZOO, conv_head, flatten_linear, gap_linear, gap_mlp, images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods import grad_cam
from lightning_cam.targets import find


def test_log_probability_is_the_probability_divided_by_itself():
    for net in ZOO.values():
        x = images()
        log, p = (explain(net(), x, target={name: {"classes": 2}}) for name in ("log_probability", "softmax_probability"))
        assert near(log.score.exp(), p.score)
        assert near(log.heat * p.score[:, None, None], p.heat)


def test_log_probability_is_the_logit_less_the_mean_by_probability():
    x, net = images(), gap_mlp()
    each = explain(net, x, target=[0, 1, 2, 3])
    p = each.logits.softmax(1)
    expected = each.heat[:, 1] - torch.einsum("bk,bkuv->buv", p, each.heat)
    assert near(explain(net, x, target={"log_probability": {"classes": 1}}).heat, expected)


@pytest.mark.parametrize("name", ["probability", "softmax", "prob", {"probability": {"classes": 2}}])
def test_a_probability_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=r"scaled by p \(1 - p\), so it fades.*'softmax_probability'"):
        explain(gap_linear(), images(), target=name)


def test_a_counterfactual_is_minus_the_logit():
    seen = explain(gap_mlp(), images(), target={"counterfactual": {"classes": 1}})
    logit = explain(gap_mlp(), images(), target=1)
    assert torch.equal(seen.score, -logit.score)
    assert torch.equal(seen.heat, -logit.heat)


def test_contrast_without_strength_is_grad_cam_of_the_class():
    for net in ZOO.values():
        x = images()
        for name in ("contrast", "rivals"):
            seen = explain(net(), x, target={name: {"gamma": 0.0}})
            assert near(seen.heat, explain(net(), x).heat)
            assert torch.equal(seen.score, explain(net(), x).score)


def alike(w, c, n):
    cosine = F.cosine_similarity(w[c][None], w, dim=1)
    return [d for d in cosine.argsort(descending=True).tolist() if d != c][:n]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("gamma", [0.6, 1.0])
def test_finer_cam_is_cam_of_the_weights_less_those_of_the_look_alikes(gamma, n):
    net, x = gap_linear(), images()
    a, w = net.features(x).detach(), net.head[-1].weight.detach()
    seen = look(net, {"contrast": {"gamma": gamma, "similar": n}}, torch.tensor([2, 0, 1]))
    for i, c in enumerate([2, 0, 1]):
        fine = w[c] - gamma * w[alike(w, c, n)].mean(0)
        expected = torch.einsum("c,cuv->uv", fine, a[i]) / (a.shape[2] * a.shape[3])
        assert near(seen.heat[i, 0], expected)


def test_the_look_alikes_of_a_convolutional_head_are_found_too():
    x = images()
    net = conv_head()
    w = net.head[1].weight.detach().flatten(1)
    seen = explain(net, x, target={"contrast": {"classes": 1, "similar": 2}})
    given = explain(net, x, target={"contrast": {"classes": 1, "similar": alike(w, 1, 2)}})
    assert near(seen.heat, given.heat)
    assert near(seen.score, seen.logits[:, 1] - 0.6 * seen.logits[:, alike(w, 1, 2)].mean(1))


def test_look_alikes_given_and_rivals_are_the_classes_said():
    net, x = gap_mlp(), images()
    z = explain(net, x).logits
    seen = explain(net, x, target={"contrast": {"classes": 1, "gamma": 1.0, "similar": [0, 1, 3]}})
    assert near(seen.score, z[:, 1] - z[:, [0, 3]].mean(1))  # a class is no look-alike of its own
    rival = explain(net, x, target={"rivals": {"gamma": 0.5, "similar": 2}})
    assert near(rival.score, z.max(1).values - 0.5 * z.topk(3).values[:, 1:].mean(1))


def test_a_score_of_positives_and_of_several_classes_has_a_map_for_each():
    hot = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1], [0, 1, 0, 0]])
    for name in ("contrast", "rivals", "log_probability", "counterfactual"):
        seen = look(gap_linear(), {name: {"classes": "positives"}}, hot)
        assert seen.scores.choice.absent.tolist() == [[False] * 3, [False, True, True], [False, True, True]]
        one = look(gap_linear(), {name: {"classes": "label"}}, torch.tensor([2, 3, 1]))
        assert near(seen.heat[0, 1], one.heat[0, 0])
        assert near(seen.heat[1:, 0], one.heat[1:, 0])
        assert seen.scores.choice.classes.tolist() == [[0, 2, 3], [3, -1, -1], [1, -1, -1]]


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
        with open_session(net, ["net.features"]) as session:
            seen = session.forward(x, find("binary"), torch.tensor(label).reshape(shape))
            sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
            assert torch.equal(seen.scores.score[:, 0], z.flatten() * sign)
            assert torch.equal(grad_cam(Seen(seen, "net.features")), plain * sign[:, None, None])
    said = explain(net, x, layer="net.features", target="binary")
    assert torch.equal(said.score, z.flatten().abs())


def test_a_regression_is_signed_and_told_from_a_reference():
    net, x = gap_mlp(), images()
    y = net(x).detach()
    seen = explain(net, x, target={"value": {"index": 2, "reference": 1.5}})
    assert torch.equal(seen.score, y[:, 2] - 1.5)
    assert torch.equal(seen.heat, explain(net, x, target=2).heat)
    error = look(net, {"value": {"index": 1, "reference": "label"}}, torch.ones(3, 4))
    assert near(error.scores.score[:, 0], y[:, 1] - 1)


def test_look_alikes_need_a_classifier_or_names():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.last = flatten_linear(), nn.Conv1d(1, 1, 1).double()

        def forward(self, x):
            return self.last(self.net(x)[:, None])[:, 0]

    with pytest.raises(ValueError, match=r"'similar': \[3, 7\].*or use 'rivals'"):
        explain(Scaled(), images(), layer="net.features", target="contrast")
