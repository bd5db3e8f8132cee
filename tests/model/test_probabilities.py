"""Outputs that are probabilities: the logits in front of them are explained, or what stands for them; other numbers are not."""

import logging

import pytest
import reference_gradient  # noqa: F401 - binds references
import reference_perturbation  # noqa: F401 - binds references
import torch
from compare import close, near
from maps import CLASSES, EVERY, heat
from reference import REFERENCES, Case
from torch import Tensor, nn
from traces import model_state, modes
from vits import ViT, photos
from zoo import gap_linear, gap_mlp, images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.capture.summary.predictions import predict
from lightning_cam.model.probabilities import OutputReader, without_rounding
from lightning_cam.targets import find

DEAR = ["score_cam", "ablation_cam", "recipro_cam", {"smooth": {"method": "grad_cam", "n": 2}}, {"sess": {"method": "cam"}}]


class Ending(nn.Module):
    """A net with something behind its logits."""

    def __init__(self, end, net=None) -> None:
        super().__init__()
        self.net, self.end = net or gap_mlp(), end
        self.calls = 0
        self.eval()

    def forward(self, x: Tensor):
        self.calls += 1
        return self.end(self.net(x))


class Named(nn.Softmax):
    """A softmax of one's own, called by keyword, whose output is handed on in another shape of container."""

    def forward(self, input):
        return super().forward(input / 2)


MODULES = {
    "softmax": nn.Softmax(1),
    "softmax over the last side": nn.Softmax(-1),
    "sigmoid": nn.Sigmoid(),
    "in a sequence": nn.Sequential(nn.Identity(), nn.Softmax(dim=1)),
    "in double precision": nn.Sequential(
        nn.Softmax(1), type("Double", (nn.Module,), {"forward": lambda self, p: p.double()})()
    ),
}


def told(caplog):
    return [record.message for record in caplog.records if "probabilities" in record.message]


# the logits in front of a module


@pytest.mark.parametrize("end", MODULES)
@pytest.mark.parametrize("method", [*EVERY, *DEAR], ids=str)
def test_the_map_is_that_of_the_net_without_its_softmax_or_sigmoid(end, method):
    if isinstance(method, dict) and "sess" in method and end != "softmax":
        pytest.skip("windows of one kind of end are enough")
    plain = gap_linear if isinstance(method, dict) and "sess" in method else gap_mlp
    x, net = images(), Ending(MODULES[end], plain())
    before = model_state(net), modes()
    target = torch.tensor(CLASSES)
    ours = explain(net, x, layer="net.features", method=method, target=target)
    expected = explain(plain(), x, layer="features", method=method, target=target)
    close(ours.heat, expected.heat, 1e-10)
    close(ours.score, expected.score, 1e-12)
    close(ours.logits, expected.logits, 1e-12)
    assert (model_state(net), modes()) == before


CLASS_TARGETS = ["predicted", "runner_up", {"top_k": {"k": 3}}, 1, [2, "predicted"], "counterfactual"]
SCORES_OF_CLASSES = ["rivals", "log_probability", "softmax_probability", {"contrast": {"similar": 2}}]


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
@pytest.mark.parametrize("target", [*CLASS_TARGETS, *SCORES_OF_CLASSES], ids=str)
def test_every_target_of_classes_means_what_it_says(end, target):
    x = images()
    ours = explain(Ending(MODULES[end]), x, layer="net.features", target=target)
    expected = explain(gap_mlp(), x, layer="features", target=target)
    close(ours.heat, expected.heat, 1e-10)
    close(ours.score, expected.score, 1e-12)
    if expected.classes is not None:
        assert torch.equal(ours.classes, expected.classes)


