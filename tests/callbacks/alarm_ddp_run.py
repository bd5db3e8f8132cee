"""One of two processes over gloo, started by test_alarm_ddp.py: trains with an alarm that stops, writes what came out.

Arguments: folder, rank, port.
"""

import json
import os
import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from alarms import fit, watched
from lightning.pytorch.strategies import DDPStrategy

from lightning_cam import ShortcutAlarm

folder, rank, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
os.environ |= {"NODE_RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2"}
torch.set_num_threads(1)

results = {}
for kind, stop, val in (("stops", True, True), ("unvalidated", True, False), ("warns", False, True)):
    L.seed_everything(3, verbose=False)
    alarm, callback = ShortcutAlarm(looks=2, stop=stop), watched(0.1, 0.1, 0.9)
    strategy = DDPStrategy(process_group_backend="gloo")
    run = fit(folder / kind, [alarm, callback], val, devices=2, strategy=strategy, max_epochs=6)
    results[kind] = {
        "epochs": run.current_epoch,
        "steps": run.global_step,
        "stopped": bool(run.should_stop),
        "fired": alarm.fired,
        "looks": callback.history["relu/planned"].titles if callback.history else [],
    }
(folder / f"{rank}.json").write_text(json.dumps(results))
# Without this, gloo's threads are still running when the interpreter ends, and now and then C++ ends the process for it.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
