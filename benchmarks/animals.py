"""A table by epoch of a real fine-tuning: raccoons and kangaroos with boxes, and a pretrained net.

    python benchmarks/animals.py --data FOLDER [--model squeezenet] [--epochs 4]

FOLDER holds ``animals/{train,val}/{raccoon,kangaroo}`` with a ``boxes.csv`` each, and ``models/*.npz``.
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_cam import Annotations, Batch, CAMCallback, metrics

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
WHOLE = v2.Compose(
    [v2.Resize((224, 224)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=MEAN, std=STD)]
)
FILES = {"squeezenet": "squeezenet1_0_imagenet_f16.npz", "mobilenet": "mobilenet_v2_imagenet_f16.npz"}


def main() -> None:
    args = arguments()
    warnings.filterwarnings("ignore")
    L.seed_everything(args.seed, verbose=False)
    train = ImageFolder(args.data / "animals/train", WHOLE)
    val = ImageFolder(args.data / "animals/val", WHOLE)
    spread = list(range(0, len(val), max(1, len(val) // args.samples)))[: args.samples]
    box = Annotations(args.data / "animals/val/boxes.csv")
    measured = [*metrics.defaults(regions=True), "max_box_acc_v2"]
    callback = CAMCallback(
        None if args.model == "mobilenet" else "net.features",
        batch=Batch(samples=spread, regions=box, pictures=16),
        metrics=measured,
        on_error="raise",
    )
    task = Task(pretrained(args.data / "models" / FILES[args.model], args.model), args.lr)
    rows: dict[str, dict[str, float]] = {}
    callback.watcher.observers.append(lambda result: rows.update({result.moment.short: means(result.records[0])}))
    centre: dict[str, float] = {}
    callback.watcher.observers.append(lambda result: centre or centre.update(result.centre))
    with tempfile.TemporaryDirectory() as folder:
        L.Trainer(
            max_epochs=args.epochs,
            callbacks=[callback],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(task, DataLoader(train, 16, shuffle=True), DataLoader(val, 27))
    names = ["accuracy", *measured]
    print(f"{args.model}, {len(train)} photographs trained on, {len(spread)} watched; the centre-Gaussian in the last row")
    print(" | ".join(["epoch", *names]))
    for (epoch, row), accuracy in zip(rows.items(), [float("nan"), *task.accuracies], strict=False):
        cells = [accuracy, *(row.get(name, float("nan")) for name in measured)]
        print(" | ".join([epoch, *("" if cell != cell else f"{cell:.3f}" for cell in cells)]))
    print(" | ".join(["centre", "", *(f"{centre[name]:.3f}" if name in centre else "" for name in measured)]))


class Task(L.LightningModule):
    """Two classes, by AdamW."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.accuracies: list[float] = []
        self.right: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        """Which are right."""
        self.right.append(self(batch[0]).argmax(1) == batch[1])

    def on_validation_epoch_end(self) -> None:
        """Accuracy."""
        if not self.trainer.sanity_checking:
            self.accuracies.append(float(torch.cat(self.right).float().mean()))
        self.right = []

    def configure_optimizers(self) -> Any:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), self.lr)


def pretrained(path: Path, name: str) -> nn.Module:
    """A torchvision net with ImageNet's weights and a new head of two classes."""
    stored = np.load(path)
    state = {key: torch.from_numpy(stored[key]) for key in stored.files}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if name == "squeezenet":
        net = models.squeezenet1_0()
        net.load_state_dict(state)
        net.classifier[1] = nn.Conv2d(512, 2, 1)
    else:
        net = models.mobilenet_v2()
        net.load_state_dict(state)
        net.classifier[1] = nn.Linear(1280, 2)
    return net


def means(record: Any) -> dict[str, float]:
    return {name: float(values.nanmean()) for name, values in record.values.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=list(FILES), default="squeezenet")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=54)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