def test_a_binary_classifier_with_a_sigmoid_is_explained_by_the_sign_of_its_logit():
    net, x = gap_mlp(k=1), images(6)
    net.head[4].bias.data.sub_(net(x).detach().median())
    assert 0 < int((net(x) > 0).sum()) < 6  # of either sign, where every probability is above 0
    expected = explain(net, x, layer="features", target="binary")
    for end in (nn.Sigmoid(), nn.Sequential(nn.Sigmoid(), nn.Flatten(0)), torch.sigmoid, lambda z: z.sigmoid().squeeze(1)):
        wrapped = Ending(end, net)
        ours = explain(wrapped, x, layer="net.features", target="binary")
        close(ours.score, expected.score, 1e-12)
        close(ours.heat, expected.heat, 1e-10)


def test_attention_is_explained_by_the_logits_too():
    x = photos()
    for method in ("attention_relevance", "le_grad", "grad_eclip"):
        ours = explain(Ending(nn.Softmax(1), ViT()), x, layer="net.blocks.0", method=method, target=2).heat
        close(ours, explain(ViT(), x, layer="blocks.0", method=method, target=2).heat, 1e-10)
    # an attention whose own softmax is a module, in front of one that ends the model
    ours = explain(Ending(nn.Softmax(1), ViT(how="module")), x, layer="net.blocks.0", target=2).heat
    close(ours, explain(ViT(how="module"), x, layer="blocks.0", target=2).heat, 1e-10)


def test_the_logits_are_had_wherever_the_probabilities_are_named():
    x = images()
    expected = heat(gap_mlp(), x, "grad_cam")
    for end, output in (
        (lambda z: {"probs": MODULES["softmax"](z), "features": z}, "probs"),
        (lambda z: (z.detach(), MODULES["softmax"](z)), 1),
        (lambda z: {"logits": z, "probs": MODULES["softmax"](z)}, None),
    ):
        net = Ending(end)
        net.softmax = MODULES["softmax"]
        close(heat(net, x, "grad_cam", layer="net.features", output=output), expected, 1e-10)


def test_a_softmax_of_ones_own_is_seen_through_to_what_it_was_given():
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.own = gap_mlp(), Named(1)

        def forward(self, x):
            return self.own(input=self.net(x))

    close(heat(Called().eval(), images(), "grad_cam", layer="net.features"), heat(gap_mlp(), images(), "grad_cam"), 1e-10)


@pytest.mark.parametrize("end", ["softmax", "sigmoid", "in front of nothing"])
def test_it_costs_no_further_forward(end):
    net = Ending(MODULES.get(end, nn.Identity()))
    explain(net, images(), layer="net.features")
    assert net.calls == 1


# what stands for logits that a forward hides

HIDDEN = {
    "softmax": (lambda z: z.softmax(1), lambda z: z.log_softmax(1)),
    "softmax by hand": (lambda z: z.exp() / z.exp().sum(1, keepdim=True), lambda z: z.log_softmax(1)),
    "log-softmax": (lambda z: z.log_softmax(1), lambda z: z.log_softmax(1)),
    "log-softmax, a module": (nn.LogSoftmax(1), lambda z: z.log_softmax(1)),
    "sigmoid": (torch.sigmoid, lambda z: z),
    "sigmoid, in another shape": (lambda z: z.sigmoid()[:, None].flatten(1).clone(), lambda z: z),
    "two of one": (lambda z: torch.stack([1 - z[:, 0].sigmoid(), z[:, 0].sigmoid()], 1), None),
}


@pytest.mark.parametrize("end", HIDDEN)
@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "score_cam", "ablation_cam", "recipro_cam"])
def test_hidden_logits_are_explained_by_the_log_probability_or_log_odds(end, method):
    """Against references of their own, with the logarithm in the net's tail."""
    x, (hidden, logarithm) = images(), HIDDEN[end]
    net = gap_mlp()
    classes = CLASSES
    if logarithm is None:
        logarithm, classes = lambda z: torch.stack([-z[:, 0], z[:, 0]], 1).sigmoid().log(), [1, 0, 1]
    case = Case(net.features, lambda a: logarithm(net.head(a)))
    ours = heat(Ending(hidden), x, method, classes, layer="net.features")
    close(ours, REFERENCES[method](case, x, classes), 1e-10)


