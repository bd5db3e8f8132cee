"""A detector in a Trainer: its default layer, its own box, and boxes that are labels and regions at once."""

import lightning as L
import torch
from nets import SMALL, trainer
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import retinanet_resnet50_fpn

from lightning_cam import Batch, CAMCallback


class Scenes(Dataset):
    """A bright square on a dark ground, with its box."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i):
        image, x = torch.full((3, 64, 64), 0.1), 8 * i
        image[:, 16:48, x : x + 32] = 0.9
        box = torch.tensor([[x, 16, x + 32, 48]], dtype=torch.float32)
        return image, {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)}


def collated(samples):
    return tuple(zip(*samples, strict=True))


class Detector(L.LightningModule):
    def __init__(self):
        super().__init__()
        sizes = dict(min_size=64, max_size=64, score_thresh=0.0)
        self.net = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **sizes)

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return sum(self.net(*batch).values())

    def validation_step(self, batch, batch_idx):
        self.log("found", float(sum(len(one["boxes"]) for one in self.net(batch[0]))), batch_size=len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def run(folder, *callbacks):
    L.seed_everything(3, verbose=False)
    module, loader = Detector(), DataLoader(Scenes(), 2, collate_fn=collated)
    fitting = trainer(folder, list(callbacks), max_epochs=1, limit_train_batches=1)
    fitting.fit(module, loader, loader)
    return module, fitting


def test_a_detector_is_watched_without_a_layer_named_and_trains_as_without(tmp_path):
    batch = Batch(samples=4, regions=lambda batch: [one["boxes"] for one in batch[1]])
    watched, fitting = run(tmp_path / "with", CAMCallback(target="detection", batch=batch, style=SMALL, on_error="raise"))
    energy, share = (fitting.callback_metrics[name] for name in ("cam/energy_inside", "cam/energy_inside_defined"))
    assert 0 <= energy <= 1
    assert share > 0
    assert list((tmp_path / "with").rglob("*net.backbone.body.layer4*")), sorted((tmp_path / "with").rglob("*"))
    plain, _ = run(tmp_path / "without")
    for (name, a), b in zip(watched.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
