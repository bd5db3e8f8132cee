"""When to look, and what the moment is called."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_cam.record import Moment
from lightning_cam.training.history import History
from lightning_cam.training.trainer.compat import is_fitting, logged_step

Step = Literal["auto", "epoch", "global_step"]


@dataclass(frozen=True)
class Schedule:
    """When to look.

    Args:
        every_n_epochs: look at the validation of every n-th epoch; 0 for looks by steps alone.
        every_n_steps: look after every n-th optimizer step too, as the Trainer's ``global_step`` counts them; 0 for not.
        baseline: look once before the first optimizer step too.
        step: the pictures' step in the tracker: ``auto`` is the step at which Lightning logs its own validation scalars. Where
            an earlier look of the run has that step, as the baseline has that of a first epoch of one optimizer step, it is
            the next one, lest a picture replace another; with ``epoch`` the last look of each epoch stays.
    """

    every_n_epochs: int = 1
    baseline: bool = True
    step: Step = "auto"
    every_n_steps: int = 0

    def __post_init__(self) -> None:
        if self.every_n_steps < 0:
            raise ValueError(f"Schedule(every_n_steps={self.every_n_steps}): expected at least 1, or 0 for no looks by steps.")
        if self.every_n_epochs < 0 or not (self.every_n_epochs or self.every_n_steps):
            raise ValueError(
                f"Schedule(every_n_epochs={self.every_n_epochs}): expected at least 1; for looks by steps alone write "
                "Schedule(every_n_epochs=0, every_n_steps=500)."
            )
        if self.step not in get_args(Step):
            raise ValueError(f"Schedule(step={self.step!r}): expected one of {', '.join(get_args(Step))}.")

    def due(self, trainer: Any) -> bool:
        """Whether this epoch is one to look at; a validate or test on its own is."""
        # epochs count from 0, and the n-th is the first to be looked at
        if not is_fitting(trainer):
            return True
        return self.every_n_epochs > 0 and int(trainer.current_epoch + 1) % self.every_n_epochs == 0

    def due_by_steps(self, before: int, now: int) -> bool:
        """Whether a look falls between two counts of optimizer steps; a batch may hold none, or several."""
        return self.every_n_steps > 0 and now // self.every_n_steps > before // self.every_n_steps

    def batches_left(self, trainer: Any, batch_idx: int) -> int | None:
        """How many training batches there are until this epoch's next look; None if there is none, or nobody knows."""
        every = 1
        period = trainer.num_training_batches
        if trainer.enable_validation:
            every, period = trainer.check_val_every_n_epoch, trainer.val_check_batch
        if every is None:  # validation counts batches over epochs
            every, batch_idx = 1, trainer.fit_loop.total_batch_idx
        if not self.due(trainer) or (trainer.current_epoch + 1) % every or not math.isfinite(period):
            return None
        return int(period) - batch_idx % int(period)


def baseline_moment(trainer: Any, schedule: Schedule) -> Moment:
    """The moment before the first optimizer step; of a run resumed without a baseline, the moment it goes on."""
    if trainer.global_step == 0:
        return Moment(0, "before training", "start", baseline=True, epoch=0.0)
    epoch = trainer.current_epoch
    return Moment(_step(trainer, schedule), f"resumed at epoch {epoch}", f"at {epoch}", baseline=True, epoch=float(epoch))


def present_moment(trainer: Any, schedule: Schedule, histories: Mapping[str, History]) -> Moment:
    """The present moment of a fit, validate or test; "epoch 3" means that three epochs have been trained."""
    step = _step(trainer, schedule)
    if schedule.step != "epoch":
        step = max(step, _next_step(histories))
    if not is_fitting(trainer):
        word = "validate"
        if trainer.testing:
            word = "test"
        return Moment(step, word, word, fitting=False)
    epochs = trainer.current_epoch + _trained_share(trainer)
    short = f"{epochs:.2f}".rstrip("0").rstrip(".")
    return Moment(step, f"epoch {short}", short, epoch=float(epochs))


def _trained_share(trainer: Any) -> float:
    """The trained share of the current epoch: less than one where validation runs inside an epoch."""
    total = trainer.num_training_batches
    # an iterable dataset of unknown length
    if not isinstance(total, int) or total < 1:
        return 1.0
    return min(1.0, float(trainer.fit_loop.batch_idx + 1) / total)


def _next_step(histories: Mapping[str, History]) -> int:
    """The step behind the last look: files and TensorBoard keep only the last picture of a step."""
    steps = [history.last_step for history in histories.values() if history.last_step is not None]
    return max(steps, default=-1) + 1


def _step(trainer: Any, schedule: Schedule) -> int:
    if schedule.step == "epoch":
        return int(trainer.current_epoch) + 1
    if schedule.step == "global_step":
        return int(trainer.global_step)
    return logged_step(trainer)
