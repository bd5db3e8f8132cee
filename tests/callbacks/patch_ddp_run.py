"""One of two processes over gloo, started by test_patch_ddp.py: trains with PatchMap in several ways, writes what came out.

Arguments: folder, rank, port.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from slides import Grader, cells, fit, patch_map
from traces import digest, model_state, modes, random_states

folder, rank, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
os.environ |= {"NODE_RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2"}
torch.set_num_threads(1)


class FailsLater:
    """Labels that cannot be read on the second process, once the sanity check is over."""

    __name__ = "fails_later"
    calls = 0

    def __call__(self, batch):
        self.calls += 1
        if rank == "1" and self.calls > 2:
            raise RuntimeError("on the second process only")
        return batch["target"]


KINDS = {
    "none": (None, dict()),
    "patches": (dict(per_patient=True), dict()),
    "step": (dict(), dict(call="parts", returns="losses")),
    "fails": (dict(target=FailsLater()), dict()),
    "wrong": (dict(patient="nobody"), dict()),
}
results = {}
for kind, (options, net) in KINDS.items():
    L.seed_everything(2, verbose=False)
    callback, module, error, run = None if options is None else patch_map(**options), Grader(**net), "", None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            strategy = DDPStrategy(process_group_backend="gloo")
            place = folder / kind
            run = fit(place, [callback] if callback else [], module, devices=2, strategy=strategy, logger=CSVLogger(place))
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    table = getattr(callback, "table", None)
    results[kind] = {
        "state": {k: digest(v) for k, v in module.state_dict().items()},
        "model": model_state(module),
        "rng": random_states(),
        "modes": digest(modes()),
        "data": module.seen,
        "metrics": {} if run is None else {k: float(v) for k, v in run.callback_metrics.items()},
        "cells": sorted(map(repr, cells(callback.table).items()))
        if callback is not None and callback.table is not None
        else [],
        "warnings": [str(one.message) for one in caught if "PatchMap" in str(one.message)],
        "error": error,
    }
(folder / f"{rank}.json").write_text(json.dumps(results))
# or gloo's threads might outlive it
torch.distributed.barrier()
torch.distributed.destroy_process_group()
