"""When to look, and what the moment is called."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Step = Literal["auto", "epoch", "global_step"]


@dataclass(frozen=True)
class Schedule:
    """When to look.

    Args:
        every_n_epochs: look at the validation of every n-th epoch.
        baseline: look once before the first optimizer step too.
        step: the pictures' step in the tracker: ``auto`` is the step at which Lightning logs its own validation scalars.
    """

    every_n_epochs: int = 1
    baseline: bool = True
    step: Step = "auto"

    def __post_init__(self) -> None:
        if self.every_n_epochs < 1:
            raise ValueError(f"Schedule(every_n_epochs={self.every_n_epochs}): expected at least 1.")
        if self.step not in get_args(Step):
            raise ValueError(f"Schedule(step={self.step!r}): expected one of {', '.join(get_args(Step))}.")

    def due(self, trainer: Any) -> bool:
        """Whether this epoch is one to look at."""
        return int(trainer.current_epoch + 1) % self.every_n_epochs == 0


@dataclass(frozen=True)
class Moment:
    """When a look took place: the step it is logged at, and the words for it."""

    step: int
    title: str  # "before training", "epoch 3"
    short: str  # "start", "3"
    baseline: bool = False
    fitting: bool = True


def baseline(trainer: Any, schedule: Schedule) -> Moment:
    """The moment before the first optimizer step; of a run resumed without a baseline, the moment it goes on."""
    if trainer.global_step > 0:
        return Moment(
            _step(trainer, schedule), f"resumed at epoch {trainer.current_epoch}", f"at {trainer.current_epoch}", True
        )
    return Moment(0, "before training", "start", baseline=True)


def now(trainer: Any, schedule: Schedule) -> Moment:
    """The present moment of a fit, validate or test; "epoch 3" means that three epochs have been trained."""
    if trainer.state.fn.name != "FITTING":
        word = "test" if trainer.testing else "validate"
        return Moment(_step(trainer, schedule), word, word, fitting=False)
    epochs = trainer.current_epoch + _share(trainer)
    short = f"{epochs:.2f}".rstrip("0").rstrip(".")
    return Moment(_step(trainer, schedule), f"epoch {short}", short)


def _share(trainer: Any) -> float:
    """The trained share of the current epoch: less than one where validation runs inside an epoch."""
    total = trainer.num_training_batches
    if not isinstance(total, int) or total < 1:  # an iterable dataset of unknown length
        return 1.0
    return min(1.0, float(trainer.fit_loop.batch_idx + 1) / total)


def _step(trainer: Any, schedule: Schedule) -> int:
    if schedule.step == "epoch":
        return int(trainer.current_epoch) + 1
    if schedule.step == "global_step":
        return int(trainer.global_step)
    # private, but it is the x axis of Lightning's own validation scalars; one higher at the end of a training epoch
    stepped = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)
    return int(stepped) - (1 if trainer.training else 0)
