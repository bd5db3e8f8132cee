"""What several processes need."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def of_first_process(trainer: Any, function: Callable[[], T]) -> tuple[T | None, str | None, Exception | None]:
    """What a function gives on the first process, and the words of its error, told to all; the error itself there alone."""
    value, error = None, None
    if trainer.is_global_zero:
        try:
            value = function()
        except Exception as raised:
            error = raised
    # every process comes to this broadcast, also where the first one failed, or the others would wait for ever
    value, failure = trainer.strategy.broadcast((value, None if error is None else f"{error}"))
    return value, failure, error


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
