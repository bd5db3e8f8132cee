"""How often a look runs the model, what of it is recorded, and what is left when a session is over."""

import pytest
import torch
from compare import close
from maps import CLASSES, heat
from torch import nn
from traces import model_state
from zoo import gap_linear, images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.concepts import factorize
from lightning_cam.methods import grad_cam
from lightning_cam.targets import find


class Counted(nn.Module):
    """A net that writes down its calls: for each whether gradients are on before, at and behind the watched layer."""

    def __init__(self, own_no_grad: bool = False) -> None:
        super().__init__()
        net = gap_linear()
        self.stem, self.features, self.head = net.features[:2], net.features[2:], net.head
        self.own_no_grad = own_no_grad
        self.grad: list[tuple[bool, bool]] = []
        self.eval()

    def forward(self, x):
        before = torch.is_grad_enabled()
        if self.own_no_grad:
            with torch.no_grad():
                x = self.features(self.stem(x))
        else:
            x = self.features(self.stem(x))
        self.grad.append((before, torch.is_grad_enabled()))
        return self.head(x)


TARGETS = {
    "a_class": 2,
    "labels": torch.tensor(CLASSES),
    "predicted": "predicted",
    "several": [0, {"top_k": {"k": 2}}, "log_probability"],
    "a_score": lambda logits, label: logits.logsumexp(1),
}
WITHOUT_GRADIENT = {
    "a_constant": lambda logits, label: torch.ones(len(logits), dtype=logits.dtype),
    "an_argmax": lambda logits, label: logits.argmax(1).double(),
    "a_detached_score": lambda logits, label: logits.detach()[:, 0],
}


def forward_of(net, target, layer="features"):
    with open_session(net, [layer]) as session:
        return session.forward(images(), find(target))


# one forward


@pytest.mark.parametrize("target", TARGETS)
def test_a_look_costs_one_forward_and_records_from_the_layer_on(target):
    net = Counted()
    forward = forward_of(net, TARGETS[target])
    assert net.grad == [(False, True)]
    assert forward.scores.score.requires_grad
    output = forward.outputs["features"].output
    assert output.requires_grad and output.grad_fn.next_functions[0][0].name().endswith("AccumulateGrad")  # a leaf, cloned


@pytest.mark.parametrize("target", WITHOUT_GRADIENT)
def test_a_score_without_gradient_costs_one_forward_too(target):
    net = Counted()
    forward = forward_of(net, WITHOUT_GRADIENT[target])
    assert net.grad == [(False, True)]
    assert not forward.scores.score.requires_grad


@pytest.mark.parametrize("target", WITHOUT_GRADIENT)
def test_a_method_that_needs_that_gradient_says_so(target):
    with pytest.raises(ValueError, match="The score has no gradient with respect to features"):
        explain(Counted(), images(), layer="features", target=WITHOUT_GRADIENT[target])
    assert explain(Counted(), images(), layer="features", method="activation_mean", target=WITHOUT_GRADIENT[target]).heat.any()


def test_every_method_and_target_shares_the_forward():
    net, targets = Counted(), [0, 1, 2, 3]
    with open_session(net, ["stem", "features"]) as session:
        forward = session.forward(images(), find(targets))
        for layer in ("stem", "features"):
            for position in range(4):
                assert grad_cam(Seen(forward, layer, position)).any()
    assert len(net.grad) == 1


def test_a_model_with_its_own_no_grad_around_the_layer_runs_twice_and_gives_the_right_gradient():
    net, x = Counted(own_no_grad=True), images()
    forward = forward_of(net, torch.tensor(CLASSES))
    assert [before for before, _ in net.grad] == [False, True]
    free = Counted()
    a = free.features(free.stem(x)).detach().requires_grad_()
    score = free.head(a)[torch.arange(3), CLASSES].sum()
    (expected,) = torch.autograd.grad(score, a)
    close(Seen(forward, "features").gradient, expected, 1e-14)
    close(heat(Counted(own_no_grad=True), x, "grad_cam"), heat(free, x, "grad_cam"), 1e-14)


def test_a_model_with_its_own_no_grad_and_a_score_without_gradient_ends_after_two():
    net = Counted(own_no_grad=True)
    forward_of(net, WITHOUT_GRADIENT["a_constant"])
    assert len(net.grad) == 2


def test_the_layer_is_traced_for_only_where_none_is_named():
    named, found = Counted(), Counted()
    explain(named, images(), layer="features", method="activation_mean")
    assert len(named.grad) == 1
    explain(found, images(), method="activation_mean")
    assert len(found.grad) == 2


# without gradient


class Behind(nn.Module):
    """Tells whether gradients are on where it stands."""

    def __init__(self, grad: list) -> None:
        super().__init__()
        self.grad = grad

    def forward(self, x):
        self.grad.append(torch.is_grad_enabled())
        return x


