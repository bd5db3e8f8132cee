"""A layer that returns a tuple, list, dict or object stands for the first map in there, and a changed map goes back there."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from compare import close
from maps import CLASSES, heat
from torch import Tensor, nn
from traces import model_state
from transformers.modeling_outputs import BaseModelOutput
from zoo import images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.model.call.entries import at, find_step, with_part
from lightning_cam.model.default_layer import find_default_layer
from lightning_cam.model.names import find_layer, split_call, split_keys
from lightning_cam.targets import find


class Named(NamedTuple):
    weights: Any
    features: Tensor


@dataclass(frozen=True)
class Frozen:
    features: Tensor
    weights: Any = None


class Plain:
    def __init__(self, features: Tensor) -> None:
        self.weights = 3
        self.features = features


FORMS = {
    "itself": (lambda a: a, lambda held: held),
    "tuple": (lambda a: (a, None), lambda held: held[0]),
    "tuple, second": (lambda a: (a.mean((2, 3)), a), lambda held: held[1]),
    "list": (lambda a: [a, 3.0], lambda held: held[0]),
    "dict": (lambda a: {"loss": None, "features": a}, lambda held: held["features"]),
    "named tuple": (lambda a: Named("w", a), lambda held: held.features),
    "dataclass": (Frozen, lambda held: held.features),
    "object": (Plain, lambda held: held.features),
    "Hugging Face's": (lambda a: BaseModelOutput(last_hidden_state=a), lambda held: held[0]),
}


class Block(nn.Module):
    """Two functions of the image in one form; the head is given its map, and its kind is demanded."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 6, 3, 2, 1)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        pack, _ = FORMS[self.form]
        return pack(self.conv(x).relu() * 1)


