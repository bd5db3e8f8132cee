"""Which samples are watched, and what their dataset tells of them: classes, names and normalization."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nets import SIDE, STRICT, Net, Pictures, cam, fit
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from watching import batches

from lightning_cam import Batch
from lightning_cam.data.dataset import name_of, normalization_of

pytestmark = STRICT


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


def test_class_names_can_be_given_or_come_from_the_datamodule_or_the_module(tmp_path):
    data = TensorDataset(Pictures().images, torch.tensor(Pictures().targets))
    net = Net()
    net.classes = ["x", "y", "z"]
    assert batches(tmp_path, DataLoader(data, 3), net, max_epochs=1)[0].classes == ("x", "y", "z")
    named = Batch(4, classes=["one", "two", "three"])
    assert batches(tmp_path, DataLoader(data, 3), net, callback_batch=named, max_epochs=1)[0].classes == ("one", "two", "three")
    assert batches(tmp_path, DataLoader(data, 3), max_epochs=1)[0].class_name(1) == "class 1"


class Table(SimpleNamespace):
    """A table with columns, whose truth value is an error, as pandas has it."""

    def __bool__(self):
        raise ValueError("The truth value of a table is ambiguous.")


def test_names_are_read_from_a_table_of_paths():
    """As anomalib's datasets keep them."""
    paths = np.array(["a/good/000.png", "a/bad/001.png"])
    dataset = SimpleNamespace(samples=Table(image_path=paths))
    assert [name_of(dataset, i) for i in (0, 1, 2)] == ["000", "001", "#2"]


@pytest.mark.parametrize("samples", [Table(), Table(image_path=3), [], 3, torch.zeros(2, 3), np.zeros((2, 3))])
def test_samples_that_are_no_paths_name_nothing(samples):
    assert name_of(SimpleNamespace(samples=samples), 0) == "#0"
