"""The base class of a callback for either package tree, and what else differs between them."""

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback as Callback
else:  # lightning.pytorch and pytorch_lightning share no class; a child of both runs in a Trainer of either

    def _classes() -> Iterator[type]:
        for tree in ("lightning.pytorch", "pytorch_lightning"):
            try:
                yield importlib.import_module(f"{tree}.callbacks").Callback
            except ImportError:
                continue

    Callback = type("Callback", tuple(_classes()), {"__module__": __name__})


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
