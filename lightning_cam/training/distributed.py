"""What several processes need."""

from typing import Any


def refuse_sharded(trainer: Any) -> None:
    """Raise ValueError where no process holds the whole model."""
    strategy = trainer.strategy
    config = getattr(strategy, "config", None)
    stage = config.get("zero_optimization", {}).get("stage", 0) if isinstance(config, dict) else 0
    if type(strategy).__name__ in ("FSDPStrategy", "ModelParallelStrategy") or stage == 3:
        raise ValueError(
            f"CAMCallback cannot look under {type(strategy).__name__}: parameters are sharded over processes, and one process "
            "alone has no whole model to run. Train with DDP, or explain a saved checkpoint with lightning_cam.explain."
        )
