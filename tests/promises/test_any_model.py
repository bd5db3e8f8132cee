"""Models that are not called as forward(images): each works with the options named, or is refused with a line that works."""

import lightning.pytorch as L
import pytest
import torch
from doors import (
    LABELS,
    PLACE,
    SECOND,
    Distilled,
    Empty,
    Gathering,
    Item,
    K,
    Located,
    Nested,
    Packed,
    Plain,
    Siamese,
    TwoTowers,
    Video,
    Whole,
    WholeTuple,
    WithBackend,
    WithLogits,
    WithoutForward,
    X,
    grad_cam_of,
    images,
    of_labels,
    packed,
)
from nets import STRICT
from torch import Tensor, nn

from lightning_cam import Batch, Watcher, explain

pytestmark = STRICT

WORDS = torch.randint(10, (K, 4), generator=torch.Generator().manual_seed(3))
FRAMES = torch.stack([images(seed) for seed in range(5)], 1)


def in_batch(**entries):
    return {"image": X, "label": LABELS, **entries}


# each row: the model, its batch, the options, the layer, and how it is called by hand
DOORS = {
    "no forward, a callable": (
        WithoutForward,
        (X, LABELS),
        dict(forward=lambda model, x, batch: model.net(x)),
        "net.trunk",
        lambda model, batch: model.net(X),
    ),
    "labels and probabilities, a method": (
        WithBackend,
        (X, LABELS),
        dict(forward="forward_backend"),
        "net.trunk",
        lambda model, batch: model.net(X),
    ),
    "the whole dict": (Whole, in_batch(), dict(), "trunk", lambda model, batch: model(batch)),
    "the whole tuple": (
        WholeTuple,
        (X, PLACE, LABELS),
        dict(batch=Batch(label=2)),
        "trunk",
        lambda model, batch: model(batch),
    ),
    "image and metadata by name": (Located, in_batch(place=PLACE), dict(), "trunk", lambda model, batch: model(X, PLACE)),
    "image and metadata of an object": (
        Located,
        Item(X, PLACE),
        dict(batch=Batch(label=lambda batch: LABELS)),
        "trunk",
        lambda model, batch: model(X, PLACE),
    ),
    "image and metadata of a tuple, a callable": (
        Located,
        (X, PLACE, LABELS),
        dict(forward=lambda model, x, batch: model(x, place=batch[1]), batch=Batch(label=2)),
        "trunk",
        lambda model, batch: model(X, PLACE),
    ),
    "two images": (
        Siamese,
        {"after": X, "before": SECOND, "label": LABELS},
        dict(batch=Batch(image="after")),
        "trunk#0",
        lambda model, batch: model(SECOND, X),
    ),
    "the batch by its names": (
        lambda: Gathering(WithLogits()),
        {"pixel_values": X, "labels": LABELS},
        dict(),
        "model.trunk",
        lambda model, batch: model(**batch).logits,
    ),
    "images and prompts by their names": (
        lambda: Gathering(TwoTowers()),
        {"pixel_values": X, "input_ids": WORDS, "labels": LABELS},
        dict(),
        "model.vision.trunk",
        lambda model, batch: model(**batch)["logits_per_image"],
    ),
    "images and prompts": (
        TwoTowers,
        {"pixel_values": X, "input_ids": WORDS, "labels": LABELS},
        dict(),
        "vision.trunk",
        lambda model, batch: model(WORDS, X)["logits_per_image"],
    ),
    "a nested tensor, a callable": (
        Plain,
        (Nested(X, X[:, 0] > 2), LABELS),
        dict(
            batch=Batch(image=lambda batch: batch[0].tensors, label=1),
            forward=lambda model, x, batch: model(x * ~batch[0].mask[:, None]),
        ),
        "trunk",
        lambda model, batch: model(X),
    ),
}


def watcher(model, data, folder, **options):
    return Watcher(model.double(), data, folder=folder, on_error="raise", **options)


