"""CAMCallback: when to look, and the whole flow of a look on one page. b batch, t targets, u v map."""

from collections.abc import Callable as Function
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_cam import render
from lightning_cam.capture.hooks import watch
from lightning_cam.capture.seen import Seen
from lightning_cam.data.batch import Batch, FixedBatch
from lightning_cam.data.loader import as_validation, load_fixed_batch
from lightning_cam.figures.captions import name_target
from lightning_cam.figures.explanation import Album, Subject, draw
from lightning_cam.methods.apply import heats
from lightning_cam.methods.fusion import find as find_fusion
from lightning_cam.metrics.measure import measure
from lightning_cam.model.default_layer import find_default_layer
from lightning_cam.model.names import find_layer
from lightning_cam.model.output import Output, find_logits
from lightning_cam.no_trace import no_trace
from lightning_cam.registry import METHODS, METRICS
from lightning_cam.render.style import Style
from lightning_cam.targets import state
from lightning_cam.targets.target import find as find_target
from lightning_cam.training.compat import Callback
from lightning_cam.training.concept_tracker import ConceptTracker
from lightning_cam.training.distributed import refuse_sharded
from lightning_cam.training.history import History
from lightning_cam.training.notices import Notices
from lightning_cam.training.publisher import publish
from lightning_cam.training.schedule import Moment, Schedule, baseline, now

Spec = str | dict[str, Any] | Function[..., Any]


