"""torchgeo's own tasks and data module: 13 bands, normalised on the device, one picture or two a sample."""

import pytest
import torch
from real_fit import assert_by_hand, fit_twice, fitted, loaders, of_label, patch, picture
from torch.utils.data import DataLoader

from lightning_cam import Batch, CAMCallback, Style

pytest.importorskip("torchgeo")
pytest.importorskip("segmentation_models_pytorch")  # its tasks import it, though it is an extra of some versions

from torchgeo.datamodules import NonGeoDataModule
from torchgeo.trainers import ChangeDetectionTask, ClassificationTask, RegressionTask, SemanticSegmentationTask

pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

BANDS = Style(bands=[3, 2, 1])
DOUBLE = dict(precision="64-true")


def scene(i):
    """Reflectances of 13 bands times 10,000, as Sentinel-2 gives them, with the land cover of each place."""
    image = 1000 + 3000 * picture(i, 13, 64, 64)
    mask = torch.zeros(64, 64, dtype=torch.long)
    mask[patch(i)] = 1 + i % 2
    return {"image": image, "label": i % 3, "mask": mask}


def measured(i):
    return {**scene(i), "label": torch.tensor(0.5 * i)}


def two_kinds(i):
    return {**scene(i), "label": torch.tensor([1, i % 2, 0])}


def pair(i):
    """The same place before and after."""
    image, mask = scene(i)["image"], torch.zeros(1, 64, 64, dtype=torch.long)
    after = image.clone()
    after[:, 20:40, 20:40] += 2000
    mask[:, 20:40, 20:40] = 1
    return {"image": torch.stack([image, after]) / 10000, "mask": mask}


class Scenes(NonGeoDataModule):
    """Normalises in ``on_after_batch_transfer``, as all of torchgeo's data modules do."""

    mean, std = torch.full((13,), 2000.0), torch.full((13,), 800.0)

    def __init__(self):
        super().__init__(list, batch_size=2)

    def setup(self, stage):
        train, val = loaders(scene)
        self.train_dataset, self.val_dataset = train.dataset, val.dataset

    def val_dataloader(self):
        return DataLoader(self.val_dataset, 4)


def task(**options):
    return ClassificationTask("resnet10t", in_channels=13, **options)


def fit(tmp_path, make, data, callback):
    return fit_twice(tmp_path, lambda folder, callbacks: fitted(make(), data(), folder, callbacks, **DOUBLE), callback)


def test_a_classification_of_thirteen_bands(tmp_path):
    callback = CAMCallback(style=BANDS, on_error="raise")
    watched = fit(tmp_path, lambda: task(num_classes=3), Scenes, callback)
    module, batch = watched.module, watched.batch
    assert batch["image"].mean().abs() < 1  # normalised
    assert watched.layer == "model.layer4"
    assert_by_hand(watched, module.model.layer4, lambda: of_label(module(batch["image"]), batch["label"]))


def test_a_regression(tmp_path):
    callback = CAMCallback(style=BANDS, on_error="raise")
    make = lambda: RegressionTask("resnet10t", in_channels=13, num_outputs=1)  # noqa: E731
    watched = fit(tmp_path, make, lambda: loaders(measured), callback)
    module, batch = watched.module, watched.batch
    assert_by_hand(watched, module.model.layer4, lambda: module(batch["image"])[:, 0])


def test_a_classification_of_several_labels(tmp_path):
    """Every class that is set is explained; the others have no map."""
    callback = CAMCallback(style=BANDS, on_error="raise")
    make = lambda: task(task="multilabel", num_labels=3, loss="bce")  # noqa: E731
    watched = fit(tmp_path, make, lambda: loaders(two_kinds), callback)
    module, batch = watched.module, watched.batch
    assert watched.records[0].absent.tolist() == [[False, True], [False, False]] * 2
    assert_by_hand(watched, module.model.layer4, lambda: module(batch["image"])[:, 0])


def test_a_segmentation(tmp_path):
    label = Batch(label="mask")
    callback = CAMCallback(target={"segment": {"class_id": 1}}, batch=label, style=BANDS, on_error="raise")
    make = lambda: SemanticSegmentationTask("unet", "resnet18", in_channels=13, num_classes=3)  # noqa: E731
    watched = fit(tmp_path, make, lambda: loaders(scene), callback)
    module, batch = watched.module, watched.batch
    with torch.no_grad():
        region = module(batch["image"]).argmax(1) == 1
    assert watched.layer == "model.encoder.layer4"
    assert_by_hand(watched, module.model.encoder.layer4, lambda: (module(batch["image"])[:, 1] * region).sum((1, 2)))


@pytest.mark.parametrize("model", ["fcsiamdiff", "unet"])
def test_a_change_detection(model, tmp_path):
    """Two pictures a sample, of which the second is shown; some networks take them one behind the other."""

    def stacked(module, images, batch):
        return module(images.flatten(1, 2))

    forward = stacked if model == "unet" else None
    pictures = Batch(picture=lambda batch: batch["image"][:, 1], label="mask")
    callback = CAMCallback(target="value", output=lambda a: a.mean((2, 3)), forward=forward, batch=pictures, style=BANDS)
    make = lambda: ChangeDetectionTask(model, "resnet18", in_channels=13)  # noqa: E731
    watched = fit(tmp_path, make, lambda: loaders(pair), callback)
    module, x = watched.module, watched.batch["image"]
    if model == "unet":
        assert_by_hand(watched, module.model.encoder.layer4, lambda: module(x.flatten(1, 2)).mean((1, 2, 3)))
    else:
        assert watched.layer == "model.encoder.layer4#1"  # of the picture after
