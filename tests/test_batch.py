"""Promise 2: the same images, with the same classes, at every look; and mistakes are named."""

import random
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass, field

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from nets import SIDE, STRICT, Net, Pictures, Recorder, cam, fit, loader, trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_cam import Batch, CAMCallback, Schedule
from lightning_cam.data.collated import read_batch
from lightning_cam.data.dataset import first_of_each_class, normalization_of
from lightning_cam.data.regions import to_mask
from lightning_cam.render.style import Style

pytestmark = STRICT


def batches(folder, val=None, net=None, train=None, callback_batch=4, seen_by_model=False, layer="relu", before=(), **options):
    """The batch of every look, as the callback keeps it or as the model is given it."""
    callback, found = cam(layer, batch=callback_batch, on_error="raise"), []
    keep, look = callback._fixed_batch, callback._look

    def fixed(*args):
        found.append(keep(*args))
        return found[-1]

    callback._fixed_batch = fixed
    if seen_by_model:

        def watched(run, module, *rest):
            handle = module.register_forward_pre_hook(lambda m, args: found.append(args[0].clone()))
            try:
                return look(run, module, *rest)
            finally:
                handle.remove()

        callback._look = watched
    fit(folder, [*before, callback], net, train=train, val=val, **options)
    return [b for b in found if isinstance(b, Tensor)] if seen_by_model else found


def all_equal(tensors):
    return len(tensors) > 1 and all(torch.equal(tensors[0], other) for other in tensors)


# the same pixels at every look


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffled_and_augmented_loaders_give_the_same_pixels_at_every_look(workers, tmp_path):
    val = loader(shuffle=True, augment=True, workers=workers)
    found = batches(tmp_path, val, seen_by_model=True, max_epochs=3)
    assert len(found) == 4 and all_equal(found)


def test_the_same_pixels_come_back_in_a_run_with_other_random_numbers(tmp_path):
    def draw(run, module):
        return torch.rand(3), np.random.rand(3), random.random()

    other = Recorder(draw, "on_train_start")
    first = batches(tmp_path / "a", loader(augment=True), max_epochs=1)[0]
    second = batches(tmp_path / "b", loader(augment=True), before=[other], max_epochs=1)[0]
    assert other.kept and torch.equal(first.images, second.images)


@pytest.mark.parametrize("options", [dict(), dict(limit_val_batches=0)])
def test_a_forward_that_asks_for_the_stage_sees_a_validation(options, tmp_path):
    class Asks(Net):
        def forward(self, x):
            if len(x) == 5:  # only the callback's batch is of five
                stages.append((self.trainer.training, self.trainer.validating, self.training))
            return super().forward(x)

    stages: list = []
    fit(tmp_path, cam(batch=5), Asks(), **options)
    assert len(stages) == 3 and set(stages) == {(False, True, False)}


def test_samples_are_pinned_by_index_whatever_the_sampler_does(tmp_path):
    class Backwards(torch.utils.data.Sampler):
        def __iter__(self):
            return iter(range(11, -1, -1))

        def __len__(self):
            return 12

    data = Pictures()
    found = batches(tmp_path, DataLoader(data, 3, sampler=Backwards()))[0]
    assert torch.equal(found.images, data.images[:4]) and found.labels.tolist() == data.targets[:4]
    assert found.names == ("#0", "#1", "#2", "#3") and found.origin == "validation set, indices 0, 1, 2, 3"


@pytest.mark.parametrize("layer", ["relu", None])
def test_a_forward_that_writes_into_its_input_does_not_change_the_batch(layer, tmp_path):
    class Overwrites(Net):
        def forward(self, x):
            x -= 0.25
            return super().forward(x)

    found = batches(tmp_path, net=Overwrites(), layer=layer, max_epochs=3)
    assert len(found) == 4 and all(torch.equal(one.images, Pictures().images[:4]) for one in found)


def test_a_transfer_hook_that_writes_into_the_batch_does_not_change_one_handed_in(tmp_path):
    class Normalizes(Net):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            batch[0].mul_(0.5)
            return batch

    given = [torch.rand(4, 3, SIDE, SIDE), torch.tensor([0, 1, 2, 0])]
    pixels = given[0].clone()
    first = batches(tmp_path, net=Normalizes(), callback_batch=Batch(given))[0].images
    second = batches(tmp_path, net=Normalizes(), callback_batch=Batch(given))[0].images
    assert torch.equal(given[0], pixels) and torch.equal(first, pixels * 0.5) and torch.equal(first, second)