@pytest.mark.parametrize("door", DOORS)
def test_the_map_is_the_formulas(door, tmp_path):
    make, batch, options, layer, by_hand = DOORS[door]
    torch.manual_seed(0)
    model = make().double()
    (record,) = watcher(model, batch, tmp_path, layer=layer, **options).look(0)
    call = int(layer.partition("#")[2] or 0)
    kept: list[Tensor] = []
    module = model.get_submodule(layer.partition("#")[0])
    handle = module.register_forward_hook(lambda module, args, output: kept.append(output))
    score = of_labels(by_hand(model, batch))
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept[call])
    expected = (gradient.mean((2, 3), keepdim=True) * kept[call]).sum(1).detach()
    assert torch.allclose(record.heat[:, 0], expected, rtol=0, atol=1e-10) and expected.any()
    assert torch.allclose(record.score[:, 0], score.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam", "recipro_cam", "integrated_gradients", "smooth"])
@pytest.mark.parametrize("door", DOORS)
def test_changed_samples_are_given_what_belongs_to_them(door, method, tmp_path):
    """The maps of a batch are those of its samples one by one."""
    make, batch, options, layer, _ = DOORS[door]
    torch.manual_seed(0)
    model = make().double()
    spec = {"smooth": {"method": "grad_cam", "n": 2}} if method == "smooth" else method
    (record,) = watcher(model, batch, tmp_path / "all", layer=layer, method=spec, **options).look(0)
    for i in range(len(X)):
        single = one_sample(batch, i)
        if callable(options.get("batch", Batch()).label):
            single_options = {**options, "batch": Batch(label=lambda _, i=i: LABELS[i : i + 1])}
        else:
            single_options = options
        (alone,) = watcher(model, single, tmp_path / str(i), layer=layer, method=spec, **single_options).look(0)
        assert torch.allclose(record.heat[i], alone.heat[0], rtol=0, atol=1e-10)


def one_sample(batch, i):
    """The batch of a single sample, cut by hand."""
    if isinstance(batch, dict):
        return {name: value if value is WORDS else value[i : i + 1] for name, value in batch.items()}
    if isinstance(batch, Item):
        return Item(batch.image[i : i + 1], batch.place[i : i + 1])
    if isinstance(batch[0], Nested):
        return Nested(batch[0].tensors[i : i + 1], batch[0].mask[i : i + 1]), batch[1][i : i + 1]
    return tuple(value[i : i + 1] for value in batch)


def test_explain_is_given_what_belongs_to_the_images():
    torch.manual_seed(0)
    model = Located().double()
    explanation = explain(model, X, layer="trunk", batch={"place": PLACE}, target=LABELS)
    expected = grad_cam_of(model.trunk, lambda: model(X, PLACE), of_labels)
    assert torch.allclose(explanation.heat, expected, rtol=0, atol=1e-10)
    by_call = explain(model, X, layer="trunk", batch=PLACE, target=LABELS, forward=lambda net, x, place: net(x, place))
    assert torch.equal(by_call.heat, explanation.heat)


def test_one_image_may_have_its_metadata():
    model = Located().double()
    alone = explain(model, X[0], layer="trunk", batch={"place": PLACE[:1]}, target=1, method="score_cam")
    both = explain(model, X, layer="trunk", batch={"place": PLACE}, target=1, method="score_cam")
    assert torch.allclose(alone.heat[0], both.heat[0], rtol=0, atol=1e-10)


def test_an_entry_with_as_many_rows_as_samples_by_chance_is_told(tmp_path):
    """Four prompts and four images: cut with a sample, the prompts would be other classes."""
    torch.manual_seed(0)
    prompts = torch.randint(10, (4, 4))
    batch = {"pixel_values": X, "input_ids": prompts, "labels": LABELS}
    model = TwoTowers().double()
    with pytest.raises(
        ValueError, match=r"output \[\d, \d\], the batch \[4, 4\].*4 rows, as many as there are samples"
    ) as error:
        watcher(model, batch, tmp_path, layer="vision.trunk", method="score_cam").look(0)
    assert "Batch(samples=...)" in str(error.value) and "forward=" in str(error.value)

    def run(net, x, batch):
        return net(prompts, x)

    (record,) = watcher(model, batch, tmp_path, layer="vision.trunk", method="score_cam", forward=run).look(0)
    fewer = {"pixel_values": X[:3], "input_ids": prompts, "labels": LABELS[:3]}
    (others,) = watcher(model, fewer, tmp_path, layer="vision.trunk", method="score_cam").look(0)
    assert torch.allclose(record.heat[:3], others.heat, rtol=0, atol=1e-10)


# pictures that the model is not given, and axes in another order


def test_frames_before_channels_are_told_by_the_first_convolution(tmp_path):
    torch.manual_seed(0)
    model = Video().double()
    kept: list[Tensor] = []
    handle = model.conv.register_forward_hook(lambda module, args, output: kept.append(output))
    score = of_labels(model(FRAMES))
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept[0])
    expected = (gradient.mean((2, 3, 4), keepdim=True) * kept[0]).sum(1).detach()
    for batch in (Batch(), Batch(axes="b t c h w")):
        watching = watcher(model, (FRAMES, LABELS), tmp_path, layer="conv", batch=batch)
        (record,) = watching.look(0)
        assert torch.allclose(record.heat[:, 0], expected, rtol=0, atol=1e-10)
        assert watching.batch.images.shape == (4, 3, 5, 8, 6)  # what is drawn: channels, then frames
    assert torch.equal(explain(model, FRAMES, layer="conv", target=LABELS).heat, record.heat[:, 0])


