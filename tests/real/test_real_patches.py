"""PatchMap on real tiles of three H&E pictures, named as sets of histology patches are."""

import csv

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import STRICT, trainer
from photographs import DATA
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_cam import PatchMap
from lightning_cam.cli.main import main
from lightning_cam.figures import patch_map
from lightning_cam.patches import Columns, PatchName, read_csv, score_patches

TILES = DATA / "histo_patches"
pytestmark = [*STRICT, pytest.mark.skipif(not TILES.is_dir(), reason=f"no tiles at {TILES}")]
COLUMNS = Columns(patient="image", target="class", probability="nucleus_fraction")


class Tiles(Dataset):
    """Every tile of the pictures named, its place out of its name."""

    def __init__(self, pictures):
        self.files = [file for file in sorted(TILES.rglob("*_idx5_*.png")) if PatchName.of(file).patient in pictures]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        name = PatchName.of(self.files[i])
        pixels = torch.from_numpy(np.asarray(Image.open(self.files[i]).convert("RGB")).copy())
        place = {"patient_id": name.patient, "x": name.x, "y": name.y}
        return {"image": pixels.permute(2, 0, 1).float() / 255, "target": name.target, **place}


class Small(L.LightningModule):
    """Colours and edges, pooled."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 12, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 1)
        )

    def step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self.net(batch["image"])[:, 0], batch["target"].float())

    training_step = validation_step = step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.02)


@pytest.mark.slow
def test_two_epochs_on_real_tiles(tmp_path):
    L.seed_everything(0, verbose=False)
    callback = PatchMap()
    run = trainer(tmp_path, [callback], max_epochs=2)
    train, val = (
        DataLoader(Tiles(pictures), 20, shuffle=shuffle) for pictures, shuffle in ((["03", "11"], True), (["17"], False))
    )
    run.fit(Small(), train, val)
    assert callback.table.patients == ("17",) and len(callback.table) == 100
    assert sorted(callback.table.x.unique().tolist()) == [1 + 50 * i for i in range(10)]
    assert len(list(tmp_path.rglob("patches/map/step_*.jpg"))) == 2
    assert float(run.callback_metrics["patches/auc"]) > 0.8  # nuclei are told by their colour


def test_their_table_is_read_and_drawn(tmp_path, capsys):
    table = read_csv(TILES / "patches.csv", COLUMNS)
    assert table.patients == ("3", "11", "17") and len(table) == 300
    scores = score_patches(table)
    assert scores.auc.tolist() == [1, 1, 1]  # the class is this share, cut at .27
    with (TILES / "patches.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["image"] == "3"]
    hits = sum(float(row["nucleus_fraction"]) >= 0.5 for row in rows)
    assert float(scores.dice[0]) == pytest.approx(2 * hits / (hits + sum(row["class"] == "1" for row in rows)))
    assert patch_map(table).shape[0] == 3
    options = [
        "--patient",
        "image",
        "--target",
        "class",
        "--probability",
        "nucleus_fraction",
        "--out",
        str(tmp_path / "map.png"),
    ]
    assert main(["patches", str(TILES / "patches.csv"), *options]) == 0
    assert "17    AUC 1.000" in capsys.readouterr().out and (tmp_path / "map.png").stat().st_size > 5000