def test_device_augmentation_guarded_by_trainer_training_is_not_applied(tmp_path):
    found = batches(tmp_path, net=Net(augment_on_device=True), seen_by_model=True)
    assert all_equal(found) and torch.equal(found[0], Pictures().images[:4])
    unvalidated = batches(tmp_path, net=Net(augment_on_device=True), train=loader(), limit_val_batches=0)
    assert torch.equal(unvalidated[0].images, Pictures().images[:4])


def test_own_generators_of_a_dataset_are_left_where_they_were(tmp_path):
    class Own(Pictures):
        def __init__(self):
            super().__init__()
            self.numpy, self.torch = np.random.default_rng(0), torch.Generator().manual_seed(0)

        def __getitem__(self, i):
            image, c = super().__getitem__(i)
            return image * float(self.numpy.random()) * torch.rand((), generator=self.torch), c

    ends = []
    for callback in (cam(), None):
        data = Own()  # training and validation share it, as after random_split
        train = DataLoader(Subset(data, range(8)), 4, shuffle=True)
        run = fit(tmp_path, callback, train=train, val=DataLoader(Subset(data, range(8, 12)), 2))
        ends.append(run.model.state_dict() if run.model else run.lightning_module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


# which samples


@pytest.mark.parametrize(
    ("spec", "indices"),
    [
        (3, [0, 1, 2]),
        (99, list(range(12))),
        ([7, 2, 2], [7, 2, 2]),
        ([-1, 0], [11, 0]),
        (Batch(per_class=2), [0, 3, 1, 4, 2, 5]),
        ({"samples": 2}, [0, 1]),
        ({"per_class": 1}, [0, 1, 2]),
    ],
)
def test_samples_by_count_by_index_and_per_class(spec, indices, tmp_path):
    data = Pictures()
    found = batches(tmp_path, DataLoader(data, 5), callback_batch=spec, max_epochs=1)[0]
    assert torch.equal(found.images, data.images[indices])
    assert found.labels.tolist() == [data.targets[i] for i in indices]
    assert found.origin.endswith(", ".join(map(str, indices)))


def test_per_class_without_kept_labels_reads_the_samples(tmp_path):
    class Plain(Dataset):
        inner = Pictures()

        def __len__(self):
            return 12

        def __getitem__(self, i):
            return self.inner[i]

    found = batches(tmp_path, DataLoader(Plain(), 5), callback_batch=Batch(per_class=2), max_epochs=1)[0]
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_subset_keeps_classes_and_names_of_what_it_is_a_subset_of(tmp_path):
    data = Subset(Subset(Pictures(), range(2, 12)), [9, 0, 4])
    found = batches(tmp_path, DataLoader(data, 2), callback_batch=[0, 2, 1], max_epochs=1)[0]
    assert found.names == ("#11", "#6", "#2") and found.labels.tolist() == [2, 0, 2]
    assert found.classes == ("class_0", "class_1", "class_2") and found.class_name(2) == "class_2"
    even = batches(tmp_path, DataLoader(data, 2), callback_batch=Batch(per_class=1), max_epochs=1)[0]
    assert even.labels.tolist() == [0, 2]


def test_an_image_folder_gives_names_classes_and_normalization(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog", "eel"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / kind / f"{kind}.{i}.png")
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])]
    data = ImageFolder(str(tmp_path / "data"), v2.Compose(steps))
    found = batches(tmp_path, DataLoader(data, 3), callback_batch=[0, 4, 8], max_epochs=1)[0]
    assert found.names == ("cat.0", "dog.1", "eel.2") and found.classes == ("cat", "dog", "eel")
    assert found.normalization == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    fit(tmp_path / "run", cam(batch=[0, 4]), val=DataLoader(data, 3))
    assert {p.name for p in tmp_path.rglob("run/cam/**/*_grad_cam.jpg")} == {"cat.0_grad_cam.jpg", "dog.1_grad_cam.jpg"}


def test_the_normalization_is_undone_in_the_pictures(tmp_path):
    from lightning_cam import render

    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)])

    class Photos(Dataset):
        pixels = torch.randint(0, 256, (6, 3, SIDE, SIDE), dtype=torch.uint8)
        transform = steps

        def __len__(self):
            return 6

        def __getitem__(self, i):
            return self.transform(self.pixels[i]), i % 3

    found = batches(tmp_path, DataLoader(Photos(), 3), max_epochs=1)[0]
    assert torch.equal(render.to_rgb(found.images, found.normalization), Photos.pixels[:4])


