"""Segmentations of segmentation_models_pytorch in a module as users write it: a class where the model says it is."""

import lightning.pytorch as L
import pytest
import torch
from real_fit import assert_by_hand, fit_twice, fitted, loaders, patch, picture

from lightning_cam import Batch, CAMCallback

smp = pytest.importorskip("segmentation_models_pytorch")
pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]


class Segmentation(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model, self.loss = model, smp.losses.DiceLoss("multiclass")

    def forward(self, image):
        return self.model(image)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch["image"]), batch["mask"])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(batch["image"]), batch["mask"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


def sample(i):
    mask = torch.zeros(64, 64, dtype=torch.long)
    mask[patch(i)] = 1 + i % 2
    return {"image": picture(i), "mask": mask}


@pytest.mark.parametrize("kind", ["Unet", "FPN", "DeepLabV3Plus", "Segformer"])
def test_a_class_is_explained_at_the_backbone(kind, tmp_path):
    def run(folder, callbacks):
        model = getattr(smp, kind)("mobilenet_v2", encoder_weights=None, classes=3)
        return fitted(Segmentation(model), loaders(sample), folder, callbacks, precision="64-true")

    callback = CAMCallback(target={"segment": {"class_id": 1}}, batch=Batch(label="mask"), on_error="raise")
    watched = fit_twice(tmp_path, run, callback)
    module, x = watched.module, watched.batch["image"]
    assert watched.layer.startswith("model.encoder.")
    with torch.no_grad():
        region = module(x).argmax(1) == 1
    assert_by_hand(watched, module.get_submodule(watched.layer), lambda: (module(x)[:, 1] * region).sum((1, 2)))


def test_the_truth_may_be_the_region(tmp_path):
    """What of the evidence lies on the object is logged beside."""

    def run(folder, callbacks):
        model = smp.Unet("mobilenet_v2", encoder_weights=None, classes=3)
        return fitted(Segmentation(model), loaders(sample), folder, callbacks, precision="64-true")

    objects = Batch(label="mask", regions=lambda batch: batch["mask"] > 0)
    callback = CAMCallback(target={"segment": {"class_id": 1}}, batch=objects, on_error="raise")
    watched = fit_twice(tmp_path, run, callback)
    assert watched.records[0].values["energy_inside"].shape == (4, 1)
