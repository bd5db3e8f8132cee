"""One of two processes over gloo, started by test_default_numbers.py: trains with numbers by default, and writes them.

Arguments: folder, rank, port.
"""

import json
import os
import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from nets import Net, cam, loader, trainer

from lightning_cam import Batch

folder, rank, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
os.environ |= {"NODE_RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2"}
torch.set_num_threads(1)
L.seed_everything(3, verbose=False)
callback = cam(batch=Batch(samples=20, pictures=2, regions="box"), on_error="raise")
run = trainer(folder, [callback], devices=2, strategy=DDPStrategy(process_group_backend="gloo"))
run.fit(Net(), loader(32, size=4, form="dict"), loader(24, form="dict"))
told = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("cam")}
(folder / f"{rank}.json").write_text(json.dumps(told))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
