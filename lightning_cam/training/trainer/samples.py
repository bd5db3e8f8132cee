"""The watched samples of a run: by index, handed in, or out of the batches that pass by."""

from collections.abc import Callable
from functools import cache
from typing import Any

from lightning_cam.data.batch import Batch, FixedBatch
from lightning_cam.data.loader import SampleSource, load_fixed_batch, load_passed
from lightning_cam.data.passing import PassingSamples, refuse_choice
from lightning_cam.record import Moment
from lightning_cam.training.notices import Notices
from lightning_cam.training.trainer.compat import is_fitting, own_part, stage_loaders, transferred


class RunSamples:
    """Where the samples of a Trainer's run come from, between the hook that finds out and the look that pins them.

    Args:
        options: which samples.
        notices: tell what is watched.

    Attributes:
        passing: takes samples out of what passes by; None where there is nothing to take.
        taken: the same, also when it has taken all that it will; None where samples have an index or were handed in.
    """

    def __init__(self, options: Batch, notices: Notices) -> None:
        self.options = options
        self.notices = notices
        self.release()

    def release(self) -> None:
        """Let go of everything of the run."""
        self.source: SampleSource | None = None
        self.passing: PassingSamples | None = None
        self.taken: PassingSamples | None = None

    def close(self) -> None:
        """Take nothing of what passes by from here on; what was taken stays."""
        self.passing = None
        if self.taken is not None and not self.taken.is_ready:
            self.release()

    def prepare(self, trainer: Any, module: Any, form: Callable[[], tuple[int, int | None]], most: int) -> None:
        """Find the loader, and be ready for batches that pass by if it has no samples by index.

        Args:
            trainer: whose loaders they are.
            module: whose hooks a batch goes through.
            form: gives how many sides and channels the model's images have.
            most: how many samples the run that is resumed has, if there is one.

        Raises:
            ValueError: for a loader that does not exist, or samples by index or class where there are none.
        """
        if self.taken is not None and self.taken.is_ready:
            return
        self.release()
        self.source = SampleSource(
            loaders=cache(lambda: stage_loaders(trainer)),
            transfer=lambda batch, position: transferred(trainer, module, batch, position),
            class_holders=(getattr(trainer, "datamodule", None), module),
            form=form,
        )
        if self.options.is_handed_in:
            return
        chosen = self.source.chosen(self.options)
        if chosen.has_indices:
            return
        refuse_choice(self.options, chosen.title)
        wanted = self.options.samples
        if most and is_fitting(trainer):
            wanted = min(wanted, most)
        # a look is the first process's: the others' samples would be for nobody
        if not trainer.is_global_zero:
            wanted = 0
        self.passing = self.taken = PassingSamples(chosen, self.options, form, wanted)

    def take(self, trainer: Any, batch: Any, position: int = 0) -> None:
        """Copy samples out of a batch that passes by, if it is of the loader that is watched."""
        if self.passing is not None:
            self.passing.take(own_part(trainer, batch, position, self.passing.chosen))
            if self.passing.is_complete:
                self.passing = None

    def are_ready(self, trainer: Any, moment: Moment) -> bool:
        """Whether there are samples to load; if none has passed by yet it is told, as a warning where no look follows."""
        if self.taken is None or self.taken.is_ready:
            return True
        title = self.taken.chosen.title
        if not moment.baseline:
            self.notices.warn(f"no batch of the {title} passed by, so there is nothing to look at.")
        elif trainer.enable_validation:
            self.notices.say(
                f"the {title} has no samples by index, and none has passed by yet, so the first look is at the end of the "
                "first validation. For one before the first step let the sanity check run, Trainer(num_sanity_val_steps=2), "
                "or hand a batch in, Batch(samples=batch)."
            )
        return False

    def load(self, trainer: Any, moment: Moment) -> FixedBatch:
        """The samples, on the device; two for a ``fast_dev_run``.

        Raises:
            ValueError: for an index out of range, or a batch that cannot be read.
        """
        assert self.source is not None
        if self.taken is None:
            batch = load_fixed_batch(self.source, self.options)
        else:
            batch = load_passed(self.taken, self.source)
            self._tell(self.taken, len(batch), moment)
        return batch.first(2) if trainer.fast_dev_run else batch

    def _tell(self, taken: PassingSamples, count: int, moment: Moment) -> None:
        asked = ""
        if count < self.options.samples:
            asked = f", of {self.options.samples} asked for"
        self.notices.say(
            f"the {taken.chosen.title} has no samples by index: watching the first {count} that passed by{asked}, "
            f"from {moment.title!r} on"
        )
