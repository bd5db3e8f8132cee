"""CAMCallback: a Watcher in a Trainer. Options, Lightning's hooks, and what a checkpoint keeps."""

from collections.abc import Callable as Function
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

from lightning_cam.data.batch import Batch, FixedBatch
from lightning_cam.model.call import find_model
from lightning_cam.model.layout import image_form
from lightning_cam.record import Moment
from lightning_cam.render.style import Style
from lightning_cam.training.history import History
from lightning_cam.training.look import glance
from lightning_cam.training.numbers import Numbers
from lightning_cam.training.trainer.compat import Callback, is_in_batch, lent, state_key
from lightning_cam.training.trainer.distributed import refuse_sharded
from lightning_cam.training.trainer.samples import RunSamples
from lightning_cam.training.trainer.schedule import Schedule, baseline_moment, present_moment
from lightning_cam.watcher import Watcher

Spec = str | dict[str, Any] | Function[..., Any]


class CAMCallback(Callback):
    """Log where the model looks on the same samples, before training and at every validation epoch end.

    Training with and without it is bit-identical. A mistake in these options raises at the first look, before the first step;
    what fails later is one warning a cause. ``lightning_cam.records.read(log_dir)`` gives every look back.

    Args:
        layer: dotted name of the layer, or several; by default the last module that returns a map.
        method: a name of ``lightning_cam.methods.names()``, or several; options as ``{name: {option: value}}``.
        target: which number is explained: a name of ``lightning_cam.targets.names()``, with options; a class id; a
            callable ``(logits, label) -> class ids or scores``; or a list of these.
        batch: which samples: a count, dataset indices, a ``Batch``, or a batch handed in.
        metrics: names of ``lightning_cam.metrics.names()``. The mean over the samples for which one is defined is logged as
            ``<tag>/<metric>``, NaN if it is for none; their share, where it is below 1, as ``<metric>_defined``. By default
            the first eight of ``lightning_cam.metrics.defaults(regions=...)``.
        model: which network is watched, if not the whole module: its dotted name, as ``"student"``, or a callable
            ``(module) -> network``, which may be another callback's. Layers are named within it.
        forward: how it is run: by default on the images, with what else its ``forward`` asks for taken out of the batch by
            name, or on the whole batch; a method's name; or a callable ``(model, images, batch) -> output``.
        style: how maps are shown.
        numbers: what is told beside the metrics' means: a table, values by class, what moved by parts of the net.
        schedule: when to look.
        output: where the logits are in the model's output: key, position, attribute or callable; by default found by itself.
        fuse: with several layers, one map of them all: a name of ``lightning_cam.fuse.names()``, with options, or a callable.
        concepts: how many concepts of the layer's activations are drawn too (deep feature factorization).
        tag: first part of every tag.
        on_error: ``warn`` or ``raise``, for what fails after the first look.

    Attributes:
        watcher: the Watcher that looks; its ``observers`` are handed what every look computed.

    Example:
        >>> trainer = L.Trainer(callbacks=[CAMCallback(layer="backbone.layer4")])
    """

    def __init__(
        self,
        layer: str | list[str] | None = None,
        method: str | dict[str, Any] | list[Spec] | Spec = "grad_cam",
        *,
        target: int | str | dict[str, Any] | list[int | str | dict[str, Any]] | Any = "label",
        batch: int | list[int] | Batch | Any = 16,
        model: str | Function[..., Any] | Any | None = None,
        forward: str | Function[..., Any] | Any | None = None,
        metrics: Sequence[str | dict[str, Any] | Any] | None = None,
        style: Style = Style(),  # noqa: B008 - frozen
        numbers: Numbers = Numbers(),  # noqa: B008 - frozen
        schedule: Schedule = Schedule(),  # noqa: B008 - frozen
        output: int | str | Any | None = None,
        fuse: str | dict[str, Any] | Any | None = None,
        concepts: int = 0,
        tag: str = "cam",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        self.watcher = Watcher(
            None,
            None,
            layer,
            method,
            target=target,
            batch=batch,
            metrics=metrics,
            style=style,
            numbers=numbers,
            forward=forward,
            output=output,
            fuse=fuse,
            concepts=concepts,
            tag=tag,
            on_error=on_error,
        )
        self.watcher.notices.owner = "CAMCallback"
        self.model, self.batch, self.schedule = model, self.watcher.batch_options, schedule
        self.samples, self.steps = RunSamples(self.batch, self.watcher.notices), 0

    @property
    def history(self) -> Mapping[str, History]:
        """The maps of the run so far, by ``<layer>/<method>``."""
        return self.watcher.history

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin anew with a new run; a resumed one gets its maps back afterwards."""
        # the state of a resumed run is loaded behind this hook; a second fit of the same module is a new run
        if trainer.global_step == 0:
            self.watcher.restart()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the baseline, unless the run resumes one that has it."""
        self.steps = trainer.global_step
        # not in on_fit_start: some strategies restore the weights only after it
        if not trainer.enable_validation:
            self._expect(trainer, pl_module)
        self._look_before_training(trainer, pl_module)
        if trainer.enable_validation:  # what passes by next is the training's
            self.samples.close()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look, unless this is the sanity check or another epoch's turn."""
        if not trainer.sanity_checking and self.schedule.due(trainer):
            self._look(trainer, pl_module, present_moment(trainer, self.schedule, self.history))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look here if there is no validation at all."""
        if not trainer.enable_validation and self.schedule.due(trainer):
            self._look(trainer, pl_module, present_moment(trainer, self.schedule, self.history))

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at the test set."""
        self._look(trainer, pl_module, present_moment(trainer, self.schedule, self.history))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Be ready to take samples out of what passes by, if they have no index; the sanity check's are for the baseline."""
        if trainer.sanity_checking or self.schedule.due(trainer):
            self._expect(trainer, pl_module)

    on_test_start = on_validation_start

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take samples out of what passes by."""
        if self.samples.passing is not None:
            self.samples.take(trainer, batch, dataloader_idx)

    on_test_batch_start = on_validation_batch_start

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Take samples out of what passes by, the baseline's before the first step; some batches before a look, maps."""
        if self.samples.passing is not None:
            self.samples.take(trainer, batch)
            self._look_before_training(trainer, pl_module)
        before = self.watcher.numbers.batches_before
        if before and self.watcher.batch is not None and self.schedule.batches_left(trainer, batch_idx) == before:
            self.watcher.attempt("how maps move between batches", self._glance, trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look, if it is time by optimizer steps."""
        before, self.steps = self.steps, trainer.global_step
        if self.schedule.due_by_steps(before, self.steps):
            self._look(trainer, pl_module, present_moment(trainer, self.schedule, self.history))

    def _expect(self, trainer: Any, module: Any) -> None:
        # once there was a look, a mistake is the next look's to tell, which ends no run
        with suppress(ValueError) if self.watcher.looked else nullcontext():
            self._prepare(trainer, module)

    def _prepare(self, trainer: Any, module: Any) -> None:
        """Find out where the samples come from, unless they are pinned."""
        if self.watcher.batch is None:
            most = len(self.watcher.memory.fingerprints)
            self.samples.prepare(trainer, module, lambda: image_form(find_model(module, self.model)), most)

    # one look

    def _look_before_training(self, trainer: Any, module: Any) -> None:
        if self.schedule.baseline and not self.history and not self.watcher.looked:
            self._look(trainer, module, baseline_moment(trainer, self.schedule))

    def _look(self, trainer: Any, module: Any, moment: Moment) -> None:
        """Look, on every process, and let an error out only at the first look."""
        if trainer.fast_dev_run and self.watcher.looked:
            return
        refuse_sharded(trainer)
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # on every process: it is a collective
        try:
            numbers = self._numbers(trainer, module, moment, folder)
        except Exception as error:
            self.watcher.notices.caught(not self.watcher.looked, "a look", error)
            self.samples.release()
            return
        if numbers is not None:  # as long as samples are still to pass by
            self.samples.release()
            self.watcher.memory.looked = True
            self._log(trainer, numbers, moment)

    def _numbers(self, trainer: Any, module: Any, moment: Moment, folder: Path) -> dict[str, float] | None:
        """A look, in which the Trainer lends model, samples, precision and loggers; None where no samples passed by yet."""
        watcher = self.watcher
        tag = f"{watcher.tag}_test" if trainer.testing else watcher.tag
        with lent(watcher, trainer, module, find_model(module, self.model)):
            watcher.load = lambda: self._load(trainer, module, moment)
            if not trainer.fast_dev_run:
                watcher.publisher.open(trainer.loggers, folder)
            look = watcher.look_at(moment, tag)
            return look and look[1]

    def _load(self, trainer: Any, module: Any, moment: Moment) -> FixedBatch | None:
        self._prepare(trainer, module)
        return self.samples.load(trainer, moment) if self.samples.are_ready(trainer, moment) else None

    def _glance(self, trainer: Any, module: Any) -> None:
        with lent(self.watcher, trainer, module, find_model(module, self.model)):
            glance(self.watcher)

    def _log(self, trainer: Any, numbers: dict[str, float], moment: Moment) -> None:
        # self.log would mix the baseline into the first epoch's mean, and write few of the batches
        direct = moment.baseline or is_in_batch(trainer)
        if direct and not trainer.fast_dev_run:
            self.watcher.publisher.log_numbers(trainer.loggers, numbers, moment.step)
        if not moment.baseline:
            several = trainer.world_size > 1
            self.log_dict(numbers, sync_dist=several, logger=False if direct else None)  # type: ignore[attr-defined] # lent by Lightning

    @property
    def state_key(self) -> str:
        """One state a layer, method and tag."""
        return state_key(self, self.watcher)

    def state_dict(self) -> dict[str, Any]:
        """The maps of the run so far, so that a resumed run keeps its baseline and filmstrip."""
        return self.watcher.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the maps of the run that is resumed."""
        self.watcher.load_state_dict(state_dict)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Draw what is still to be drawn, and let go of everything on the device."""
        self.samples.release()
        self.watcher.close(trainer.loggers)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same; its own failure must not stand in front of the exception."""
        with suppress(Exception):
            self.teardown(trainer, pl_module, "")