def test_the_map_of_a_hidden_softmax_is_the_gradient_of_log_p_written_by_hand():
    net, x = gap_mlp(), images()
    a = net.features(x).detach().requires_grad_()
    p = net.head(a).softmax(1)
    (g,) = torch.autograd.grad(p[range(3), CLASSES].log().sum(), a)
    expected = (g.mean((2, 3), keepdim=True) * a).sum(1).detach()
    close(heat(Ending(lambda z: z.softmax(1)), x, "grad_cam", layer="net.features"), expected, 1e-10)


# dense outputs

CONV = nn.Conv2d(6, 3, 1).double()


@pytest.mark.parametrize("end", [nn.Softmax(dim=1), nn.Softmax2d(), nn.Softmax(-3), nn.Sigmoid(), torch.sigmoid])
def test_every_place_of_a_segmentation_is_explained_by_its_logits(end):
    x = images()
    plain = nn.Sequential(gap_mlp().features, CONV)
    target = {"segment": {"class_id": 1, "region": "everywhere"}}
    ours = explain(Ending(end, plain), x, layer="net.0", target=target)
    close(ours.heat, explain(plain, x, layer="0", target=target).heat, 1e-10)


def test_every_place_of_a_hidden_softmax_is_explained_by_its_log_probability():
    x, plain = images(), nn.Sequential(gap_mlp().features, CONV)
    target = {"segment": {"class_id": 1, "region": "everywhere"}}
    ours = explain(Ending(lambda z: z.softmax(1), plain), x, layer="net.0", target=target)
    close(ours.heat, explain(Ending(lambda z: z.log_softmax(1), plain), x, layer="net.0", target=target).heat, 1e-10)
    assert near(ours.score, plain(x).log_softmax(1)[:, 1].sum((1, 2)).detach())


# what is no probability


def squashed(z):
    """Logits in [0, 1], of which some rows may sum to 1 by chance."""
    z = 0.1 + 0.05 * torch.tanh(z)
    rest = 1 - z[:1, 1:].sum(1, keepdim=True)
    return torch.cat([torch.cat([rest, z[:1, 1:]], 1), z[1:]])


class Gate(nn.Module):
    """A sigmoid and a softmax that are not the last thing that happens."""

    def __init__(self):
        super().__init__()
        self.gate, self.softmax = nn.Sigmoid(), nn.Softmax(1)

    def forward(self, z):
        return z * self.gate(z) + self.softmax(z)


NONE = {
    "logits in [0, 1]": squashed,
    "a sigmoid in the middle": Gate(),
    "a sigmoid with something behind": lambda z: 2 * z.sigmoid(),
    "a softmax over the batch": nn.Softmax(0),
    "rows that sum to 1 and leave [0, 1]": lambda z: 10 * (z - z.mean(1, keepdim=True)) + 0.25,
    "rows that sum to 1.01": lambda z: 1.01 * z.softmax(1),
    "rows of length 1": lambda z: nn.functional.normalize(z.relu() + 0.1, dim=1),
}