class Net(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.block = Block(form)
        self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.kinds: set[type] = set()
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        held = self.block(self.stem(x))
        self.kinds.add(type(held))
        _, unpack = FORMS[self.block.form]
        # an in-place operation behind the layer may not write into what the look keeps
        return self.head(unpack(held).mul_(2).mean((2, 3)))


METHODS = ["grad_cam", "hires_cam", "score_cam", "ablation_cam", "recipro_cam", "integrated_gradients", "activation_mean"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_that_of_a_layer_that_returns_the_tensor_alone(form, method):
    x, net = images(), Net(form)
    before = model_state(net)
    close(heat(net, x, method, layer="block"), heat(Net("itself"), x, method, layer="block"), 1e-10)
    assert model_state(net) == before
    assert len(net.kinds) == 1  # the model was never handed a container of another kind


KEYS = {
    "tuple": ["0"],
    "tuple, second": ["1", "-1"],
    "dict": ["features", "'features'", "1"],
    "named tuple": ["features", "1"],
    "dataclass": ["features"],
    "object": ["features"],
    "Hugging Face's": ["last_hidden_state", "0"],
}


@pytest.mark.parametrize(("form", "key"), [(form, key) for form, keys in KEYS.items() for key in keys])
def test_a_part_is_named_by_index_or_key(form, key):
    x = images()
    expected = heat(Net("itself"), x, "grad_cam", layer="block")
    for name in (f"block[{key}]", f"block[{key}]#0", f"block#0[{key}]"):
        close(heat(Net(form), x, "grad_cam", layer=name), expected, 1e-10)


def test_parts_of_parts_and_several_parts_are_watched_together():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 3, 2, 1)

        def forward(self, x):
            return {"pyramid": [self.a(x).relu(), self.b(x).relu()], "x": 1}

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Two(), nn.Linear(9, 4)
            self.double().eval()

        def forward(self, x):
            fine, coarse = self.body(x)["pyramid"]
            return self.head(torch.cat([fine.mean((2, 3)), coarse.amax((2, 3))], 1))

    net, x = Whole(), images()
    names = ["body[pyramid][0]", "body[pyramid][1]"]
    with open_session(net, names) as session:
        forward = session.forward(x, find(torch.tensor(CLASSES)))
        for name, layer in zip(names, ("a", "b"), strict=True):
            seen = Seen(forward, name)
            expected = net.body.get_submodule(layer)(x).relu()
            assert torch.equal(seen.activation, expected.detach())
            assert torch.allclose(seen.rescore(1, activation=seen.activation[1:2]), seen.score[1:2], rtol=1e-12)
            changed = seen.rescore(1, activation=2 * seen.activation[1:2])
            assert not torch.allclose(changed, seen.score[1:2])
            a = expected.detach().requires_grad_()
            parts = [net.body.a(x).relu(), net.body.b(x).relu()]
            parts["ab".index(layer)] = a
            score = net.head(torch.cat([parts[0].mean((2, 3)), parts[1].amax((2, 3))], 1))[range(3), CLASSES].sum()
            close(seen.gradient, torch.autograd.grad(score, a)[0], 1e-12)
    with pytest.raises(ValueError, match=r"'body' returned a dict of pyramid, x; expected a map"):
        explain(net, x, layer="body")  # its maps lie deeper than a first look: which is meant must be said


def test_layers_of_torch_that_return_pairs_are_watched():
    class Recurrent(nn.Module):
        """Rows of a picture read one after the other, as tokens."""

        def __init__(self, layer):
            super().__init__()
            self.embed, self.layer, self.head = nn.Conv2d(3, 8, 4, 4), layer, nn.Linear(8, 3)

        def forward(self, x):
            tokens = self.embed(x).flatten(2).mT
            given = (tokens,) * (3 if isinstance(self.layer, nn.MultiheadAttention) else 1)
            tokens, _ = self.layer(*given)
            return self.head(tokens.square().mean(1))

    x = torch.rand(2, 3, 16, 16)
    for layer in (
        nn.LSTM(8, 8, batch_first=True),
        nn.GRU(8, 8, batch_first=True),
        nn.MultiheadAttention(8, 2, batch_first=True),
    ):
        explanation = explain(Recurrent(layer).eval(), x, layer="layer", target=1)
        assert explanation.heat.shape == (2, 4, 4) and explanation.heat.any()


# the default layer and names


def test_a_model_whose_maps_are_all_within_tuples_has_a_default_layer():
    class Functional(nn.Module):
        """A block of functions alone, so that no module returns a map by itself."""

        def __init__(self, stride=1):
            super().__init__()
            self.weight, self.stride = nn.Parameter(torch.randn(3, 3, 3, 3)), stride

        def forward(self, x):
            return nn.functional.conv2d(x[0], self.weight, stride=self.stride).relu(), None

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, held):
            return self.linear(held[0].mean((2, 3)))

    class Aside(Functional):
        """Its output is used by nothing."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last, self.aside, self.head = Functional(), Functional(2), Aside(), Head()

        def forward(self, x):
            held = self.last(self.first((x,)))
            self.aside((x,))
            return self.head(held)

    net, x = Deep().eval(), images().float()
    assert find_default_layer(net, x, net) == "last"
    assert explain(net, x).layer == "last"
    assert torch.equal(explain(net, x).heat, explain(net, x, layer="last[0]").heat)


@pytest.mark.parametrize("form", FORMS)
def test_a_map_returned_as_it_is_stays_the_default(form):
    expected = "block" if form == "itself" else "block.conv"
    assert explain(Net(form), images(), method="activation_mean").layer == expected


def test_names_are_taken_apart():
    assert [split_call(name) for name in ("a.b", "a.b#2", "a.b[0]", "a[x][1]#3", "a#3[x][1]", "#1", "")] == [
        *(("a.b", None), ("a.b", 2), ("a.b", None), ("a", 3), ("a", 3), ("#1", None), ("", None)),
    ]
    assert [split_keys(name) for name in ("a", "a[0]", "a[x][1]#3", 'a#3["x"][1]')] == [[], ["0"], ["x", "1"], ["x", "1"]]
    net = Net("tuple")
    assert find_layer(net, "block#1[0]") == find_layer(net, "block[0]#1") == "block[0]#1"
    with pytest.raises(ValueError, match=r"no layer 'blok'. Did you mean 'block'"):
        find_layer(net, "blok[0]")


def test_a_part_is_put_back_into_a_copy_of_the_same_kind():
    for pack, _ in list(FORMS.values())[1:]:
        held = pack(torch.zeros(1, 1, 2, 2))
        for word in ("features", "last_hidden_state", "0", "1"):
            step = find_step(held, word)
            if step is None or not isinstance(at(held, (step,)), Tensor):
                continue
            changed = with_part(held, (step,), torch.ones(1))
            assert type(changed) is type(held)
            assert at(changed, (step,)).item() == 1 and not at(held, (step,)).any()
    assert find_step((1, 2), "2") is None and find_step(Named(1, 2), "other") is None and find_step(torch.ones(2), "0") is None
