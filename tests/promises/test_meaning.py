"""What numbers of a run mean, end to end and seeded: heat leaves a tag, random labels have no place, a checkpoint is chosen."""

from itertools import pairwise

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from nets import trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_cam import Batch, CAMCallback

pytestmark = pytest.mark.slow
SIDE, OBJECT, TAG = 32, 10, 5
NOISE, CONTRAST = 0.25, 0.5
REGIONS = {"object": "object", "tag": "tag"}
METRICS = [{"energy_inside": {"region": "object"}}, {"energy_inside": {"region": "tag"}}, "enrichment", "drift"]


class Bars(Dataset):
    """Bars that stand or lie, anywhere on noise, beside a tag in a corner whose colour agrees with them or says nothing."""

    def __init__(self, n, agree, seed, random_labels=False):
        g = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(2, (n,), generator=g)
        colour = self.labels if agree else torch.randint(2, (n,), generator=g)
        self.images = NOISE * torch.randn(n, 3, SIDE, SIDE, generator=g)
        self.object = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
        self.tag = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
        stripes = (torch.arange(OBJECT) // 2 % 2).float()
        for i in range(n):
            y, x = torch.randint(SIDE - OBJECT - TAG, (2,), generator=g).tolist()
            bar = stripes[None].expand(OBJECT, OBJECT) if self.labels[i] else stripes[:, None].expand(OBJECT, OBJECT)
            self.images[i, :, y : y + OBJECT, x : x + OBJECT] += CONTRAST * bar
            self.object[i, y : y + OBJECT, x : x + OBJECT] = True
            self.images[i, 0 if colour[i] else 2, -TAG:, -TAG:] += 2
            self.tag[i, -TAG:, -TAG:] = True
        if random_labels:
            self.labels = torch.randint(2, (n,), generator=g)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"image": self.images[i], "label": self.labels[i], "object": self.object[i], "tag": self.tag[i]}


class Small(L.LightningModule):
    def __init__(self):
        super().__init__()
        widths = (3, 16, 16, 32)
        convs = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(widths)]
        self.trunk = nn.Sequential(convs[0], nn.AvgPool2d(2), *convs[1:])
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        return self.head(self.trunk(x).mean((2, 3)))

    def training_step(self, batch, _):
        return F.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch, _):
        right = self(batch["image"]).argmax(1) == batch["label"]
        self.log("accuracy", right.float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 3e-3)


def fitted(folder, net, train, val, callbacks=(), epochs=6, **options):
    run = trainer(folder, list(callbacks), max_epochs=epochs, **options)
    torch.manual_seed(1)
    run.fit(net, DataLoader(train, 32, shuffle=True), DataLoader(val, 64))
    return run


def watching(data, **options):
    """A callback on the samples of a set, and the mean of each number by look."""
    samples = torch.utils.data.default_collate([data[i] for i in range(16)])
    callback = CAMCallback("trunk", batch=Batch(samples=samples, regions=REGIONS), metrics=METRICS, on_error="raise", **options)
    rows = []
    callback.watcher.observers.append(
        lambda result: rows.append({name: float(value.nanmean()) for name, value in result.records[0].values.items()})
    )
    return callback, rows


@pytest.fixture(scope="module")
def shortcut(tmp_path_factory):
    """A net that reads the tag, and the numbers of its fine-tuning where tags say nothing."""
    torch.manual_seed(0)
    net = Small()
    fitted(tmp_path_factory.mktemp("biased"), net, Bars(512, True, 0), Bars(128, True, 1), epochs=3)
    callback, rows = watching(Bars(64, True, 2))
    folder = tmp_path_factory.mktemp("unbiased")
    keep = ModelCheckpoint(folder, "{epoch}", monitor="cam/energy_inside_object", mode="max")
    run = fitted(folder, net, Bars(512, False, 3), Bars(128, False, 4), [callback, keep], 9, enable_checkpointing=True)
    return run, keep, rows


def test_heat_leaves_the_tag_and_goes_to_the_object_and_the_curves_cross(shortcut):
    run, _, rows = shortcut
    assert run.callback_metrics["accuracy"] > 0.9
    first, last = rows[0], rows[-1]
    assert first["energy_inside_tag"] > 2 * first["energy_inside_object"]
    assert last["energy_inside_object"] > 5 * last["energy_inside_tag"]
    assert last["drift"] > 0.5


def test_the_checkpoint_is_that_of_the_epoch_with_the_best_localization(shortcut):
    _, keep, rows = shortcut
    after = [row["energy_inside_object"] for row in rows[1:]]  # of each epoch, the baseline before them
    assert f"epoch={after.index(max(after))}.ckpt" in keep.best_model_path
    assert float(keep.best_model_score) == pytest.approx(max(after), rel=1e-6)


def test_random_labels_have_no_place(tmp_path):
    torch.manual_seed(0)
    callback, rows = watching(Bars(64, True, 2, random_labels=True))
    fitted(tmp_path, Small(), Bars(512, False, 0, random_labels=True), Bars(64, False, 1), [callback], 3)
    assert all(0.6 < row["enrichment"] < 1.5 for row in rows), rows  # about 1; what can be learned goes beyond 3


def test_a_run_stops_where_localization_no_longer_improves(tmp_path):
    torch.manual_seed(0)
    callback, rows = watching(Bars(64, True, 2))
    stop = EarlyStopping("cam/energy_inside_tag", mode="max", patience=2, min_delta=0.01)
    run = fitted(tmp_path, Small(), Bars(512, True, 0), Bars(64, True, 1), [callback, stop], 30)
    tags = [row["energy_inside_tag"] for row in rows[1:]]
    best = 0
    for epoch, value in enumerate(tags):
        if value > tags[best] + 0.01:
            best = epoch
    assert run.current_epoch == best + 3 < 30