def test_masks_of_frames_stay_with_their_frames(tmp_path):
    """Score-CAM masks frame by frame whatever order the model takes."""

    class Ordered(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.movedim(1, 2))

    model = Video().double()
    options = dict(method="score_cam", target=LABELS)
    frames_first = explain(model, FRAMES, layer="conv", **options)
    channels_first = explain(Ordered(model), FRAMES.movedim(2, 1), layer="inner.conv", **options)
    assert torch.allclose(frames_first.heat, channels_first.heat, rtol=0, atol=1e-10)


def test_a_picture_beside_the_models_input_is_what_is_shown_and_read(tmp_path):
    torch.manual_seed(0)
    model = Packed().double()
    batch = {"patches": packed(X), "photo": X, "label": LABELS}
    options = Batch(image="patches", picture="photo")
    watching = watcher(model, batch, tmp_path, layer="embed", batch=options)
    (record,) = watching.look(0)
    kept: list[Tensor] = []
    handle = model.embed.register_forward_hook(lambda module, args, output: kept.append(output))
    score = of_labels(model(packed(X)))
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept[0])
    tokens = (gradient.mean(1, keepdim=True) * kept[0]).sum(2).detach()
    assert torch.allclose(record.heat[:, 0], tokens.unflatten(1, (4, 3)), rtol=0, atol=1e-10)
    assert torch.equal(watching.batch.pictures, X) and torch.equal(watching.batch.images, packed(X))
    by_hand = Batch(samples=batch, image="patches", picture="photo")
    explanation = explain(model, by_hand, layer="embed", target=LABELS)
    assert torch.equal(explanation.heat, record.heat[:, 0]) and explanation.overlay().shape == (4, 3, 8, 6)


# a part of the module


class Fitted(Distilled):
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.student.parameters(), 0.1)


def fitted(tmp_path, callback, module=None):
    from nets import loader, trainer

    L.seed_everything(0, verbose=False)
    module = module or Fitted()
    trainer(tmp_path, [callback], max_epochs=1).fit(module, loader(8, size=4), loader(4, size=4))
    return module


