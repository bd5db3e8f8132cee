"""Hugging Face's models, random and small, in modules as their users write them: the batch by its names, or the images."""

import lightning.pytorch as L
import pytest
import torch
from real_fit import assert_by_hand, ending, fit_twice, fitted, loaders, of_label, picture, tokens

from lightning_cam import CAMCallback

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

DOUBLE = dict(precision="64-true")
VIT = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16)
STAGES = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
CLIP = dict(
    text_config=dict(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=50,
        max_position_embeddings=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    vision_config=VIT,
    projection_dim=16,
)


class ByNames(L.LightningModule):
    """``self(**batch)``, whose output holds the loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **batch):
        return self.model(**batch)

    def loss(self, batch):
        return self(**batch).loss

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


class OfImages(ByNames):
    """``self(images)``."""

    def forward(self, pixel_values):
        return self.model(pixel_values).logits

    def loss(self, batch):
        return torch.nn.functional.cross_entropy(self(batch["pixel_values"]), batch["labels"])


class OfBatch(ByNames):
    """``self(batch)``."""

    def forward(self, batch):
        return self.model(**batch)

    def loss(self, batch):
        return self(batch).loss


class Contrastive(ByNames):
    def loss(self, batch):
        return self(**batch, return_loss=True).loss


def of(kind, task="ImageClassification", **options):
    config = getattr(transformers, f"{kind}Config")(num_labels=3, **options)
    return getattr(transformers, f"{kind}For{task}")(config)


def sample(i):
    return {"pixel_values": picture(i), "labels": i % 3}


def clip_of_video(i):
    return {"pixel_values": picture(i, 4, 3, 32, 32), "labels": i % 3}


def captioned(i):
    words = torch.tensor([1, *(torch.arange(6) + 7 * i + 3).tolist(), 2])
    return {"pixel_values": picture(i), "input_ids": words, "attention_mask": torch.ones(8, dtype=torch.long)}


def fit(tmp_path, make, sample, callback):
    return fit_twice(tmp_path, lambda folder, callbacks: fitted(make(), loaders(sample), folder, callbacks, **DOUBLE), callback)


def assert_of_label(watched, end, read=lambda a: a):
    model, batch = watched.module.model, watched.batch
    assert watched.layer.endswith(end)
    assert_by_hand(watched, ending(model, end), lambda: of_label(model(batch["pixel_values"]).logits, batch["labels"]), read)


@pytest.mark.parametrize("module", [ByNames, OfImages, OfBatch])
def test_a_vision_transformer_however_it_is_called(module, tmp_path):
    watched = fit(tmp_path, lambda: module(of("ViT", **VIT)), sample, CAMCallback(on_error="raise"))
    assert_of_label(watched, ".2.layernorm_before", tokens(4, 4, prefix=1))


def test_dinov2(tmp_path):
    watched = fit(tmp_path, lambda: ByNames(of("Dinov2", **VIT)), sample, CAMCallback(on_error="raise"))
    assert_of_label(watched, ".dinov2.layernorm", tokens(4, 4, prefix=1))  # its classifier reads the patches too


def test_convnext_v2(tmp_path):
    watched = fit(tmp_path, lambda: ByNames(of("ConvNextV2", **STAGES)), sample, CAMCallback(on_error="raise"))
    assert_of_label(watched, ".encoder.stages.3")


def test_video_mae(tmp_path):
    """Frames before channels, [b t c h w], are known by the first convolution."""
    options = {**VIT, "num_hidden_layers": 2, "image_size": 32, "num_frames": 4, "tubelet_size": 2}
    make = lambda: ByNames(of("VideoMAE", "VideoClassification", **options))  # noqa: E731
    watched = fit(tmp_path, make, clip_of_video, CAMCallback(on_error="raise"))
    assert watched.records[0].heat.shape == (4, 1, 2, 2, 2)
    assert_of_label(watched, ".encoder.layer.1", tokens(2, 2, 2))


def test_clip_of_pictures_and_captions(tmp_path):
    """Each picture's likeness to its own caption."""

    def own_caption(logits, label):
        return torch.arange(len(logits))

    make = lambda: Contrastive(transformers.CLIPModel(transformers.CLIPConfig(**CLIP)))  # noqa: E731
    watched = fit(tmp_path, make, captioned, CAMCallback(target=own_caption, on_error="raise"))
    model, batch = watched.module.model, watched.batch
    assert watched.layer.endswith("vision_model.encoder.layers.2.layer_norm1")
    layer = ending(model, ".vision_model.encoder.layers.2.layer_norm1")
    assert_by_hand(watched, layer, lambda: model(**batch).logits_per_image.diagonal(), tokens(4, 4, prefix=1))
