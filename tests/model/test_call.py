"""A model is called with the images alone; one that asks for more is told so, with what to write."""

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn

from lightning_cam.model.call import describe_mismatch, run_model

X = torch.rand(2, 3, 8, 8)


class Located(nn.Module):
    def forward(self, image: Tensor, place: Tensor, scale: float = 1.0) -> Tensor:
        return image.mean((2, 3)) + place * scale


class Two(nn.Module):
    def forward(self, x, /, meta, *, mask):
        return x


class Words(nn.Module):
    def forward(self, *, pixel_values, **options):
        return pixel_values


class Empty(nn.Module):
    def forward(self):
        return 0


class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.loss, self.net = nn.CrossEntropyLoss(), nn.Linear(3, 2)


class Bare(nn.Module):
    pass


ALONE = "Wrap the model in an nn.Module whose forward takes the images alone: `def forward(self, images): return self.model"

TOLD = {
    "one more": (
        Located,
        f"Located.forward(image, place, scale=1.0) needs 'place' beside the images. {ALONE}(images, place=self.place)`, "
        "where self.place is what belongs to the images that are watched.",
    ),
    "several more": (
        Two,
        f"Two.forward(x, /, meta, *, mask) needs 'meta' and 'mask' beside the images. {ALONE}(images, meta=self.meta, "
        "mask=self.mask)`, where self.meta and self.mask is what belongs to the images that are watched.",
    ),
    "by keyword": (
        Words,
        f"Words.forward(*, pixel_values, **options) takes the images by keyword only. {ALONE}(pixel_values=images)`.",
    ),
    "none": (
        Empty,
        "Empty.forward() takes no images. Wrap the model in an nn.Module whose forward takes the images and returns "
        "the logits.",
    ),
    "no forward": (
        Lit,
        "Lit has no forward, so it cannot be called with images. Write one that returns the logits: "
        "`def forward(self, images): return self.net(images)`.",
    ),
    "nothing at all": (
        Bare,
        "Bare has no forward, so it cannot be called with images. Write one that returns the logits: "
        "`def forward(self, images): return self.network(images)`.",
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_model_that_asks_for_more_than_images_is_told_with_what_to_write(case):
    make, told = TOLD[case]
    with pytest.raises(ValueError) as error:
        run_model(make(), X)
    assert str(error.value) == told
    assert isinstance(error.value.__cause__, TypeError | NotImplementedError)


def test_what_is_to_be_written_works():
    class Watched(nn.Module):
        def __init__(self, model, place):
            super().__init__()
            self.model, self.place = model, place

        def forward(self, images):
            return self.model(images, place=self.place)

    assert torch.equal(run_model(Watched(Located(), torch.ones(2, 3)), X), X.mean((2, 3)) + 1)


def test_a_model_that_takes_images_alone_is_called_as_it_is():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    assert torch.equal(run_model(net, X), net(X))


class Mistaken(nn.Module):
    """Its own forward is right; the error is inside."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner

    def forward(self, x, scale=1):
        return self.inner(x) if self.inner else x + "a"


@pytest.mark.parametrize("inner", [None, Located(), Empty()])
def test_a_type_error_within_a_right_forward_is_left_as_it_is(inner):
    with pytest.raises(TypeError) as error:
        run_model(Mistaken(inner), X)
    assert error.value.__cause__ is None
    assert describe_mismatch(Mistaken(inner), error.value) is None


def test_a_part_without_a_forward_is_left_as_it_is():
    with pytest.raises(NotImplementedError, match="Bare"):
        run_model(Mistaken(Bare()), X)

    class Abstract(nn.Module):
        def forward(self, x):
            raise NotImplementedError("say how")

    with pytest.raises(NotImplementedError, match="say how"):
        run_model(Abstract(), X)


def test_arguments_that_are_gathered_take_images():
    class Gathers(nn.Module):
        def forward(self, *args, **options):
            raise TypeError("own")

    with pytest.raises(TypeError, match="own"):
        run_model(Gathers(), X)


def test_a_compiled_model_is_described_by_its_own_forward():
    compiled = torch.compile(Located(), backend="eager")
    assert describe_mismatch(compiled, TypeError()).startswith("Located.forward(image, place, scale=1.0) needs 'place'")


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_model_is_left_to_its_own_words():
    class Doubled(nn.Module):
        def forward(self, x, y):
            return x + y

    scripted = torch.jit.script(Doubled())
    with pytest.raises(RuntimeError, match="missing value for argument 'y'"):
        run_model(scripted, X)
