"""torchgeo's own tasks and data module: 13 bands, normalised on the device, one picture or two a sample."""

import pytest
import torch
import torch.nn.functional as F
from compare import close_and_alive
from real_fit import assert_by_hand, fit_twice, fitted, loaders, of_label, outputs_of, patch, picture
from torch.utils.data import DataLoader

from lightning_cam import Batch, CAMCallback, Style

pytest.importorskip("torchgeo")
pytest.importorskip("segmentation_models_pytorch")  # its tasks import it, though it is an extra of some versions

from torchgeo.datamodules import NonGeoDataModule
from torchgeo.trainers import ChangeDetectionTask, ClassificationTask, RegressionTask, SemanticSegmentationTask

pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

BANDS = Style(bands=[3, 2, 1])
WHERE_LABELLED = {"segment": {"region": "label"}}
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
    callback = CAMCallback(target=WHERE_LABELLED, batch=Batch(label="mask"), style=BANDS, on_error="raise")
    make = lambda: SemanticSegmentationTask("unet", "mobilenet_v2", in_channels=13, num_classes=3)  # noqa: E731
    watched = fit(tmp_path, make, lambda: loaders(scene), callback)
    module, x, mask = watched.module, watched.batch["image"], watched.batch["mask"]
    assert watched.layer.startswith("model.encoder.")
    cover = F.one_hot(mask, 3).movedim(3, 1) * torch.tensor([0, 1, 1])[:, None, None]  # one kind a picture
    assert_by_hand(watched, module.get_submodule(watched.layer), lambda: (module(x) * cover).sum((1, 2, 3)))


def test_a_change_of_two_pictures_one_behind_the_other(tmp_path):
    """Its network takes them as one picture of 26 bands; the second is shown."""

    def stacked(module, images, batch):
        return module(images.flatten(1, 2))

    pictures = Batch(picture=lambda batch: batch["image"][:, 1], label="mask")
    callback = CAMCallback(target=WHERE_LABELLED, forward=stacked, batch=pictures, style=BANDS, on_error="raise")
    make = lambda: ChangeDetectionTask("unet", "mobilenet_v2", in_channels=13)  # noqa: E731
    watched = fit(tmp_path, make, lambda: loaders(pair), callback)
    module, x, mask = watched.module, watched.batch["image"], watched.batch["mask"]
    layer = module.get_submodule(watched.layer)
    assert_by_hand(watched, layer, lambda: (module(x.flatten(1, 2)) * mask).sum((1, 2, 3)))


def test_a_change_of_two_pictures_in_two_passes(tmp_path):
    """A Siamese network runs its encoder on either; by itself the second run is watched, its number behind a #."""
    pictures = Batch(picture=lambda batch: batch["image"][:, 1], label="mask")
    callback = CAMCallback(target=WHERE_LABELLED, batch=pictures, style=BANDS, on_error="raise")
    make = lambda: ChangeDetectionTask("fcsiamdiff", "resnet18", in_channels=13)  # noqa: E731
    watched = fit(tmp_path, make, lambda: loaders(pair), callback)
    assert watched.layer == "model.encoder.layer4#1"
    module, x, mask = watched.module, watched.batch["image"], watched.batch["mask"]
    passes, logits = outputs_of(module.model.encoder.layer4, lambda: module(x))
    (g,) = torch.autograd.grad((logits * mask).sum(), passes[1])
    expected = (g.mean((2, 3), keepdim=True) * passes[1].detach()).sum(1)
    close_and_alive(watched.records[0].heat[:, 0], expected, 1e-10)
