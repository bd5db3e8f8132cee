"""timm's models, random, in a module as users write it."""

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from real_fit import assert_by_hand, channels_last, fit_twice, fitted, loaders, of_label, picture, tokens

from lightning_cam import CAMCallback

timm = pytest.importorskip("timm")
pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

SWIN = dict(img_size=64, window_size=4, depths=(1, 1, 1, 1), embed_dim=24, num_heads=(1, 2, 3, 4))


class Classifier(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


@pytest.mark.parametrize(
    ("name", "options", "layer", "read"),
    [
        ("resnet10t", dict(), "layer4", lambda a: a),
        ("convnextv2_atto", dict(), "stages", lambda a: a),
        ("mobilenetv4_conv_small_035", dict(), "blocks", lambda a: a),
        ("vit_tiny_patch16_224", dict(img_size=64, depth=3), "blocks.2.norm1", tokens(4, 4, prefix=1)),
        ("deit_tiny_distilled_patch16_224", dict(img_size=64, depth=2), "blocks.1.norm1", tokens(4, 4, prefix=2)),
        ("swin_tiny_patch4_window7_224", SWIN, "norm", channels_last),
    ],
)
def test_a_classifier(name, options, layer, read, tmp_path):
    def run(folder, callbacks):
        module = Classifier(timm.create_model(name, num_classes=3, **options))
        data = loaders(lambda i: (picture(i), i % 3))
        return fitted(module, data, folder, callbacks, precision="64-true")

    watched = fit_twice(tmp_path, run, CAMCallback(on_error="raise"))
    model, (x, y) = watched.module.model, watched.batch
    assert watched.layer == f"model.{layer}"
    assert_by_hand(watched, model.get_submodule(layer), lambda: of_label(model(x), y), read)