class CAMCallback(Callback):
    """Log where the model looks on the same samples, before training and at every validation epoch end.

    Training with and without it is bit-identical. A mistake in these options raises at the first look, before the first
    optimizer step; what fails later is one warning a cause.

    Args:
        layer: dotted name of the layer, or several; by default the last module that returns a map.
        method: a name of ``lightning_cam.methods.names()``, or several; options as ``{name: {option: value}}``.
        target: which number is explained: a name of ``lightning_cam.targets.names()``, with options as for methods; a class id;
            a callable ``(logits, label) -> class ids or scores``; or a list of these.
        batch: which samples: a count, dataset indices, a ``Batch``, or a batch handed in.
        metrics: names of ``lightning_cam.metrics.names()``; by default ``energy_inside``, if the batch has regions. The mean
            over the samples for which one is defined is logged as ``<tag>/<metric>``, their share as ``<metric>_defined``,
            so that checkpoints and early stopping can monitor them; NaN if it is defined for none.
        style: how maps are shown.
        schedule: when to look.
        output: where the logits are in the model's output: key, position, attribute or callable; found by itself for a
            tensor, an object with ``logits``, and a detector.
        fuse: with several layers, one map of them all: a name of ``lightning_cam.fuse.names()``, with options, or a callable.
        concepts: how many concepts of the layer's activations on the batch are drawn too (deep feature factorization).
        tag: first part of every tag.
        on_error: ``warn`` or ``raise``, for what fails after the first look.

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
        metrics: Sequence[str | dict[str, Any] | Any] | None = None,
        style: Style = Style(),  # noqa: B008 - frozen
        schedule: Schedule = Schedule(),  # noqa: B008 - frozen
        output: int | str | Any | None = None,
        fuse: str | dict[str, Any] | Any | None = None,
        concepts: int = 0,
        tag: str = "cam",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r}: expected 'warn' or 'raise'.")
        if not tag or tag != tag.strip("/"):
            raise ValueError(f"tag={tag!r}: expected a name such as 'cam', without a slash at its ends.")
        self.layers = [] if layer is None else list(layer) if isinstance(layer, list | tuple) else [layer]
        self.fuse = find_fusion(fuse, self.layers)
        self.methods = [METHODS.find(one) for one in _listed(method)]
        self.target, self._target = target, find_target(target)
        self.metrics = None if metrics is None else [METRICS.find(one) for one in _listed(metrics)]
        self.batch, self.style, self.schedule = Batch.of(batch), style, schedule
        self.output: Output = output
        self.concepts = ConceptTracker(concepts)
        self.tag = tag
        self._histories: dict[str, History] = {}
        self._batch: FixedBatch | None = None
        self._names: list[str] = []
        self._notices = Notices(on_error)
        self._looked = False

    # when to look

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin anew with a new run; a resumed one gets its maps back afterwards."""
        if trainer.global_step == 0:
            self._histories, self._looked, self._target = {}, False, state.anew(self._target)
            self.concepts.load({})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the baseline, unless the run resumes one that has it."""
        if self.schedule.baseline and not self._histories:
            self._try(trainer, pl_module, baseline(trainer, self.schedule))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look, unless this is the sanity check or another epoch's turn."""
        fitting = trainer.state.fn.name == "FITTING"
        if not trainer.sanity_checking and (not fitting or self.schedule.due(trainer)):
            self._try(trainer, pl_module, now(trainer, self.schedule))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look here if there is no validation at all."""
        if not trainer.enable_validation and self.schedule.due(trainer):
            self._try(trainer, pl_module, now(trainer, self.schedule))

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at the test set."""
        self._try(trainer, pl_module, now(trainer, self.schedule))

    # one look

    def _look(self, trainer: Any, module: Any, moment: Moment, folder: Path) -> dict[str, float]:
        context = trainer.precision_plugin.val_step_context
        scores: dict[str, float] = {}
        with no_trace(module), as_validation(trainer):
            batch = self._fixed_batch(trainer, module)
            names = self._layer_names(module, batch, context)
            alone = len(self.methods) == 1 and (len(names) == 1 or self.fuse is not None)
            with watch(module, names) as look_at:
                target = self._target if moment.fitting else state.anew(self._target)
                look = look_at(batch.images, target, batch.labels, batch.regions, output=self.output, context=context)
                for one in heats(look, names, self.methods, self.fuse):
                    numbers = measure(one.heat, look, one.layer, self.metrics)
                    scores |= {name if alone else f"{one.tag}/{name}": value for name, value in numbers.items()}
                    history = self._histories.setdefault(one.tag, History()) if moment.fitting else History()
                    album = Album(self.style, history)
                    subject = Subject(one.title, one.method, name_target(self.target))
                    pictures = draw(batch, look, one.heat, subject, moment, album)
                    self._publish(trainer, folder, {f"{one.tag}{end}": picture for end, picture in pictures.items()}, moment)
                for name in names if self.concepts.count else ():
                    picture = self.concepts.picture(Seen(look, name), batch, self.style, moment)
                    self._publish(trainer, folder, {f"{name}/concepts": picture}, moment)
        return scores

    def _publish(self, trainer: Any, folder: Path, pictures: dict[str, render.Picture], moment: Moment) -> None:
        if not trainer.fast_dev_run:
            tagged = {f"{self._tag(trainer)}/{name}": picture for name, picture in pictures.items()}
            publish(trainer.loggers, folder, tagged, moment.step, self._notices)

    # what a look needs

    def _fixed_batch(self, trainer: Any, module: Any) -> FixedBatch:
        if self._batch is None:
            batch = load_fixed_batch(trainer, module, self.batch)
            self._batch = batch = batch.first(2) if trainer.fast_dev_run else batch
            known = self.style.normalization or batch.normalization
            if known is None and render.looks_normalized(batch.images):
                self._notices.warn(
                    "the images lie outside 0 to 1 and no Normalize was found in the dataset's transform, so they are shown "
                    "clipped; give Style(mean=..., std=...)."
                )
        return self._batch

    def _layer_names(self, module: Any, batch: FixedBatch, context: Function[[], Any]) -> list[str]:
        if not self._names:
            if self.layers:
                self._names = [find_layer(module, layer) for layer in self.layers]
            else:
                with context():
                    self._names = [find_default_layer(module, batch.images, lambda x: find_logits(module(x), self.output))]
                self._notices.say(f"watching the layer {self._names[0]!r}, found by itself")
        return self._names

    def _tag(self, trainer: Any) -> str:
        return f"{self.tag}_test" if trainer.testing else self.tag

    # what can go wrong

    def _try(self, trainer: Any, module: Any, moment: Moment) -> None:
        """Look on the first process, tell the others the numbers, and let an error out only at the first look."""
        if trainer.fast_dev_run and self._looked:
            return
        refuse_sharded(trainer)
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # on every process: it is a collective
        scores: dict[str, float] = {}
        error: Exception | None = None
        if trainer.is_global_zero:
            try:
                scores = self._look(trainer, module, moment, folder)
            except Exception as raised:
                error = raised
        scores, failed = trainer.strategy.broadcast((scores, None if error is None else f"{error}"))
        if failed is not None:
            if not self._looked or self._notices.on_error == "raise":
                raise error or RuntimeError(f"CAMCallback failed on the first process: {failed}")
            if error is not None:
                self._notices.failed("a look failed and is left out", error)
            return
        self._looked = True
        self._log(trainer, {f"{self._tag(trainer)}/{name}": value for name, value in scores.items()}, moment)

    def _log(self, trainer: Any, scores: dict[str, float], moment: Moment) -> None:
        if not moment.baseline:
            self.log_dict(scores, sync_dist=trainer.world_size > 1)  # type: ignore[attr-defined] # lent by Lightning in fit
        elif scores and not trainer.fast_dev_run:  # self.log would mix the baseline into the first epoch's mean
            for logger in trainer.loggers:
                self._notices.guarded(type(logger).__name__, logger.log_metrics, scores, moment.step)

    # what is kept

    @property
    def state_key(self) -> str:
        """One state a layer, method and tag."""
        fused, methods = [self.fuse.label] if self.fuse else [], [method.label for method in self.methods]
        return self._generate_state_key(layer=self.layers + fused, method=methods, tag=self.tag)

    def state_dict(self) -> dict[str, Any]:
        """The maps of the run so far, so that a resumed run keeps its baseline and filmstrip."""
        kept: dict[str, Any] = {where: history.state() for where, history in self._histories.items()}
        return kept | state.state(self._target) | ({"concepts": self.concepts.state()} if self.concepts.count else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the maps of the run that is resumed."""
        self._histories = {where: History.of(kept) for where, kept in state_dict.items() if "/" in where}
        state.load(self._target, state_dict)
        self.concepts.load(state_dict.get("concepts", {}))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_target": None}  # what a target's name stands for cannot always be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_target": find_target(state["target"])}

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of everything on the device."""
        self._forget()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of everything on the device."""
        self._forget()

    def _forget(self) -> None:
        self._batch, self._names = None, []


def _listed(specs: Any) -> list[Any]:
    return list(specs) if isinstance(specs, list | tuple) else [specs]
