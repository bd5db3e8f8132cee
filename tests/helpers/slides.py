"""Patches of made slides: discs of tissue with a lesion, whose patches are brighter; and a module that tells them apart."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from nets import trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_cam import PatchMap, Style
from lightning_cam.patches import PatchTable

SPACING = 50


class Slides(Dataset):
    """Patches in a fixed order, as dicts; ``form`` may be ``tuple`` of image, label and a dict of the rest."""

    def __init__(self, patients: int = 3, side: int = 5, form: str = "dict") -> None:
        own = torch.Generator().manual_seed(11)
        self.rows = []
        self.form = form
        for p in range(patients):
            for i in range(side):
                for j in range(side):
                    if (i - side / 2 + 0.5) ** 2 + (j - side / 2 + 0.5) ** 2 > (side / 2) ** 2:
                        continue
                    lesion = int(j < side // 2 - p % 2 and i > 0)
                    image = torch.rand(3, 8, 8, generator=own) * 0.6 + 0.4 * lesion
                    self.rows.append((f"s{p + 9}", 1 + SPACING * j, 1 + SPACING * i, lesion, image))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, n: int) -> Any:
        patient, x, y, target, image = self.rows[n]
        if self.form == "tuple":
            return image, target, {"patient_id": patient, "x": x, "y": y}
        return {"image": image, "target": target, "patient_id": patient, "x": x, "y": y}


class Grader(L.LightningModule):
    """One or two numbers a patch, and a step that returns what it is told to; ``call`` names how the step runs the net."""

    def __init__(self, classes: int = 2, returns: str = "nothing", call: str = "self", sigmoid: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(4, classes)
        self.loss = nn.CrossEntropyLoss(reduction="none") if classes > 1 else nn.BCEWithLogitsLoss(reduction="none")
        self.returns, self.call, self.sigmoid = returns, call, sigmoid
        self.seen: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.features(x).mean((2, 3)))
        return logits.sigmoid() if self.sigmoid else logits

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[:2] if isinstance(batch, list | tuple) else (batch["image"], batch["target"])

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        if logits.shape[1] > 1:
            return self.loss(logits, y)
        if self.sigmoid:
            return F.binary_cross_entropy(logits[:, 0], y.float(), reduction="none")
        return self.loss(logits[:, 0], y.float())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.parts(batch)
        self.seen.append(repr(x.double().sum().item()))
        return self.losses(self(x), y).mean()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, y = self.parts(batch)
        logits = self(x) if self.call == "self" else self.head(self.features(x).mean((2, 3)))
        losses = self.losses(logits, y)
        self.log("val_loss", losses.mean(), batch_size=len(x))
        given = {"loss": losses.mean(), "logits": logits, "mine": logits.softmax(1), "losses": losses}
        return {"nothing": None, "dict": given, "losses": losses, "loss": losses.mean()}[self.returns]

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.02)


def slides(size: int = 16, shuffle: bool = False, **options: Any) -> DataLoader:
    return DataLoader(Slides(**options), size, shuffle=shuffle)


def patch_map(**options: Any) -> PatchMap:
    """A callback that draws small."""
    return PatchMap(**{"style": Style(tile=60), **options})


def fit(folder: Path, callbacks: list[Any], net: Any = None, val: Any = None, **options: Any) -> Any:
    """Train on the made slides, and validate on them; returns the Trainer."""
    L.seed_everything(1, verbose=False)
    run = trainer(folder, callbacks, **options)
    run.fit(net or Grader(), slides(shuffle=True), val or slides())
    return run


def by_hand(net: Any, **options: Any) -> PatchTable:
    """The table as the net would fill it now."""
    rows = Slides(**options).rows
    columns: dict[str, Any] = {name: [row[i] for row in rows] for i, name in enumerate(("patient_id", "x", "y", "target"))}
    with torch.no_grad():
        logits = net.eval()(torch.stack([row[4] for row in rows]))
    probability = logits.sigmoid()[:, 0]
    if logits.shape[1] > 1:
        probability = logits.softmax(1)[:, 1]
    return PatchTable.of(columns | {"probability": probability})


def cells(table: PatchTable) -> dict[Any, Any]:
    """What a table holds at each place."""
    columns = (getattr(table, name).tolist() for name in ("patient", "x", "y", "target", "probability"))
    return {(table.patients[p], x, y): (t, round(v, 5)) for p, x, y, t, v in zip(*columns, strict=True)}
