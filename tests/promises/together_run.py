"""One of several processes over gloo, or the only one, started by test_together.py: trains and writes what its looks told.

Arguments: folder, how many processes, rank, port, and whether they wait for each other for a few seconds only.
"""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from nets import BOXES, Net, Pictures, cam, trainer
from torch.utils.data import DataLoader, DistributedSampler

from lightning_cam import Numbers, Parts, explain

folder, world, rank, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "RANK": str(rank)}
os.environ |= {"NODE_RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "LOCAL_RANK": str(rank)}
os.environ["LOCAL_WORLD_SIZE"] = str(world)
torch.set_num_threads(1)


class Fails:
    """A method that fails in the last process at its second look."""

    __name__ = "fails"
    looks = 0

    def __call__(self, seen):
        self.looks += 1
        if self.looks == 2 and rank == world - 1:
            raise RuntimeError("in the last process only")
        return seen.activation.mean(1)


class FallsOver(Net):
    """A model that cannot be run in the last process at its second look."""

    validating = False

    def validation_step(self, batch, batch_idx):
        self.validating = True
        super().validation_step(batch, batch_idx)
        self.validating = False

    def forward(self, x):
        looking = not self.training and not self.validating
        if looking and self.trainer.global_step == 2 and rank == world - 1:
            raise RuntimeError("no forward in the last process")
        return super().forward(x)


class Slow:
    """A method for which one process takes longer than the training's group waits."""

    __name__ = "slow"

    def __call__(self, seen):
        if rank == world - 1:
            time.sleep(11)
        return seen.activation.mean(1)


def train(kind, options, net=Net, resume=None, epochs=2, timeout=1800, **trainer_options):
    """The same fit, whatever the number of processes: each step sees the same twelve samples."""
    L.seed_everything(3, verbose=False)
    callback, told = cam(on_error="warn", **options), []
    callback.watcher.observers.append(told.append)
    data = Pictures(24, form="dict")
    sampler = DistributedSampler(data, world, rank, shuffle=False) if world > 1 else None
    loader = DataLoader(data, 12 // world, sampler=sampler)
    where = folder / kind
    if world > 1:
        trainer_options["strategy"] = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=timeout))
    common = dict(devices=world, precision="64-true", use_distributed_sampler=False, max_epochs=epochs)
    run = trainer(where, [callback], logger=CSVLogger(where), **{**common, **trainer_options})
    model, error = net(norm="norm" in kind), ""
    val = DataLoader(Pictures(20, form="dict"), 4)
    try:
        run.fit(model, loader, val, ckpt_path=resume)
        run.save_checkpoint(where / "kept.ckpt")
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    own = None
    if kind == "norm" and told:
        images, labels = told[-1].batch.images, told[-1].batch.labels
        own = explain(model, images, layer="relu", target=labels).heat
    return {
        "own": own,
        "looks": [[{**vars(record), "predictions": vars(record.predictions)} for record in look.records] for look in told],
        "concepts": [[concept.maps for concept in look.concepts] for look in told],
        "images": [look.batch.images for look in told],
        "state": callback.state_dict(),
        "metrics": {name: value.clone() for name, value in run.callback_metrics.items() if name.startswith("cam")},
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "error": error,
        "steps": run.global_step,
    }


parts = Numbers(parts=Parts({"trunk": "trunk", "rest": ["last", "head"]}, every=1), batches_before=1, per_class=True)
several = [{"smooth": {"method": "grad_cam", "n": 2}}, "activation_mean"]
KINDS = {
    "defaults": dict(batch={"samples": 7, "regions": "box"}, numbers=parts),
    "many": dict(layer=["trunk", "relu"], method=several, batch={"samples": 19, "pictures": 4, "regions": "box"}),
    "named": dict(batch=5, metrics=["drift", "entropy", "insertion"]),
    "concepts": dict(batch={"samples": 20, "pictures": 16}, concepts=2),
    "concepts of all": dict(batch=6, concepts=2),
    "frozen": dict(batch=5, target="projection"),
    "fewer samples than processes": dict(batch=1),
    "fails": dict(batch=4, method=Fails(), metrics=[]),
}
if sys.argv[5] == "impatient":
    results = {"slow": train("slow", dict(batch=4, method=Slow(), metrics=[]), epochs=1, timeout=8)}
else:
    results = {kind: train(kind, options) for kind, options in KINDS.items()}
    results["norm"] = train("norm", dict(batch=BOXES), limit_val_batches=0)
    results["falls over"] = train("falls over", dict(batch=4), FallsOver)
    kept = folder.parent / "1" / "frozen" / "kept.ckpt"
    if kept.exists():
        results["resumed"] = train("resumed", KINDS["frozen"], resume=kept, epochs=3)
torch.save(results, folder / f"{rank}.pt")
if world > 1:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
