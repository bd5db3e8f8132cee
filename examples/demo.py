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
import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
import torchvision
from digits import TaggedDigits
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, default_collate
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.transforms import v2

from lightning_cam import Batch, CAMCallback, Style

WATCHED = 16  # pictures of the fixed batch
COLUMNS = {
    "val_acc": "accuracy",
    "cam/energy_inside_digit": "energy on digit",
    "cam/energy_inside_tag": "energy on tag",
}


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
        logits, label = self._judge(batch)
        loss = F.cross_entropy(logits, label)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        """Accuracy."""
        logits, label = self._judge(batch)
        right = (logits.argmax(1) == label).float().mean()
        self.log("val_acc", right, on_epoch=True, prog_bar=True, batch_size=len(label))

    def configure_optimizers(self) -> Any:
        """One cycle over the whole fit."""
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _judge(self, batch: Any) -> tuple[Tensor, Tensor]:
        image, label = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch
        return self(image), label


def tagged_digits(args: argparse.Namespace) -> None:
    """Learn the tag, then fine-tune on digits whose tag says nothing."""
    an_epoch, held_out = (128, 64) if args.quick else (2800, 397)
    agree, random = (TaggedDigits("val", tags, held_out, args.seed) for tags in ("agree", "random"))
    model = Classifier(small_resnet(len(TaggedDigits.classes)), args.lr or 5e-3)

    def training(tags: str) -> DataLoader[Any]:
        data = TaggedDigits("train", tags, 30 * an_epoch, args.seed)
        return DataLoader(data, 32, sampler=RandomSampler(data, num_samples=an_epoch), drop_last=True)

    print("\nPhase one: the tag's colour gives the class away.")
    first = a_trainer(args, 1 if args.quick else 2)
    first.fit(model, training("agree"), DataLoader(agree, 128))
    print(f"Accuracy where tag and digit agree: {first.callback_metrics['val_acc']:.2f}")

    print("\nPhase two: the tag is random. Fine-tuning, watched by CAMCallback.")
    watched = default_collate([agree[i] for i in agree.some_of_each(WATCHED)])
    cam = CAMCallback(
        batch=Batch(samples=watched, regions={"digit": "digit", "tag": "tag"}, classes=TaggedDigits.classes),
        metrics=[{"energy_inside": {"region": "digit"}}, {"energy_inside": {"region": "tag"}}],
        style=Style(alpha=0.85),
    )
    fine_tune(args, model, (training("random"), DataLoader(random, 128)), cam, "digits", 6)


