"""Segmentations of segmentation_models_pytorch in a module as users write it: a class where the label is."""

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from real_fit import assert_by_hand, fit_twice, fitted, loaders, patch, picture

from lightning_cam import Batch, CAMCallback

smp = pytest.importorskip("segmentation_models_pytorch")
pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]


class Segmentation(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model, self.criterion = model, smp.losses.DiceLoss("multiclass")

    def forward(self, image):
        return self.model(image)

    def loss(self, batch):
        return self.criterion(self(batch["image"]), batch["mask"])

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


class Binary(Segmentation):
    def __init__(self, model):
        super().__init__(model)
        self.criterion = smp.losses.DiceLoss("binary")

    def loss(self, batch):
        return self.criterion(self(batch["image"]), there(batch))


def there(batch):
    """Where anything is, [b 1 h w]."""
    return (batch["mask"] > 0)[:, None].double()


def sample(i):
    mask = torch.zeros(64, 64, dtype=torch.long)
    mask[patch(i)] = 1 + i % 2
    return {"image": picture(i), "mask": mask}


@pytest.mark.parametrize("kind", ["Unet", "FPN", "DeepLabV3Plus", "Segformer"])
def test_a_class_is_explained_at_the_backbone(kind, tmp_path):
    def run(folder, callbacks):
        model = getattr(smp, kind)("mobilenet_v2", encoder_weights=None, classes=3)
        return fitted(Segmentation(model), loaders(sample), folder, callbacks, precision="64-true")

    callback = CAMCallback(target={"segment": {"region": "label"}}, batch=Batch(label="mask"), on_error="raise")
    watched = fit_twice(tmp_path, run, callback)
    module, x, mask = watched.module, watched.batch["image"], watched.batch["mask"]
    assert watched.layer.startswith("model.encoder.")
    there = F.one_hot(mask, 3).movedim(3, 1) * torch.tensor([0, 1, 1])[:, None, None]  # one object a picture
    assert_by_hand(watched, module.get_submodule(watched.layer), lambda: (module(x) * there).sum((1, 2, 3)))


def test_a_single_logit(tmp_path):
    """As for a lesion and what is none; its mask has an axis of one channel."""

    def run(folder, callbacks):
        model = smp.Unet("mobilenet_v2", encoder_weights=None, classes=1)
        return fitted(Binary(model), loaders(sample), folder, callbacks, precision="64-true")

    callback = CAMCallback(target={"segment": {"region": "label"}}, batch=Batch(label=there), on_error="raise")
    watched = fit_twice(tmp_path, run, callback)
    module, batch = watched.module, watched.batch
    layer = module.get_submodule(watched.layer)
    assert_by_hand(watched, layer, lambda: (module(batch["image"]) * there(batch)).sum((1, 2, 3)))


def test_what_of_the_evidence_lies_on_the_object(tmp_path):

    def run(folder, callbacks):
        model = smp.Unet("mobilenet_v2", encoder_weights=None, classes=3)
        return fitted(Segmentation(model), loaders(sample), folder, callbacks, precision="64-true")

    objects = Batch(label="mask", regions=lambda batch: batch["mask"] > 0)
    callback = CAMCallback(target={"segment": {"class_id": 1, "region": "everywhere"}}, batch=objects, on_error="raise")
    watched = fit_twice(tmp_path, run, callback)
    assert watched.records[0].values["energy_inside"].shape == (4, 1)
