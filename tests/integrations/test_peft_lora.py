"""LoRA by peft on models of Hugging Face and timm: the layer and the map are those of the model inside."""

import pytest
import torch
from real_fit import assert_by_hand, ending, fit_twice, fitted, loaders, of_label, picture, tokens

from lightning_cam import CAMCallback

peft = pytest.importorskip("peft")
timm = pytest.importorskip("timm")
pytest.importorskip("transformers")

import test_timm
import test_transformers
from test_transformers import VIT, of

pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

DOUBLE = dict(precision="64-true")


class Faces(test_transformers.ByNames):
    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], 1e-3)


class Pictures(test_timm.Classifier):
    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], 1e-3)


def of_faces():
    config = peft.LoraConfig(r=4, target_modules="all-linear", modules_to_save=["classifier"])
    return Faces(peft.get_peft_model(of("ViT", **VIT), config))


def of_timm(name, targets, head, **options):
    config = peft.LoraConfig(r=4, target_modules=targets, modules_to_save=[head])
    return Pictures(peft.get_peft_model(timm.create_model(name, num_classes=3, **options), config))


def fit(tmp_path, make, sample, callback):
    return fit_twice(tmp_path, lambda folder, callbacks: fitted(make(), loaders(sample), folder, callbacks, **DOUBLE), callback)


def test_lora_on_hugging_faces_vit(tmp_path):
    watched = fit(tmp_path, of_faces, test_transformers.sample, CAMCallback(on_error="raise"))
    model, batch = watched.module.model, watched.batch
    assert watched.layer.endswith(".2.layernorm_before")
    assert "base_model" not in watched.layer  # the name is that without adapters
    layer = ending(model, ".2.layernorm_before")
    run = lambda: of_label(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])  # noqa: E731
    assert_by_hand(watched, layer, run, tokens(4, 4, prefix=1))


@pytest.mark.parametrize(
    ("name", "targets", "head", "options", "layer", "read"),
    [
        ("vit_tiny_patch16_224", ["qkv", "proj"], "head", dict(img_size=64, depth=3), "blocks.2.norm1", tokens(4, 4, prefix=1)),
        ("convnextv2_atto", ["fc1", "fc2"], "head.fc", dict(), "stages", lambda a: a),
    ],
)
def test_lora_on_timms(name, targets, head, options, layer, read, tmp_path):
    make = lambda: of_timm(name, targets, head, **options)  # noqa: E731
    watched = fit(tmp_path, make, lambda i: (picture(i), i % 3), CAMCallback(on_error="raise"))
    model, (x, y) = watched.module.model, watched.batch
    assert watched.layer == f"model.{layer}"  # the name is that without adapters
    assert_by_hand(watched, model.get_base_model().get_submodule(layer), lambda: of_label(model(x), y), read)