@pytest.mark.parametrize("which", ["teacher", "student"])
@pytest.mark.parametrize("form", ["name", "callable", "import path"])
def test_a_part_of_the_module_is_watched(form, which, tmp_path):
    from nets import cam

    spec = {"name": which, "callable": lambda module: getattr(module, which), "import path": f"test_any_model.{which}_of"}[form]
    callback = cam(layer="trunk", model=spec, target="predicted", on_error="raise")
    module = fitted(tmp_path, callback)
    heats = callback.history["trunk/grad_cam"].heats
    assert len(heats) == 2
    assert torch.equal(heats[0], heats[1]) is (which == "teacher")  # which nobody trains
    assert not hasattr(module, "watched")


def teacher_of(module):
    return module.teacher


def student_of(module):
    return module.student


def test_another_callbacks_model_is_watched(tmp_path):
    """An average of the weights that a callback keeps, and nothing of the module knows."""
    from nets import cam

    class Average(L.Callback):
        def on_fit_start(self, trainer, module):
            self.model = Plain()
            for p in self.model.parameters():
                nn.init.constant_(p, 0.1)

    average = Average()
    callback = cam(layer="trunk", model=lambda module: average.model, target="predicted", on_error="raise")
    from nets import loader, trainer

    trainer(tmp_path, [average, callback], max_epochs=1).fit(Fitted(), loader(8, size=4), loader(4, size=4))
    heats = callback.history["trunk/grad_cam"].heats
    assert torch.equal(heats[0], heats[1]) and heats[0].any()


# what cannot be: told before anything is touched, with a line that works


def told(error):
    """The text of an error, and the options in the line that it says to write."""
    text = str(error.value)
    return text, text.rpartition("Write ")[2].rstrip(".")


def test_a_module_without_forward_is_told_what_takes_its_images(tmp_path):
    model = WithoutForward()
    with pytest.raises(ValueError) as error:
        watcher(model, (X, LABELS), tmp_path).look(0)
    text, line = told(error)
    assert text == (
        "WithoutForward has no forward, so it cannot be called with images. Parts of it that take the images: net [1, 3]. "
        "Write forward=lambda model, images, batch: model.net(images)."
    )
    assert watcher(model, (X, LABELS), tmp_path, **eval(f"dict({line})")).look(0)


def test_a_method_that_may_give_the_logits_is_named(tmp_path):
    class Silent(WithoutForward):
        def forward_backend(self, x):
            return self.net(x)

    with pytest.raises(ValueError, match="Name the method that gives the logits: forward='forward_backend'"):
        watcher(Silent(), (X, LABELS), tmp_path).look(0)
    assert watcher(Silent(), (X, LABELS), tmp_path, forward="forward_backend").look(0)


def test_what_a_batch_lacks_is_told_with_the_line_to_write(tmp_path):
    with pytest.raises(ValueError) as error:
        watcher(Located(), (X, PLACE, LABELS), tmp_path, batch=Batch(label=2)).look(0)
    text, line = told(error)
    assert text == (
        "Located.forward(image, place, scale=1.0) needs 'place' beside the images, and the batch is a tuple of "
        "Tensor[4, 3, 8, 6], Tensor[4, 2], Tensor[4]. Write forward=lambda model, images, batch: model(images, place=batch[1])."
    )
    assert watcher(Located(), (X, PLACE, LABELS), tmp_path, batch=Batch(label=2), **eval(f"dict({line})")).look(0)


def test_a_name_near_to_what_is_asked_for_is_suggested(tmp_path):
    batch = in_batch(weather=LABELS, places=PLACE)
    with pytest.raises(ValueError, match="the batch is a dict of image, label, weather, places") as error:
        watcher(Located(), batch, tmp_path).look(0)
    _, line = told(error)
    assert line == "forward=lambda model, images, batch: model(images, place=batch['places'])"
    assert watcher(Located(), batch, tmp_path, **eval(f"dict({line})")).look(0)


def test_explain_is_told_to_give_what_belongs_to_the_images():
    model = Located().double()
    with pytest.raises(ValueError) as error:
        explain(model, X)
    assert str(error.value) == (
        "Located.forward(image, place, scale=1.0) needs 'place' beside the images. "
        "Give it what belongs to the images by name: batch={'place': place}."
    )
    assert explain(model, X, **eval(f"dict({str(error.value).rpartition('name: ')[2].rstrip('.')})", {"place": PLACE}))


