"""With what a model is called is told by its signature, and where that leaves a choice by trying."""

import inspect

import pytest
import torch
from doors import PLACE, Empty, Located, Plain, Whole, WithoutForward, X
from torch import nn

from lightning_cam.model.call import Inputs, ModelCall
from lightning_cam.model.call.arguments import Arguments, possible_arguments
from lightning_cam.model.call.refusal import has_forward, signature_of

NAMED = Inputs({"image": X, "place": PLACE, "labels": PLACE[:, 0]}, (("item", "image"),), count=4)
UNNAMED = Inputs((X, PLACE), (("item", 0),), count=4)
NESTED = Inputs({"views": [X, X]}, (("item", "views"), ("item", 0)), count=4)
FACES = Inputs({"pixel_values": X}, (("item", "pixel_values"),), count=4)
ALONE = Inputs()


def signature(function):
    return inspect.signature(function)


def of(**words):
    return Arguments(**words)


BY_NAME = [of(keyword="image", names=names) for names in (("place",), ("place", "labels"), ())]
CASES = {
    "images alone": (lambda x: 0, ALONE, [of()]),
    "an option that the batch lacks": (lambda x, scale=1: 0, NAMED, [of(), of(whole=True)]),
    "an option that the batch has": (lambda image, place=None: 0, NAMED, [of(), of(names=("place",))]),
    "labels are never given unasked": (lambda image, labels=None: 0, NAMED, [of()]),
    "labels that are asked for": (lambda image, labels: 0, NAMED, [of(names=("labels",))]),
    "what the batch has": (lambda image, place: 0, NAMED, [of(names=("place",))]),
    "what the batch has, images second": (lambda place, image: 0, NAMED, [of(keyword="image", names=("place",))]),
    "what the batch lacks": (lambda image, mask: 0, NAMED, []),
    "what a tuple cannot have": (lambda image, place: 0, UNNAMED, []),
    "what cannot be named": (eval("lambda image, place, /: 0"), NAMED, []),
    "by keyword only": (lambda *, pixel_values: 0, ALONE, [of(keyword="pixel_values")]),
    "Hugging Face's name behind another": (lambda ids=None, pixel_values=None: 0, ALONE, [of(keyword="pixel_values")]),
    "a batch by its name": (lambda batch: 0, UNNAMED, [of(whole=True), of()]),
    "a tuple under another name": (lambda x: 0, UNNAMED, [of()]),
    "no batch by its name": (lambda batch: 0, ALONE, [of()]),
    "anything": (lambda *args, **options: 0, NAMED, [of()]),
    "anything without names": (lambda *args, **options: 0, UNNAMED, [of()]),
    "anything by position": (lambda *args: 0, NAMED, [of()]),
    "anything by name": (lambda **batch: 0, NAMED, BY_NAME),
    "anything by name, without names": (lambda **batch: 0, UNNAMED, []),
    "anything by name, of images inside a list": (lambda **batch: 0, NESTED, []),
    "anything, of Hugging Face's images": (lambda *args, **options: 0, FACES, [of(keyword="pixel_values"), of()]),
    "nothing": (lambda: 0, NAMED, []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_function_can_be_called_with(case):
    function, inputs, expected = CASES[case]
    assert possible_arguments(signature(function), inputs) == expected


def test_a_function_without_a_signature_is_given_the_images():
    assert possible_arguments(None, NAMED) == [Arguments()]


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_model_is_left_to_its_own_words():
    class Doubled(nn.Module):
        def forward(self, x, y):
            return x + y

    call = ModelCall()
    scripted = torch.jit.script(Doubled())
    with pytest.raises((RuntimeError, ValueError)):
        call.settle(scripted, X)
        call(scripted, X)


def test_a_compiled_models_own_signature_counts():
    compiled = torch.compile(Located(), backend="eager")
    assert str(signature_of(compiled)) == "(image, place, scale=1.0)"


@pytest.mark.parametrize(("make", "expected"), [(Plain, True), (WithoutForward, False), (nn.Module, False)])
def test_a_module_without_forward_is_told(make, expected):
    assert has_forward(make()) is expected


def test_a_call_is_settled_once():
    """The first sample is tried at the first look alone."""
    runs = []

    class Counted(Whole):
        def forward(self, x):
            runs.append(len(x["image"]))
            return super().forward(x)

    call = ModelCall(inputs=Inputs({"image": X}, (("item", "image"),), count=4))
    model = Counted().double()
    for _ in range(3):
        call.settle(model, X)
    assert runs == [1] and call.arguments == Arguments(whole=True)
    assert call.in_words() == "the model is given the whole batch"
    assert torch.equal(call(model, X), Plain.forward(model, X))


class Mistaken(nn.Module):
    """Its own forward is right; the error is inside."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner

    def forward(self, x, scale=1):
        return self.inner(x) if self.inner else x + "a"


@pytest.mark.parametrize("inner", [None, Located(), Empty()])
def test_a_type_error_within_a_right_forward_is_left_as_it_is(inner):
    call = ModelCall()
    call.settle(Mistaken(inner), X)
    with pytest.raises(TypeError):
        call(Mistaken(inner), X)


def test_a_part_without_a_forward_is_left_as_it_is():
    class Abstract(nn.Module):
        def forward(self, x):
            raise NotImplementedError("say how")

    for inner in (nn.Module(), Abstract()):
        call = ModelCall()
        call.settle(Mistaken(inner), X)
        with pytest.raises(NotImplementedError):
            call(Mistaken(inner), X)


def test_trying_draws_no_warning_and_keeps_no_gradient(recwarn):
    class Unpacks(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Plain()
            self.grads = []

        def forward(self, x):
            self.grads.append(torch.is_grad_enabled())
            return self.net(x["image"])

    model = Unpacks().double()
    ModelCall(inputs=Inputs({"image": X}, (("item", "image"),), count=4)).settle(model, X)
    assert model.grads == [False, False] and not recwarn.list


def test_changed_images_stand_in_the_whole_batch_in_place_of_its_own():
    batch = {"image": X, "place": PLACE}
    inputs = Inputs(batch, (("item", "image"),), count=len(X))
    call = Arguments(whole=True)
    changed = torch.stack([X[1] + i for i in range(3)])
    given = call.call(lambda given: given, changed, inputs, slice(1, 2))
    assert torch.equal(given["image"], changed) and torch.equal(given["place"], PLACE[1:2].repeat_interleave(3, 0))
    assert batch["image"] is X  # and the batch stays
