"""What several processes need."""

from typing import Any

from lightning_cam.training.processes import Alone, Group, Processes


def processes_of(trainer: Any) -> Processes:
    """The processes of a Trainer's run."""
    if trainer.world_size == 1:
        return Alone()
    return Group(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)


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
