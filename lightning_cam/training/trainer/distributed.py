"""What several processes need."""

from datetime import timedelta
from typing import Any

import torch.distributed as dist

from lightning_cam.training.processes import Alone, Group, Processes

PATIENCE = timedelta(hours=2)  # how long processes wait for the slowest in a look


def processes_of(trainer: Any) -> Processes:
    """The processes of a Trainer's run."""
    if trainer.world_size == 1:
        return Alone()
    return Group(trainer.global_rank, trainer.world_size, trainer.strategy.root_device, group=_patient_group())


def refuse_sharded(trainer: Any) -> None:
    """Refuse a strategy under which no process holds the whole model.

    Raises:
        ValueError: under FSDP, tensor parallelism and DeepSpeed's stage 3.
    """
    # by name, since a Trainer may come from either of Lightning's packages
    kind = type(trainer.strategy).__name__
    if kind in ("FSDPStrategy", "ModelParallelStrategy") or _zero_stage(trainer.strategy) == 3:
        raise ValueError(
            f"CAMCallback cannot look under {kind}: parameters are sharded over processes, "
            "and one process alone has no whole model to run. "
            "Train with DDP, or explain a saved checkpoint with lightning_cam.explain."
        )


def _zero_stage(strategy: Any) -> int:
    """DeepSpeed's stage; only the third shards parameters, the lower ones gradients and optimizer states."""
    config = getattr(strategy, "config", None)
    if not isinstance(config, dict):
        return 0
    stage: int = config.get("zero_optimization", {}).get("stage", 0)
    return stage


class _Patient:
    """The group in which looks are told, beside the one in which the training is."""

    world: Any = None
    group: Any = None


def _patient_group() -> Any:
    """A group of all processes that waits longer than that of the training does, made once a run.

    A dear method takes minutes, and processes differ by a sample in what they have to do; training's own group would give up
    after ten or thirty minutes, and on its accelerator every number would have to go there and back.
    """
    world = dist.group.WORLD
    if _Patient.world is not world or _Patient.group is None:
        _Patient.world, _Patient.group = world, dist.new_group(backend="gloo", timeout=PATIENCE)
    return _Patient.group