@pytest.mark.parametrize("end", NONE)
def test_other_outputs_are_explained_as_they_are(end, caplog):
    caplog.set_level(logging.INFO)
    x, net = images(), Ending(NONE[end])
    ours = explain(net, x, layer="net.features", target=torch.tensor(CLASSES))
    assert torch.equal(ours.logits, net(x).detach())
    assert torch.equal(ours.score, net(x)[range(3), CLASSES].detach())
    a = net.net.features(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(net.end(net.net.head(a))[range(3), CLASSES].sum(), a)
    close(ours.heat, (g.mean((2, 3), keepdim=True) * a).sum(1).detach(), 1e-12)
    assert not told(caplog)


def test_a_softmax_over_one_class_says_nothing_and_has_no_evidence():
    ours = explain(Ending(nn.Softmax(1), gap_mlp(k=1)), images(), layer="net.features", target=0)
    assert torch.equal(ours.score, torch.ones(3, dtype=torch.float64))
    assert not ours.heat.any()


READ_AS_THEY_ARE = {
    "value": lambda p: p[:, 0],
    "value, of labels": lambda p: p[:, 0] - 0.5,
    "a score of one's own": lambda p: p[:, 1] - p[:, 2],
    "projection": lambda p: p @ nn.functional.normalize(torch.arange(4.0).double(), dim=0),
}


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", READ_AS_THEY_ARE)
def test_targets_of_no_class_are_given_the_output_as_it_is(end, name, caplog):
    caplog.set_level(logging.INFO)
    score = READ_AS_THEY_ARE[name]
    target = {
        "value": "value",
        "value, of labels": {"value": {"reference": 0.5}},
        "a score of one's own": lambda p, label: score(p),
        "projection": {"projection": {"reference": torch.arange(4.0).double()}},
    }[name]
    x, net = images(), Ending(MODULES[end])
    ours = explain(net, x, layer="net.features", target=target)
    assert near(ours.score, score(net(x)).detach())
    assert torch.equal(ours.logits, net(x).detach())
    a = net.net.features(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(score(net.end(net.net.head(a))).sum(), a)
    close(ours.heat, (g.mean((2, 3), keepdim=True) * a).sum(1).detach(), 1e-12)
    assert not told(caplog)


def test_targets_side_by_side_read_each_for_itself():
    x, net = images(), Ending(nn.Softmax(1))
    both = explain(net, x, layer="net.features", target=["value", 2, lambda p, label: p[:, 1]])
    for i, target in enumerate(("value", 2, lambda p, label: p[:, 1])):
        alone = explain(net, x, layer="net.features", target=target)
        assert near(both.heat[:, i], alone.heat) and near(both.score[:, i], alone.score)
    assert near(both.score[:, 0], net(x)[:, 0].detach()) and near(both.score[:, 1], gap_mlp()(x)[:, 2].detach())


def test_a_callable_that_chooses_classes_is_given_probabilities_and_their_logits_are_explained():
    given = []

    def rare(p, label):
        given.append(p)
        return p.argmin(1)

    x, net = images(), Ending(nn.Softmax(1))
    ours = explain(net, x, layer="net.features", target=rare)
    assert torch.equal(given[0], net(x))
    expected = explain(gap_mlp(), x, layer="features", target=gap_mlp()(x).argmin(1))
    close(ours.heat, expected.heat, 1e-10)


# decided once


def test_what_was_decided_at_the_unchanged_samples_holds_for_all_others():
    """Blanked maps give a row of zeros, which no longer is one of probabilities."""

    def rows(z):
        return z.relu() / z.relu().sum(1, keepdim=True).clamp(min=1e-30)

    net, x = gap_mlp(), images()
    nn.init.constant_(net.head[4].bias, 0.0)
    net.head[4].weight.data.abs_()
    net.head[2].weight.data.abs_()
    net.head[2].bias.data.zero_()
    with open_session(Ending(rows, net), ["net.features"]) as session:
        seen = Seen(session.forward(x, find(2)), "net.features")
        assert near(seen.score, rows(net(x))[:, 2].log().detach())
        blank = seen.rescore(0, activation=torch.zeros_like(seen.activation[:1]))
        assert near(blank, torch.full((1,), torch.finfo(torch.float64).tiny, dtype=torch.float64).log())
        again = seen.with_image(2 * x)
        assert near(again.score, rows(net(2 * x))[:, 2].log().detach())


def test_a_model_is_decided_on_anew_at_every_look():
    net, x = Ending(nn.Softmax(1)), images()
    reader = OutputReader()
    with reader.attached(net):
        reader.decide(net(x))
        assert reader.read(net(x)).kind == "softmax"
        reader.decide(net.net(x))
        assert reader.read(net.net(x)).kind is None
        reader.decide({"not": "a tensor"})
        assert reader.read([1]).output == [1]
        reader.decide(net(x).argmax(1))
        assert reader.read(net(x)).kind is None
    assert not reader.given and not net.end._forward_hooks


# in words and captions


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (nn.Softmax(1), "explained are the logits in front of its softmax 'end'"),
        (nn.Sigmoid(), "explained are the logits in front of its sigmoid 'end'"),
        (lambda z: z.softmax(1), "explained is the log-probability, since a softmax .* end the model in nn.Softmax"),
        (torch.sigmoid, "explained are the log-odds, since a sigmoid .* end the model in nn.Sigmoid"),
    ],
)
def test_it_is_said(end, words, caplog):
    caplog.set_level(logging.INFO)
    explain(Ending(end), images(), layer="net.features")
    (message,) = told(caplog)
    assert pytest.importorskip("re").search(f"explain: the model gives probabilities: {words}", message)
    caplog.clear()
    explain(Ending(nn.LogSoftmax(1)), images(), layer="net.features")  # as good as logits
    assert not told(caplog)