def observed():
    """A net with such a place in its trunk and behind the watched layer."""
    net, grad = gap_linear(), []
    return nn.Sequential(net.features[:2], Behind(grad), net.features[2:], Behind(grad), net.head).eval(), grad


def test_factorize_runs_the_model_once_without_any_gradient():
    net, grad = observed()
    factorize(net, images(), concepts=2, layer="2")
    assert grad == [False, False]


def test_factorize_runs_it_once_more_where_the_layer_is_to_be_found():
    net, grad = observed()
    found = factorize(net, images(), concepts=2)
    assert len(grad) == 4 and grad[2:] == [False, False]
    named = factorize(net, images(), concepts=2, layer=found.layer)
    assert torch.equal(found.maps, named.maps)


def test_activations_have_the_layers_output_and_no_score():
    net, x = gap_linear(), images()
    with open_session(net, ["features"]) as session:
        forward = session.activations(x)
        assert forward.scores is None
        assert torch.equal(Seen(forward, "features").activation, net.features(x).detach())
        assert not forward.output.requires_grad and not forward.outputs["features"].output.requires_grad
        for read in (lambda: forward.target_scores, lambda: Seen(forward, "features").score, lambda: forward.attention):
            with pytest.raises(ValueError, match="run without a target, so there is no score; name a target"):
                read()


# when it is over

OVER = "The look is over: rescore and with_image work while the layers are watched"


def test_a_session_that_is_over_runs_nothing():
    net, x = Counted(), images()
    with open_session(net, ["features"]) as session:
        seen = Seen(session.forward(x, find(0)), "features")
        activation = seen.activation
        inside = seen.rescore(0, image=x[:1]), seen.with_image(x).score
        assert session.is_open
    calls = len(net.grad)
    for change in (
        lambda: seen.rescore(0, image=x[:1]),
        lambda: seen.rescore(0, activation=activation[:1]),
        lambda: seen.with_image(x),
        lambda: seen.rerun(image=x),
        lambda: session.forward(x, find(0)),
        lambda: session.activations(x),
        lambda: session.run(x),
    ):
        with pytest.raises(RuntimeError, match=OVER):
            change()
    assert len(net.grad) == calls and not session.is_open
    assert torch.equal(inside[0], seen.score[:1]) and torch.equal(inside[1], seen.score)
    assert seen.gradient.any()  # what was recorded can still be differentiated


@pytest.mark.parametrize("place", ["in the block", "in the model", "in the target", "in a layer that returns no map"])
def test_after_an_error_every_hook_is_out_and_the_session_is_over(place):
    net = Counted().train()
    net.head[2].eval()  # a module of its own mind
    before, opened = model_state(net), []
    target, layer = find(0), "features"
    if place == "in the target":
        target = find(lambda logits, label: 1 / 0)
    if place == "in a layer that returns no map":
        layer = "head"
    if place == "in the model":
        net.head[3].forward, original = lambda x: 1 / 0, net.head[3].forward
    with pytest.raises((ZeroDivisionError, ValueError)), open_session(net, [layer]) as session:
        opened.append(session)
        hooks = [module for module in net.modules() if module._forward_hooks]
        assert [module is net.get_submodule(layer) for module in hooks] == [True]
        session.forward(images(), target)
        raise ZeroDivisionError
    if place == "in the model":
        del net.head[3].forward
        assert net.head[3].forward == original
    assert not opened[0].is_open and opened[0].hooks.action is None
    assert model_state(net) == before
    assert not any(module._forward_hooks for module in net.modules())


def test_a_changed_map_is_put_in_at_the_call_that_was_watched():
    """A layer called twice: the maps of its first call changed leave the second to be computed from them."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)
            self.double().eval()

        def forward(self, x):
            return self.head(self.conv(torch.relu(self.conv(x))).mean((2, 3)))

    net, x = Twice(), images()
    changed = torch.randn(2, 3, 8, 10, dtype=torch.float64)
    expected = {
        "conv#0": net.head(net.conv(torch.relu(changed)).mean((2, 3)))[:, 1],
        "conv#1": net.head(changed.mean((2, 3)))[:, 1],
        "conv": net.head(changed.mean((2, 3)))[:, 1],
    }
    for layer, scores in expected.items():
        with open_session(net, [layer]) as session:
            seen = Seen(session.forward(x, find(1)), layer)
            close(seen.rescore(0, activation=changed), scores.detach(), 1e-14)


def test_a_session_leaves_the_images_as_they_are():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = gap_linear()

        def forward(self, x):
            return self.net(x.mul_(2))

    x = images()
    before = x.clone()
    with open_session(Writes(), ["net.features"]) as session:
        seen = Seen(session.forward(x, find(0)), "net.features")
        seen.rescore(0, image=x[:1])
        seen.with_image(x)
    assert torch.equal(x, before)
