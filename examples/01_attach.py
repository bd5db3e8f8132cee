"""Attach the callback to a Trainer: one line. Random pictures stand in for yours.

python examples/01_attach.py, then tensorboard --logdir lightning_logs --samples_per_plugin images=100
"""

import lightning as L
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FakeData
from torchvision.models import resnet18

from lightning_cam import CAMCallback


class Classifier(L.LightningModule):
    """A torchvision ResNet fine-tuned with cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet18(weights=None, num_classes=5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits; the callback calls this, as you would."""
        return self.backbone(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Cross-entropy."""
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        self.log("val_accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


if __name__ == "__main__":
    L.seed_everything(0)
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))])
    train = FakeData(64, (3, 64, 64), 5, prepare)
    val = FakeData(16, (3, 64, 64), 5, prepare, random_offset=1000)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="auto",
        log_every_n_steps=1,
        callbacks=[CAMCallback(layer="backbone.layer4", batch=8)],
    )
    trainer.fit(Classifier(), DataLoader(train, 16, shuffle=True), DataLoader(val, 16))