def predictions(end, labels=None, target=0):
    with open_session(Ending(end), ["net.features"]) as session:
        return predict(session.forward(images(), find(target), labels))


def test_captions_tell_the_probabilities_as_they_are():
    x, z = images(), gap_mlp()(images()).detach().float()
    labels = torch.tensor(CLASSES)
    for end in (nn.Softmax(1), lambda z: z.softmax(1), nn.LogSoftmax(1), nn.Identity()):
        found = predictions(end, labels)
        assert torch.allclose(found.probability[:, 0], z.softmax(1)[:, 0])
        assert torch.allclose(found.predicted_probability, z.softmax(1).amax(1))
        assert torch.equal(found.predicted, z.argmax(1))
    several = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0]])
    for end in (nn.Sigmoid(), torch.sigmoid, nn.Identity()):
        found = predictions(end, several)
        assert torch.allclose(found.probability[:, 0], z.sigmoid()[:, 0])
        assert (found.predicted == -1).all()
    # several may be right also where nobody says which are; of one label a sample one is predicted
    for end in (nn.Sigmoid(), torch.sigmoid):
        found = predictions(end)
        assert torch.allclose(found.probability[:, 0], z.sigmoid()[:, 0]) and (found.predicted == -1).all()
        found = predictions(end, labels)
        assert torch.allclose(found.predicted_probability, z.sigmoid().amax(1)) and torch.equal(found.predicted, z.argmax(1))
    assert len(x) == 3


# precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precision_is_seen_through(dtype):
    x = images().to(dtype)
    exact = heat(gap_mlp(), images(), "grad_cam")
    for end in (nn.Softmax(1), nn.Sigmoid(), torch.sigmoid):
        low = heat(Ending(end, gap_mlp().to(dtype)), x, "grad_cam", layer="net.features")
        assert (low - exact).abs().max() <= 0.05 * exact.abs().max()
    exact = heat(Ending(lambda z: z.log_softmax(1)), images(), "grad_cam", layer="net.features")
    low = heat(Ending(lambda z: z.softmax(1), gap_mlp().to(dtype)), x, "grad_cam", layer="net.features")
    assert (low - exact).abs().max() <= 0.08 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_gradient_ends_where_a_probability_is_one_but_for_rounding(dtype):
    eps = torch.finfo(dtype).eps
    p = torch.tensor([0.5, 1 - 8 * eps, 1 - eps, 1.0, torch.nan], dtype=dtype, requires_grad=True)
    scores = without_rounding(p * 3, p)
    assert torch.equal(scores[:4], 3 * p[:4])
    (gradient,) = torch.autograd.grad(scores.sum(), p)
    assert gradient.tolist() == [3, 3, 0, 0, 3]


def test_probabilities_of_zero_and_one_give_finite_scores_and_no_gradient():
    for end in (lambda z: (1e4 * z).softmax(1), lambda z: (1e4 * z).sigmoid()):
        seen = explain(Ending(end), images(), layer="net.features", target=[0, 1, 2, 3])
        assert seen.score.isfinite().all() and not seen.heat.any()