def norm(kind):
    return kind.Normalize(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])


@pytest.mark.parametrize("place", ["transform", "transforms"])
@pytest.mark.parametrize("wrap", ["alone", "compose", "nested", "sequential", "standard"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_normalization_is_found_wherever_it_stands(place, wrap, version):
    from torchvision import transforms as v1
    from torchvision.datasets.vision import StandardTransform

    kind = {"v1": v1, "v2": v2}[version]
    one = norm(kind)
    wrapped = {
        "alone": one,
        "compose": kind.Compose([kind.RandomHorizontalFlip(), one]),
        "nested": kind.Compose([kind.Compose([kind.RandomHorizontalFlip(), one]), torch.nn.Identity()]),
        "sequential": torch.nn.Sequential(torch.nn.Identity(), one),
        "standard": StandardTransform(kind.Compose([one])),
    }[wrap]
    data = type("Data", (), {place: wrapped})()
    found = normalization_of(type("Wrapper", (), {"dataset": data})())
    assert found is not None and found[0] == pytest.approx((0.1, 0.2, 0.3)) and found[1] == pytest.approx((0.4, 0.5, 0.6))


def test_no_normalization_is_guessed():
    assert normalization_of(Pictures()) is None and normalization_of(None) is None


def test_images_outside_0_to_1_without_a_known_normalization_are_one_warning(tmp_path):
    data = TensorDataset(torch.randn(6, 3, SIDE, SIDE), torch.arange(6) % 3)
    with pytest.warns(UserWarning, match=r"shown clipped; give Style\(mean=\.\.\., std=\.\.\.\)") as told:
        fit(tmp_path, cam(), val=DataLoader(data, 3))
    assert sum("clipped" in str(w.message) for w in told) == 1


# how a batch is read

IMAGES, LABELS = torch.rand(4, 3, SIDE, SIDE), torch.tensor([2, 0, 1, 1])


@dataclass
class Sample:
    pixel_values: Tensor = field(default_factory=lambda: IMAGES)
    labels: Tensor = field(default_factory=lambda: LABELS)


Named = namedtuple("Named", ["img", "target", "extra"])
Odd = namedtuple("Odd", ["extra", "img", "y"])

FORMS = {
    "tuple": ((IMAGES, LABELS), Batch()),
    "list": ([IMAGES, LABELS, "x"], Batch()),
    "bare tensor": (IMAGES, Batch()),
    "dict": ({"image": IMAGES, "label": LABELS}, Batch()),
    "dict in Hugging Face's words": ({"pixel_values": IMAGES, "labels": LABELS}, Batch()),
    "dict with labels as numbers": ({"x": IMAGES, "y": [2, 0, 1, 1]}, Batch()),
    "dict with words for labels": ({"x": IMAGES, "y": ["c", "a", "b", "b"]}, Batch()),
    "dataclass": (Sample(), Batch()),
    "namedtuple": (Named(IMAGES, LABELS, None), Batch()),
    "namedtuple in another order": (Odd(None, IMAGES, LABELS), Batch()),
    "keys": ({"scan": IMAGES, "diagnosis": LABELS}, Batch(image="scan", label="diagnosis")),
    "positions": ((LABELS, "x", IMAGES), Batch(image=2, label=0)),
    "callables": ({"a": {"b": IMAGES}, "c": LABELS}, Batch(image=lambda b: b["a"]["b"], label=lambda b: b["c"])),
    "attribute": (Sample(), Batch(image="pixel_values", label="labels")),
    "a list of images": ([list(IMAGES), LABELS], Batch()),
    "labels of one column": ((IMAGES, LABELS[:, None]), Batch()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_read_from_a(form):
    batch, how = FORMS[form]
    found = read_batch(batch, how)
    assert torch.equal(found.images, IMAGES) and len(found) == 4
    if form in ("bare tensor", "dict with words for labels"):
        assert found.labels is None
    else:
        assert found.labels.flatten().tolist() == [2, 0, 1, 1]


def test_grey_images_without_a_channel_axis_are_read_when_named():
    assert read_batch({"scan": IMAGES[:, 0]}, Batch(image="scan")).images.shape == (4, 1, SIDE, SIDE)


@pytest.mark.parametrize("given", [IMAGES, (IMAGES, LABELS), {"image": IMAGES, "label": LABELS}, [IMAGES, LABELS]])
def test_a_batch_can_be_handed_in(given, tmp_path):
    callback = CAMCallback("relu", target="predicted", batch=given, style=cam().style, on_error="raise")
    run = fit(tmp_path, callback)
    assert run.global_step == 12 and len(list((tmp_path / "cam/relu/grad_cam/step_000000").iterdir())) == 4


def test_a_dict_is_options_or_a_batch_handed_in_by_what_it_holds():
    assert Batch.of({"samples": [IMAGES, LABELS], "label": 1}).label == 1
    assert Batch.of({"image": IMAGES, "label": LABELS}).given and Batch.of({"views": [IMAGES], "label": LABELS}).given
    assert Batch.of({"views": [IMAGES], "name": "x"}).given and not Batch.of({"samples": 3}).given


def test_a_batch_handed_in_is_left_as_it_is(tmp_path):
    given = {"image": IMAGES.clone().double(), "label": LABELS.clone()}
    found = batches(tmp_path, net=Net().double(), callback_batch=Batch(given), precision="64-true")[0]
    assert given["image"].dtype == torch.float64 and found.images.dtype == torch.float64
    assert found.names == ("sample 0", "sample 1", "sample 2", "sample 3")


def test_class_names_can_be_given_or_come_from_the_datamodule_or_the_module(tmp_path):
    data = TensorDataset(Pictures().images, torch.tensor(Pictures().targets))
    net = Net()
    net.classes = ["x", "y", "z"]
    assert batches(tmp_path, DataLoader(data, 3), net, max_epochs=1)[0].classes == ("x", "y", "z")
    named = Batch(4, classes=["one", "two", "three"])
    assert batches(tmp_path, DataLoader(data, 3), net, callback_batch=named, max_epochs=1)[0].classes == ("one", "two", "three")
    assert batches(tmp_path, DataLoader(data, 3), max_epochs=1)[0].class_name(1) == "class 1"


class Module(L.LightningDataModule):
    """Has a collate function and transfer hooks of its own."""

    class_names = ("left", "middle", "right")

    def __init__(self):
        super().__init__()
        self.calls = []

    def train_dataloader(self):
        return DataLoader(Pictures(), 4, collate_fn=self.collate)

    val_dataloader = train_dataloader

    def collate(self, samples):
        return {"image": torch.stack([image for image, _ in samples]) * 0.5, "label": torch.tensor([c for _, c in samples])}

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("before")
        return {**batch, "image": batch["image"] + 0.25}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("after")
        return {**batch, "image": batch["image"] * 0.5}


def test_a_datamodules_collate_and_transfer_hooks_are_used(tmp_path):
    callback, found = cam(batch=[1, 5]), []
    keep = callback._fixed_batch
    callback._fixed_batch = lambda *args: (found.append(b := keep(*args)), b)[1]
    data = Module()
    trainer(tmp_path, [callback]).fit(Net(), datamodule=data)
    assert torch.equal(found[0].images, (Pictures().images[[1, 5]] * 0.5 + 0.25) * 0.5)
    assert found[0].classes == ("class_0", "class_1", "class_2") and found[0].labels.tolist() == [1, 2]


def test_a_datamodules_validation_loader_is_asked_for_where_there_is_none_yet(tmp_path):
    callback = cam()
    options = dict(check_val_every_n_epoch=2, num_sanity_val_steps=0, max_epochs=2)
    run = trainer(tmp_path, [callback], **options)
    run.fit(Net(), datamodule=Module())
    assert callback._histories["relu/grad_cam"].titles == ["start", "2"]


# regions

BOX = [[0, 0, 4, 2], [2, 2, 6, 6], [7, 7, 8, 8], [0, 0, 8, 8]]


def mask_of(*boxes):
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


EACH = torch.stack([mask_of(box) for box in BOX])
NAN = [float("nan")] * 4

REGIONS = {
    "boxes": torch.tensor(BOX),
    "float boxes": torch.tensor(BOX, dtype=torch.float64),
    "boxes of one object": torch.tensor(BOX)[:, None],
    "boxes with rows of NaN": torch.tensor([[box, NAN] for box in BOX]),
    "lists of boxes": [torch.tensor([box]) for box in BOX],
    "lists of single boxes": [torch.tensor(box) for box in BOX],
    "nested lists": [[box] for box in BOX],
    "masks": EACH,
    "masks of numbers": EACH.float(),
    "masks with a channel": EACH[:, None].to(torch.uint8) * 255,
}


@pytest.mark.parametrize("form", REGIONS)
def test_regions_become_masks_from(form):
    assert torch.equal(to_mask(REGIONS[form], IMAGES), EACH)


def test_several_boxes_are_united_and_lists_may_be_of_unequal_length():
    boxes = [torch.tensor([BOX[0], BOX[1]]), torch.zeros(0, 4), torch.tensor([BOX[2]]), torch.tensor([BOX[3], BOX[0], BOX[1]])]
    expected = torch.stack([mask_of(BOX[0], BOX[1]), mask_of(), mask_of(BOX[2]), mask_of(BOX[3])])
    assert torch.equal(to_mask(boxes, IMAGES), expected)


def test_a_pixel_is_inside_if_its_centre_is():
    half = to_mask(torch.tensor([[0.5, 0.51, 2.5, 2.49]]), IMAGES[:1])
    assert torch.equal(half[0], mask_of((0, 1, 2, 2)))


def test_regions_reach_the_metric_by_name(tmp_path):
    seen = []

    def keep(heat, look):
        seen.append({name: mask.clone() for name, mask in look.regions.items()})
        return torch.zeros(len(heat))

    batch = Batch(3, regions={"box": "box", "all": lambda b: torch.ones(len(b["image"]), SIDE, SIDE)})
    fit(tmp_path, cam(batch=batch, metrics=[keep]), val=loader(form="dict"), train=loader(form="dict"), max_epochs=1)
    assert set(seen[0]) == {"box", "all"} and bool(seen[0]["all"].all())
    half = SIDE // 2
    assert torch.equal(seen[0]["box"], torch.stack([mask_of((c, 0, c + half, half)) for c in range(3)]))


# mistakes, and what is said

STRANGE = TensorDataset(torch.rand(6, 5), torch.arange(6) % 3)


class Mixed(Pictures):
    def __getitem__(self, i):
        return torch.rand(3, SIDE + i, SIDE), i % 3


class Labelless(Pictures):
    def __getitem__(self, i):
        return super().__getitem__(i)[0]


def pairs(samples):
    return [image for image, _ in samples], torch.tensor([c for _, c in samples])


MISTAKES = {
    "no image": (dict(), DataLoader(STRANGE, 2), r"No images \[b c h w\].*Tensor\[4, 5\].*Batch\(image=\.\.\.\)"),
    "no such key": (dict(batch=Batch(4, image="scan")), loader(form="dict"), r"image='scan'.*a dict of image, label, box"),
    "no such position": (dict(batch=Batch(4, label=3)), loader(), r"label=3.*list of Tensor\[4, 3, 8, 8\], Tensor\[4\]"),
    "no such region": (dict(batch=Batch(4, regions="mask")), loader(form="dict"), r"regions='mask'.*image, label, box"),
    "no label": (dict(), DataLoader(Labelless(), 3), r"'label' needs labels.*Batch\(label=\.\.\.\).*'predicted'"),
    "a class out of range": (dict(target=3), loader(), r"Class 3 is out of range: the model has 3 outputs.*0 to 2"),
    "a negative class": (dict(target=-1), loader(), r"Class -1 is out of range.*0 to 2"),
    "a label out of range": (dict(), loader(classes=5), r"Class 3 is out of range: the model has 3 outputs"),
    "an index out of range": (dict(batch=[0, 12]), loader(), r"Sample 12 is out of range: the dataset has 12 samples, 0 to 11"),
    "a loader that is not there": (dict(batch=Batch(4, loader=2)), [loader(), loader()], r"loader=2.*validation.*0 to 1"),
    "a second loader of one": (dict(batch=Batch(4, loader=1)), loader(), r"loader=1.*validation loaders are 0 to 0"),
    "an unknown loader": (dict(batch=Batch(4, loader="c")), {"a": loader(), "b": loader()}, r"loader='c'.*'a', 'b'"),
    "images of unequal size": (dict(), DataLoader(Mixed(), 3, collate_fn=pairs), r"differ in size.*resize"),
    "more regions than images": (
        dict(batch=Batch(4, regions=lambda b: b["box"][:3])),
        loader(form="dict"),
        r"4 images and regions for 3",
    ),
    "regions of another kind": (
        dict(batch=Batch(4, regions=lambda b: b["box"][:, :3])),
        loader(form="dict"),
        r"boxes \[b 4\] or \[b n 4\], or masks \[b 8 8\]; got \(4, 3\)",
    ),
    "an unknown layer": (dict(layer="trnk"), loader(), r"no layer 'trnk'.*Did you mean 'trunk'.*trunk, last, relu, drop, head"),
    "the end of a layer's name": (dict(layer="0"), loader(), r"no layer '0'.*'trunk\.0'"),
    "a layer without a map": (dict(layer="head"), loader(), r"'head' returned shape \(4, 3\); expected a map.*relu 5x8x8"),
    "a layer that never runs": (dict(layer="spare"), loader(), r"'spare' did not run.*Layers with a map: relu 5x8x8"),
    "an output that is not there": (dict(output="logits"), loader(), r"no 'logits'; it is a Tensor of shape \(4, 3\)"),
    "a target of another length": (
        dict(target=torch.tensor([0, 1])),
        loader(),
        r"2 target classes were given for 4 samples",
    ),
}


class Spare(Net):
    """Has a layer that forward leaves out."""

    def __init__(self):
        super().__init__()
        self.spare = torch.nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_said_at_the_first_look_of(name, tmp_path):
    options, val, said = MISTAKES[name]
    net = Spare() if "never" in name else Net()
    with pytest.raises(ValueError, match=said):
        fit(tmp_path, cam(**options), net, val=val, num_sanity_val_steps=0)


def test_a_mistake_is_raised_before_the_first_step(tmp_path):
    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError):
        fit(tmp_path, cam(layer="nowhere"), net)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


CONSTRUCTION = {
    "a method": (lambda: CAMCallback(method="gradcam"), r"No method 'gradcam'.*'grad_cam'.*Known: .*activation_mean"),
    "a second method": (lambda: CAMCallback(method=["cam", "lrp"]), r"No method 'lrp'.*Known"),
    "a metric": (lambda: CAMCallback(metrics=["energy"]), r"No metric 'energy'.*'energy_inside'"),
    "a target": (lambda: CAMCallback(target="lable"), r"No target 'lable'.*'label'"),
    "a target's option": (lambda: CAMCallback(target={"top_k": {"n": 3}}), r"top_k has no option 'n'.*It takes: k"),
    "a method's option": (
        lambda: CAMCallback(method={"activation_mean": {"channel": 1}}),
        r"activation_mean has no option 'channel'.*'channels'.*It takes: channels",
    ),
    "a metric's option": (
        lambda: CAMCallback(metrics=[{"energy_inside": {"regions": "a"}}]),
        r"no option 'regions'.*'region'",
    ),
    "an import path": (lambda: CAMCallback(method="nowhere.at_all"), r"'nowhere\.at_all' cannot be imported"),
    "an import path's end": (lambda: CAMCallback(method="math.sinus"), r"'math\.sinus' cannot be imported.*sinus"),
    "two methods in one": (lambda: CAMCallback(method={"cam": {}, "grad_cam": {}}), r"one entry"),
    "an empty list of targets": (lambda: CAMCallback(target=[]), r"list of targets is empty"),
    "a tag": (lambda: CAMCallback(tag="/cam"), r"tag='/cam'.*without a slash"),
    "a count": (lambda: CAMCallback(batch=0), r"samples=0.*at least 1"),
    "an option of the batch": (
        lambda: CAMCallback(batch={"per_clas": 2}),
        r"Batch has no option 'per_clas'.*'per_class'.*It takes: samples",
    ),
    "a count a class": (lambda: Batch(per_class=0), r"per_class=0.*at least 1"),
    "every n epochs": (lambda: Schedule(every_n_epochs=0), r"every_n_epochs=0.*at least 1"),
    "filmstrip_columns": (lambda: Style(filmstrip_columns=1), r"filmstrip_columns=1.*at least 2"),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
def test_what_is_said_at_construction_of(name):
    make, said = CONSTRUCTION[name]
    with pytest.raises(ValueError, match=said):
        make()


def test_wrong_choices_are_refused_in_words_without_a_shape_checker():
    program = """
from lightning_cam import CAMCallback, Schedule
for wrong in (lambda: CAMCallback(on_error="ignore"), lambda: Schedule(step="batch"), lambda: CAMCallback(method=3)):
    try:
        wrong()
    except (ValueError, TypeError) as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "on_error='ignore': expected 'warn' or 'raise'."
    assert said[1] == "Schedule(step='batch'): expected one of auto, epoch, global_step."
    assert "A method is a name" in said[2] and len(said) == 3


def test_the_package_is_checked_by_the_import_hook():
    with pytest.raises(Exception, match="Type-check error"):
        first_of_each_class(torch.zeros(2, 2, dtype=torch.long), 1)