def own_pictures(args: argparse.Namespace) -> None:
    """Fine-tune a torchvision model on a folder of pictures or a torchvision dataset."""
    train, val = folders(args) if args.data else torchvision_dataset(args)
    classes = [str(name) for name in getattr(train, "classes", None) or sorted(set(map(int, train.labels)))]
    model = Classifier(torchvision_model(args.model or "resnet18", args.weights, len(classes)), args.lr or 3e-4)
    spread = sorted({i * len(val) // WATCHED for i in range(WATCHED)})  # folders come class by class
    cam = CAMCallback(batch=Batch(samples=spread, classes=classes))
    loaders = [DataLoader(d, args.batch_size, shuffle=d is train, num_workers=args.workers) for d in (train, val)]
    fine_tune(args, model, loaders, cam, args.dataset or Path(args.data).resolve().name, 3)


def fine_tune(args: argparse.Namespace, model: Classifier, loaders: Any, cam: CAMCallback, name: str, epochs: int) -> None:
    """Fit with the callback attached, and tell what was seen."""
    train, val = loaders
    board = TensorBoardLogger(args.out, name=name)
    plain = CSVLogger(args.out, name=name, version=board.version)  # takes no pictures, so they become files beside its own
    loggers = [plain, board]
    a_trainer(args, 1, loggers).validate(model, val, verbose=False)  # so that the accuracy's curve begins at the start too
    epochs = args.epochs or (2 if args.quick else epochs)
    a_trainer(args, epochs, loggers, [cam]).fit(model, train, val)
    report(Path(board.log_dir))


def a_trainer(args: argparse.Namespace, epochs: int, loggers: Any = False, callbacks: Any = None) -> L.Trainer:
    """A Trainer that writes nothing but to its loggers."""
    limits = {"limit_train_batches": 4, "limit_val_batches": 2} if args.quick else {}
    return L.Trainer(
        max_epochs=epochs,
        devices=1,
        logger=loggers,
        callbacks=callbacks,
        deterministic="warn",
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1 if args.quick else 10,
        **limits,
    )


def report(folder: Path) -> None:
    """The table by epoch, read back from the log, and where the pictures are."""
    rows: dict[int, dict[str, float]] = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            found = {name: float(row[name]) for name in COLUMNS if row.get(name)}
            if found:
                rows.setdefault(int(row["step"]), {}).update(found)
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    print("\n" + "  ".join(["epoch", *(COLUMNS[name].rjust(15) for name in columns)]))
    for epoch, step in enumerate(sorted(rows)):
        numbers = (f"{rows[step][name]:15.3f}" if name in rows[step] else " " * 15 for name in columns)
        print("  ".join([str(epoch or "start").rjust(5), *numbers]))
    sheets = sorted(folder.glob("cam/**/step_*.jpg"))
    print("\nThe last look:", *sheets[-1:], sep="\n  ")
    print("The run as a filmstrip:", *folder.glob("cam/**/filmstrip.jpg"), sep="\n  ")
    print(f"All looks, with a slider, and the curves:\n  tensorboard --logdir {folder} --samples_per_plugin images=100\n")


def small_resnet(classes: int) -> ResNet:
    """Two stages of torchvision's ResNet, 0.3 M parameters: quick on a laptop, and a map of 12 x 12."""
    model = ResNet(BasicBlock, [1, 1, 1, 1])
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128, classes)
    return model.to(memory_format=torch.channels_last)  # quicker on a CPU


def torchvision_model(name: str, weights: str | None, classes: int) -> nn.Module:
    """A torchvision classifier with a new head; weights are a name, which torchvision may download, or a file."""
    file = weights if weights and Path(weights).is_file() else None
    model = torchvision.models.get_model(name, weights=None if file else weights)
    if file:
        given, own = torch.load(file, map_location="cpu", weights_only=True), model.state_dict()
        fits = {key: value for key, value in given.items() if key in own and value.shape == own[key].shape}
        print(f"{file}: {len(fits)} of the model's {len(own)} tensors taken")
        model.load_state_dict(fits, strict=False)
    heads = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not heads:
        raise SystemExit(f"{name} has no linear layer to exchange for a new head; try resnet18.")
    parent, _, last = heads[-1][0].rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Linear(heads[-1][1].in_features, classes))
    return model


def transforms(size: int) -> tuple[v2.Compose, v2.Compose]:
    """Augmentation for training, the middle of the picture for validation."""
    ends = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    train = [v2.RandomResizedCrop(size, (0.4, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    val = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    first = [v2.ToImage(), v2.RGB()]
    return v2.Compose([*first, *train, *ends]), v2.Compose([*first, *val, *ends])


def folders(args: argparse.Namespace) -> tuple[Any, Any]:
    """``train`` and ``val``, a folder a class inside each."""
    kind, (train, val) = torchvision.datasets.ImageFolder, transforms(args.size)
    train, val = kind(f"{args.data}/train", train), kind(f"{args.data}/val", val)
    if train.classes != val.classes:
        raise SystemExit(f"train and val differ in classes: {train.classes} and {val.classes}.")
    return train, val


def torchvision_dataset(args: argparse.Namespace) -> tuple[Any, Any]:
    """The training and the test part of a torchvision dataset."""
    kind = getattr(torchvision.datasets, args.dataset, None)
    if kind is None:
        raise SystemExit(f"torchvision has no dataset {args.dataset!r}.")
    parts = ({"train": True}, {"train": False})
    if "train" not in inspect.signature(kind).parameters:
        parts = ({"split": "train"}, {"split": "test"})
    train, val = transforms(args.size)
    options = {"root": args.root, "download": args.download}
    return kind(**options, **parts[0], transform=train), kind(**options, **parts[1], transform=val)


def main() -> None:
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
    own = args.data or args.dataset
    if (args.model or args.weights) and not own:
        parser.error("--model and --weights go with --data or --dataset")
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):  # the same lines for each of three Trainers
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    L.seed_everything(args.seed, workers=True, verbose=False)
    (own_pictures if own else tagged_digits)(args)


if __name__ == "__main__":
    main()
