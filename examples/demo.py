"""Watch where a model looks while it is fine-tuned.

Without options: a small ResNet learns handwritten digits by a coloured tag that gives the class away, and is then fine-tuned
on pictures whose tag says nothing. The heat leaves the tag and settles on the digit. Nothing is downloaded.

    python examples/demo.py

With pictures of your own, or a torchvision dataset on disk:

    python examples/demo.py --data FOLDER --model resnet18 --weights DEFAULT
    python examples/demo.py --dataset CIFAR10 --root DIR --model resnet18 --weights FILE
"""

import argparse
import csv
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from digits import TaggedDigits
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from pictures import class_names, folders, torchvision_dataset, torchvision_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, default_collate
from torchvision.models.resnet import BasicBlock, ResNet

from lightning_cam import Batch, CAMCallback, Style, metrics

WATCHED = 16  # pictures of the fixed batch
COLUMNS = {
    "val_acc": "accuracy",
    "cam/energy_inside_digit": "on digit",
    "cam/energy_inside_tag": "on tag",
    "cam/drift": "drift",
    "cam/drift_floor": "its floor",
    "cam/feature_drift": "by features",
    "cam/head_drift": "by the head",
    "cam/settled_at": "settled at",
}
WIDTH = 11


class Classifier(L.LightningModule):
    """Any classifier, fine-tuned with AdamW under a one-cycle learning rate."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        super().__init__()
        self.model, self.lr = model, lr

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.model(images)

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Cross entropy."""
        logits, label = self._predict(batch)
        loss = F.cross_entropy(logits, label)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        """Accuracy."""
        logits, label = self._predict(batch)
        accuracy = (logits.argmax(1) == label).float().mean()
        self.log("val_acc", accuracy, on_epoch=True, prog_bar=True, batch_size=len(label))

    def configure_optimizers(self) -> Any:
        """One cycle over the whole fit."""
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _predict(self, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, dict):
            return self(batch["image"]), batch["label"]
        images, label = batch
        return self(images), label


def tagged_digits(args: argparse.Namespace) -> None:
    """Learn the tag, then fine-tune on digits whose tag says nothing."""
    samples_an_epoch = 2800
    held_out = 397
    learning_epochs = 2
    if args.quick:
        samples_an_epoch = 128
        held_out = 64
        learning_epochs = 1
    agree = TaggedDigits("val", "agree", held_out, args.seed)
    random = TaggedDigits("val", "random", held_out, args.seed)
    model = Classifier(small_resnet(len(TaggedDigits.classes)), args.lr or 5e-3)

    def training(tags: str) -> DataLoader[Any]:
        data = TaggedDigits("train", tags, 30 * samples_an_epoch, args.seed)
        sampler = RandomSampler(data, num_samples=samples_an_epoch)
        return DataLoader(data, 32, sampler=sampler, drop_last=True)

    print("\nPhase one: the tag's colour gives the class away.")
    trainer = quiet_trainer(args, learning_epochs)
    trainer.fit(model, training("agree"), DataLoader(agree, 128))
    print(f"Accuracy where tag and digit agree: {trainer.callback_metrics['val_acc']:.2f}")

    print("\nPhase two: the tag is random. Fine-tuning, watched by CAMCallback.")
    samples = default_collate([agree[i] for i in agree.some_of_each(WATCHED)])
    cam = CAMCallback(
        batch=Batch(samples=samples, regions={"digit": "digit", "tag": "tag"}, classes=TaggedDigits.classes),
        metrics=[{"energy_inside": {"region": region}} for region in ("digit", "tag")] + metrics.defaults(regions=False),
        style=Style(alpha=0.85),
    )
    loaders = (training("random"), DataLoader(random, 128))
    fine_tune(args, model, loaders, cam, "digits", 6)