def test_a_model_that_fails_with_all_there_is_names_its_parts(tmp_path):
    class Odd(Plain):
        def forward(self, x):
            return super().forward(x["img"])

    with pytest.raises(ValueError) as error:
        watcher(Odd(), in_batch(), tmp_path).look(0)
    text, line = told(error)
    assert text.startswith("Odd.forward(x) could be called neither with the images (")
    assert "nor with the whole batch (KeyError: 'img'); the batch is a dict of image, label." in text
    assert "Parts of it that take the images: trunk [1, 5, 4, 3]." in text
    assert line == "forward=lambda model, images, batch: model.trunk(images)"
    repaired = "forward=lambda model, images, batch: model({'img': images})"
    assert watcher(Odd(), in_batch(), tmp_path, **eval(f"dict({repaired})")).look(0)


def test_a_model_that_takes_images_by_a_name_is_told_where_they_have_none(tmp_path):
    model = Gathering(WithLogits()).double()
    with pytest.raises(ValueError) as error:
        watcher(model, (X, LABELS), tmp_path).look(0)
    text, line = told(error)
    assert text == (
        "Gathering.forward(**batch) takes images by a name alone, which they have not. Parts of it that take the images: "
        "model [1, 3]. Write forward=lambda model, images, batch: model.model(images)."
    )
    assert watcher(model, (X, LABELS), tmp_path, **eval(f"dict({line})")).look(0)


def test_a_model_that_takes_nothing_is_told():
    with pytest.raises(ValueError) as error:
        explain(Empty(), X)
    assert str(error.value) == (
        "Empty.forward() takes no images. None of its parts takes the images [4, 3, 8, 6] either. "
        "Write forward=lambda model, images, batch: ..., with what gives the logits."
    )


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            "studnt",
            r"model='studnt': Fitted has no part of this name. Did you mean 'student' or .* Its networks: student, teacher.",
        ),
        (lambda module: 3, r"model=<lambda> gave a int; expected a torch.nn.Module."),
        ("student.training", r"model='student.training' gave a bool; expected a torch.nn.Module."),
    ],
)
def test_a_part_that_is_none_is_refused_before_training(spec, text, tmp_path):
    from nets import cam

    with pytest.raises(ValueError, match=text):
        fitted(tmp_path, cam(layer="trunk", model=spec))
    assert fitted(tmp_path, cam(layer="trunk", model="student", on_error="raise"))


def test_a_forward_that_is_none_is_refused_at_construction():
    from lightning_cam import CAMCallback
    from lightning_cam.model.call import check_forward

    with pytest.raises(
        TypeError, match=r"forward=3: expected a method's name, or a callable \(model, images, batch\) -> output."
    ):
        check_forward(3)
    text = r"forward=<lambda>: .* this one takes \(x\). Write forward=lambda model, images, batch: "
    with pytest.raises(ValueError, match=text):
        CAMCallback(forward=lambda x: x)
    with pytest.raises(ValueError, match=text):
        explain(Plain().double(), X, forward=lambda x: x)
    line = "forward=lambda model, images, batch: model(images)"
    assert explain(Plain().double(), X, **eval(f"dict({line})")).heat.any()


def test_a_method_that_there_is_not_is_told_with_those_near():
    model = WithBackend()
    with pytest.raises(ValueError, match=r"forward='forward_backen': WithBackend has no method.*'forward_backend'"):
        explain(model.double(), X, forward="forward_backen")
    assert explain(model.double(), X, forward="forward_backend").heat.any()


def test_a_forward_by_import_path():
    model = WithBackend().double()
    assert torch.equal(
        explain(model, X, forward="test_any_model.backend").heat, explain(model, X, forward="forward_backend").heat
    )


def backend(model, x, batch):
    return model.forward_backend(x)
