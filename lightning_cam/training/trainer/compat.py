"""Lightning's two package trees, and all that is used of its private names.

``lightning.pytorch`` and ``pytorch_lightning`` are built from the same source and share no class.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from lightning_cam.data.selection import ChosenLoader
from lightning_cam.training.processes import Alone
from lightning_cam.training.trainer.distributed import processes_of

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback as Callback
else:

    def _callback_classes() -> Iterator[type]:
        for tree in ("lightning.pytorch", "pytorch_lightning"):
            try:
                yield importlib.import_module(f"{tree}.callbacks").Callback
            except ImportError:
                continue

    # a child of both trees' callbacks runs in a Trainer of either
    Callback = type("Callback", tuple(_callback_classes()), {"__module__": __name__})


def state_key(callback: Any, watcher: Any) -> str:
    """The name under which a checkpoint holds a callback's state: one a layer, method and tag of its Watcher."""
    fused = [watcher.fusion.label] if watcher.fusion else []
    methods = [method.label for method in watcher.methods]
    key: str = callback._generate_state_key(layer=watcher.layers + fused, method=methods, tag=watcher.tag)
    return key


def logged_step(trainer: Any) -> int:
    """The x axis of Lightning's own scalars: batches that stepped; one higher at the end of a training epoch."""
    stepped = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)
    return int(stepped) - int(trainer.training and not is_in_batch(trainer))


def is_in_batch(trainer: Any) -> bool:
    """Whether a training batch is under way; Lightning counts and logs its step behind its last hook."""
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    return bool(trainer.training and progress.ready > progress.completed)


def is_fitting(trainer: Any) -> bool:
    """Whether this is a fit, rather than a validate or test on its own."""
    return bool(trainer.state.fn.name == "FITTING")


def is_redirected(module: Any) -> bool:
    """Whether a call of the module is its step, as a strategy that wraps it (DDP, FSDP) runs that, and not its forward."""
    return getattr(vars(module).get("forward"), "__name__", "") == "wrapped_forward"


def stage_loaders(trainer: Any) -> tuple[Any, str]:
    """The loaders whose samples are watched, and the name of their stage; validation's, unless there is none."""
    if trainer.testing:
        return trainer.test_dataloaders, "test"
    if trainer.state.fn.name != "VALIDATING" and not trainer.enable_validation:
        return trainer.train_dataloader, "training"
    loaders = trainer.val_dataloaders
    if loaders is None:  # not loaded yet: no sanity check and no validation in the first epoch
        loaders = trainer.fit_loop.epoch_loop.val_loop._data_source.dataloader()
    return loaders, "validation"


def own_part(trainer: Any, batch: Any, position: int, chosen: ChosenLoader) -> Any:
    """What a loader gave of a batch that passes by; None where it is another loader's."""
    if chosen.alone:
        return batch
    # several are gone through one after the other, as in most validations, or side by side, as in training
    if trainer._active_loop._combined_loader._mode == "sequential":
        return batch if position == chosen.position else None
    try:
        return batch[chosen.key]
    except (LookupError, TypeError):
        # a transfer hook made one batch of several
        return batch


def transferred(trainer: Any, module: Any, batch: Any, position: int = 0) -> Any:
    """A batch on the device, through the hooks of module and datamodule, as Lightning moves a validation batch."""
    with as_validation(trainer):
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=position)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=position)


@contextmanager
def as_validation(trainer: Any) -> Iterator[None]:
    """Let hooks that ask ``self.trainer.training`` (to augment, say) see a validation, whatever stage it is."""
    state = trainer.state
    before = state.stage
    try:
        if before is not None and before.name == "TRAINING":
            state.stage = type(before).VALIDATING
        yield
    finally:
        state.stage = before


@contextmanager
def lent(watcher: Any, trainer: Any, owner: Any, model: Any) -> Iterator[None]:
    """A Trainer's model, precision and stage, lent to a Watcher for one look: nothing of a run is held between looks."""
    watcher.owner, watcher.model = owner, model
    watcher.context = trainer.precision_plugin.val_step_context
    watcher.processes = processes_of(trainer)
    try:
        with as_validation(trainer):
            yield
    finally:
        watcher.owner, watcher.model, watcher.load, watcher.context = None, None, None, nullcontext
        watcher.processes = Alone()
        watcher.publisher.close()
