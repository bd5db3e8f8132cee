"""Watcher: one look, from the pinned batch to the loggers, on one page. b batch, t targets, n maps."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

from lightning_cam.capture.session import Context
from lightning_cam.data.batch import Batch, FixedBatch
from lightning_cam.data.loader import load_plain_batch
from lightning_cam.figures.captions import name_target
from lightning_cam.methods.fusion import find_fusion
from lightning_cam.metrics.measure import or_defaults
from lightning_cam.model.call import ForwardOption, check_forward
from lightning_cam.model.output import Output
from lightning_cam.no_trace import isolated_rng, no_trace
from lightning_cam.record import Moment, Record
from lightning_cam.registry import METHODS, METRICS, Entry
from lightning_cam.render.style import Style
from lightning_cam.training.history import History
from lightning_cam.training.look import Computed, Look, LookResult, Tags, View, descriptions, logged_numbers
from lightning_cam.training.memory import Memory
from lightning_cam.training.notices import Notices, warn_of_clipping
from lightning_cam.training.numbers import Numbers
from lightning_cam.training.pinned import PinnedBatch
from lightning_cam.training.processes import Alone, Processes, everywhere, gather, put_buffers
from lightning_cam.training.publisher import Publisher
from lightning_cam.training.reporter import Album, report_look

T = TypeVar("T")


class Watcher:
    """Look at a model again and again, at the same samples, with any training loop.

    It leaves no trace in the model. A mistake in these options raises at the first look; what fails later warns once a cause.

    Args:
        model: any module, on the device where it is trained.
        data: a dataset or its loader, of which ``batch`` says what is watched; or, as for loaders without index, a batch.
        layer: dotted name of the layer, or several; by default the last module that returns a map.
        method: a name of ``lightning_cam.methods.names()``, or several; options as ``{name: {option: value}}``.
        target: which number is explained, as for ``CAMCallback``.
        batch: which samples, as for ``CAMCallback``.
        metrics: what is measured, as for ``CAMCallback``.
        style: how maps are shown.
        numbers: what is told beside the metrics' means.
        forward: how the model is run, as for ``CAMCallback``.
        output: where the logits are in the model's output: key, position, attribute or callable.
        fuse: with several layers, one map of them all.
        concepts: how many concepts of the layer's activations on the batch are drawn too.
        tag: first part of every tag.
        on_error: ``warn`` or ``raise``, for what fails after the first look.
        loggers: Fabric's, or a ``SummaryWriter``; without any that takes pictures these are files in ``folder``.
        folder: where files go.

    Its ``observers``, a list of callables, are handed every ``LookResult``.

    Example:
        >>> watcher = Watcher(resnet18(num_classes=5), torch.rand(2, 3, 64, 64), target="predicted", folder=folder)
        >>> watcher.look(step=0, title="before training")[0].heat.shape
        torch.Size([2, 1, 2, 2])
    """

    def __init__(
        self,
        model: nn.Module | None,
        data: Any,
        layer: str | Sequence[str] | None = None,
        method: Any = "grad_cam",
        *,
        target: Any = "label",
        batch: int | Sequence[int] | Batch | Any = 16,
        metrics: Sequence[Any] | None = None,
        style: Style = Style(),  # noqa: B008 - frozen
        numbers: Numbers = Numbers(),  # noqa: B008 - frozen
        forward: ForwardOption = None,
        output: Output = None,
        fuse: Any = None,
        concepts: int = 0,
        tag: str = "cam",
        on_error: Literal["warn", "raise"] = "warn",
        loggers: Iterable[Any] = (),
        folder: str | Path = "cam_logs",
    ) -> None:
        if not tag or tag != tag.strip("/"):
            raise ValueError(f"tag={tag!r}: expected a name such as 'cam', without a slash at its ends.")
        self.notices = Notices(on_error, "Watcher")
        self.model, self.output, self.style, self.numbers, self.tag = model, output, style, numbers, tag
        self.forward = check_forward(forward)
        self.owner: nn.Module | None = None  # what the model is a part of, and must not be changed either
        self.layers = [] if layer is None else _listed(layer)
        self.fusion = find_fusion(fuse, self.layers)
        self.methods = [METHODS.find(spec) for spec in _listed(method)]
        self.target_spec = target
        self.memory = Memory(target, concepts, numbers.parts)
        self.metrics = None if metrics is None else [METRICS.find(spec) for spec in _listed(metrics)]
        self.loggers, self.folder = list(loggers), Path(folder)
        self.context: Context = nullcontext
        self.observers: list[Callable[[LookResult], Any]] = []
        self.data, self.batch_options = data, Batch.of(batch)
        self.load: Callable[[], FixedBatch | None] | None = None  # in place of data, by who has samples of another kind
        self.processes: Processes = Alone()
        self.pinned = PinnedBatch(self.batch_options, self.forward, concepts > 0)
        self.restart()

    # what is kept from look to look

    def restart(self) -> None:
        """Begin anew, as for a new run."""
        self.memory.restart()
        self.publisher = Publisher(self.notices, self.numbers.table)
        self.release()

    def close(self, loggers: Iterable[Any] | None = None) -> None:
        """End the run: draw the filmstrips that are still due, and let go of everything on the device."""
        try:
            self.publisher.finish(self.loggers if loggers is None else loggers)
        finally:
            self.release()

    def release(self) -> None:
        """Let go of everything on the device; the samples are loaded anew at the next look."""
        self.publisher.deferred.clear()
        self.pinned.release()
        self.layer_names: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """The maps of the run so far, and what targets and concepts keep: plain values and CPU tensors."""
        return self.memory.state_dict()

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take up the run that a checkpoint holds."""
        self.memory.load_state_dict(states)

    @property
    def batch(self) -> FixedBatch | None:
        """The samples; None before the first look, and after the run."""
        return self.pinned.batch

    @property
    def history(self) -> Mapping[str, History]:
        """The maps of the run so far, by ``<layer>/<method>``."""
        return self.memory.history

    @property
    def looked(self) -> bool:
        """Whether a look came off, so that what fails from here on ends no run."""
        return self.memory.looked

    # one look

    def look(self, step: int, title: str | None = None) -> Sequence[Record]:
        """Look now: maps and numbers of the fixed samples, written to the loggers.

        Args:
            step: its place on the loggers' axis.
            title: the moment in words, such as "epoch 3"; by default the step.

        Returns:
            a Record for each layer and method; none where the look failed.
        """
        moment = Moment(step, title or f"step {step}", title or str(step), not self.looked, epoch=float(step))
        self.publisher.open(self.loggers, self.folder)
        look = self.attempt("a look", self.look_at, moment, self.tag)
        if look is None:
            return []
        records, numbers = look
        self.publisher.log_numbers(self.loggers, numbers, step)
        self.memory.looked = True
        return records

    def look_at(self, moment: Moment, tag: str) -> tuple[Sequence[Record], dict[str, float]] | None:
        """Compute, then report: Records, and numbers under their tags; None without samples yet. Every process comes here."""
        with isolated_rng():  # a tracker may draw numbers, and the training goes on with those it would have had
            result = self.compute(moment)
            if result is None:
                return None
            return result.records, self.processes.together(lambda: self._tell(result, tag))[0]

    def compute(self, moment: Moment) -> LookResult | None:
        """The first half: when it returns, every hook is out and every state put back."""
        look = self.begin_look(moment)
        if look is None:
            return None
        parts = gather(self.processes, lambda: self.look_here(look), self.notices)
        return everywhere(self.processes, lambda: look.result(parts, self.attempt))

    def begin_look(self, moment: Moment, metrics: Sequence[Entry[Any]] | None = None) -> Look | None:
        """A look at the samples, which are those of the first process, with other metrics if asked."""
        new = self.pinned.settle(self._model, self._load, self.processes)
        if new is not None:
            warn_of_clipping(new, self.style, self.notices)
        if new is not None and moment.fitting:
            self.memory.follow_samples(new, self.notices)
        if self.batch is None:
            return None
        metrics = or_defaults(self.metrics if metrics is None else metrics, bool(self.batch.regions))
        return Look(moment, metrics, self.batch, self.memory.of(moment), self.batch_options.pictures)

    def look_here(self, look: Look) -> list[Computed]:
        """What this process computes of a look."""
        self.notices.say(self.attempt("what moved, by parts", look.begin_shares, self._model) or "")
        view = View(self._model, self.layers, self.layer_names, self.methods, self.fusion, self.output, self.context)
        with no_trace(self.owner or self._model):
            put_buffers(self._model, self.pinned.buffers)
            parts = self.pinned.compute(partial(view.compute, look, self.notices, self.attempt), self.notices.warn)
        self.layer_names = list(view.layers)
        return parts

    def _tell(self, result: LookResult, tag: str) -> dict[str, float]:
        alone = len(self.methods) == 1 and (len(self.layer_names) == 1 or self.fusion is not None)
        tags = Tags(tag, alone, self.metrics is not None, self.numbers.per_class)
        if not self.processes.rank:
            for observer in self.observers:
                observer(result)
            self.report(result, tag)
            self.publisher.descriptions = descriptions(result, tags)
        return logged_numbers(result, tags)

    def report(self, result: LookResult, tag: str) -> None:
        """The second half: pictures, from the Records alone; one that fails costs only itself."""
        histories = self.history if result.moment.fitting else {}
        album = Album(self.publisher, self.style, name_target(self.target_spec), histories, tag)
        report_look(result, album, self.attempt)

    def attempt(self, what: str, function: Callable[..., T], *args: Any) -> T | None:
        """What the function gives, or None and a warning where it failed; at the first look an error is let out."""
        return self.notices.attempt(not self.looked, what, function, *args)

    @property
    def _model(self) -> nn.Module:
        if self.model is None:
            raise ValueError("Watcher(model=None) has nothing to look at: give it the model.")
        return self.model

    def _load(self) -> FixedBatch | None:
        # hooks of a batch's way to the device may ask whether the model is training
        with no_trace(self.owner or self._model):
            return self.load() if self.load else load_plain_batch(self._model, self.data, self.batch_options)


def _listed(spec: Any) -> list[Any]:
    if isinstance(spec, list | tuple):
        return list(spec)
    return [spec]