def own_pictures(args: argparse.Namespace) -> None:
    """Fine-tune a torchvision model on a folder of pictures or a torchvision dataset."""
    if args.data:
        train, val = folders(args.data, args.size)
        name = Path(args.data).resolve().name
    else:
        train, val = torchvision_dataset(args.dataset, args.root, args.download, args.size)
        name = args.dataset
    classes = class_names(train)
    model = Classifier(torchvision_model(args.model or "resnet18", args.weights, len(classes)), args.lr or 3e-4)
    spread = sorted({i * len(val) // WATCHED for i in range(WATCHED)})  # folders come class by class
    cam = CAMCallback(batch=Batch(samples=spread, classes=classes))
    loaders = (
        DataLoader(train, args.batch_size, shuffle=True, num_workers=args.workers),
        DataLoader(val, args.batch_size, num_workers=args.workers),
    )
    fine_tune(args, model, loaders, cam, name, 3)


def fine_tune(args: argparse.Namespace, model: Classifier, loaders: Any, cam: CAMCallback, name: str, epochs: int) -> None:
    """Fit with the callback attached, and tell what the model looked at."""
    train, val = loaders
    board = TensorBoardLogger(args.out, name=name)
    table = CSVLogger(args.out, name=name, version=board.version)  # takes no pictures, so they become files beside its own
    loggers = [table, board]
    if args.quick:
        epochs = 2
    # so that the accuracy's curve begins at the start too
    quiet_trainer(args, 1, loggers).validate(model, val, verbose=False)
    quiet_trainer(args, args.epochs or epochs, loggers, [cam]).fit(model, train, val)
    report(Path(board.log_dir))


def quiet_trainer(args: argparse.Namespace, epochs: int, loggers: Any = False, callbacks: Any = None) -> L.Trainer:
    """A Trainer that writes nothing but to its loggers."""
    options: dict[str, Any] = {"log_every_n_steps": 10}
    if args.quick:
        options = {"log_every_n_steps": 1, "limit_train_batches": 4, "limit_val_batches": 2}
    return L.Trainer(
        max_epochs=epochs,
        devices=1,
        logger=loggers,
        callbacks=callbacks,
        deterministic="warn",
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def report(folder: Path) -> None:
    """The table by epoch, read back from the log, and where the pictures are."""
    rows = read_rows(folder / "metrics.csv")
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    print("\n" + "  ".join(["epoch", *(COLUMNS[name].rjust(WIDTH) for name in columns)]))
    for epoch, step in enumerate(sorted(rows)):
        cells = [cell(rows[step].get(name)) for name in columns]
        print("  ".join([str(epoch or "start").rjust(5), *cells]))
    sheets = sorted(folder.glob("cam/**/step_*.jpg"))
    print("\nThe last look:", *sheets[-1:], sep="\n  ")
    print("The run as a filmstrip:", *folder.glob("cam/**/filmstrip.jpg"), sep="\n  ")
    print(f"All looks, with a slider, and the curves:\n  tensorboard --logdir {folder} --samples_per_plugin images=100\n")


def read_rows(path: Path) -> dict[int, dict[str, float]]:
    """The numbers of the table by step; the logger writes some of a step's into a line each."""
    rows: dict[int, dict[str, float]] = {}
    with path.open() as file:
        for line in csv.DictReader(file):
            numbers = {name: float(line[name]) for name in COLUMNS if line.get(name)}
            if numbers:
                rows.setdefault(int(line["step"]), {}).update(numbers)
    return rows


def cell(number: float | None) -> str:
    """A number in its column, or an empty place: at the start nothing has moved yet."""
    if number is None or number != number:
        return " " * WIDTH
    return f"{number:{WIDTH}.3f}"


def small_resnet(classes: int) -> ResNet:
    """Two stages of torchvision's ResNet, 0.3 M parameters: quick on a laptop, and a map of 12 x 12."""
    model = ResNet(BasicBlock, [1, 1, 1, 1])
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128, classes)
    return model.to(memory_format=torch.channels_last)  # quicker on a CPU


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", metavar="FOLDER", help="pictures in FOLDER/train/CLASS and FOLDER/val/CLASS")
    source.add_argument("--dataset", metavar="NAME", help="a torchvision dataset, such as CIFAR10")
    parser.add_argument("--root", default="data", metavar="DIR", help="where the torchvision dataset is")
    parser.add_argument("--download", action="store_true", help="let torchvision download the dataset")
    parser.add_argument("--model", help="a torchvision classifier for --data or --dataset (resnet18)")
    parser.add_argument("--weights", metavar="NAME_OR_FILE", help="its weights, such as DEFAULT or a state dict's file")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures for --data or --dataset")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures a step for --data or --dataset")
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures for --data or --dataset")
    parser.add_argument("--lr", type=float, help="highest learning rate")
    parser.add_argument("--epochs", type=int, help="epochs of fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="demo_logs", metavar="DIR", help="where logs and pictures go")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that everything runs")
    args = parser.parse_args()
    if (args.model or args.weights) and not (args.data or args.dataset):
        parser.error("--model and --weights go with --data or --dataset")
    return args


def main() -> None:
    args = arguments()
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):  # the same lines for each of three Trainers
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    L.seed_everything(args.seed, workers=True, verbose=False)
    if args.data or args.dataset:
        own_pictures(args)
    else:
        tagged_digits(args)


if __name__ == "__main__":
    main()
