"""One of two processes over gloo, started by test_distributed.py: trains with several callbacks in turn, writes what came out.

Arguments: folder, rank, port.
"""

import json
import os
import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from nets import cam, loader, trainer
from streams import Logbook, Stream
from torch.utils.data import DataLoader
from traces import digest, model_state, modes, random_states

folder, rank, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
os.environ |= {"NODE_RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2"}
torch.set_num_threads(1)


WITHOUT = dict(limit_val_batches=0)  # the other loader trains then


class Backward(L.Callback):
    """What must not be done: gradients left on the first process only."""

    def on_validation_epoch_end(self, run, module):
        if run.is_global_zero and not run.sanity_checking:
            with torch.enable_grad():
                module(loader().dataset.images[:3]).logsumexp(1).sum().backward()


class FailsLater:
    """A method that fails on its second call."""

    __name__ = "fails_later"
    calls = 0

    def __call__(self, seen):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("on the first process only")
        return seen.activation.mean(1)


def shard():
    """What this process sees of a set that has no index: other samples than the other process, and an epoch goes on."""
    return DataLoader(Stream(moving=True, start=12 * int(rank)), 3)


def train(kind, callbacks, val=None, **options):
    L.seed_everything(3, verbose=False)
    strategy = DDPStrategy(process_group_backend="gloo")
    rhythm = dict(accumulate_grad_batches=2, val_check_interval=3, **options)
    run = trainer(folder / kind, callbacks, devices=2, strategy=strategy, logger=CSVLogger(folder / kind), **rhythm)
    net, told = Logbook(dropout=0.2, norm=True), ""
    first = val if options == WITHOUT else loader(32, size=4, form="dict")
    try:
        run.fit(net, first, loader(form="dict") if val is None else val)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    return {
        "state": {k: digest(v) for k, v in net.state_dict().items()},
        "model": model_state(net),
        "rng": random_states(),
        "modes": digest(modes()),
        "metrics": {k: float(v) for k, v in run.callback_metrics.items()},
        "data": net.seen,
        "steps": run.global_step,
        "error": told,
    }


KINDS = {
    "none": [],
    "cam": [cam("trunk", "activation_mean", batch={"samples": 4, "regions": "box"}), cam(method="grad_cam", tag="second")],
    "fails": [cam(method=FailsLater(), metrics=[])],
    "backward": [Backward()],
    "wrong": [cam("nowhere")],
}
SAMPLES = []


def watching():
    """A callback whose samples are written down."""
    callback = cam(batch=5, on_error="raise")
    callback.watcher.observers.append(lambda result: SAMPLES.append(digest(result.batch.images)))
    return callback


results = {kind: train(kind, callbacks) for kind, callbacks in KINDS.items()}
for kind, options in (("stream", dict()), ("late", dict(num_sanity_val_steps=0)), ("unvalidated", WITHOUT)):
    for name, callbacks in ((kind, [watching()]), (f"{kind} alone", [])):
        SAMPLES.clear()
        results[name] = train(name, callbacks, shard(), **options) | {"samples": list(SAMPLES)}
(folder / f"{rank}.json").write_text(json.dumps(results))
# Without this, gloo's threads are still running when the interpreter ends, and now and then C++ ends the process for it.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
