"""PatchMap: patches of large pictures at their places, true and predicted, at every validation epoch end."""

from collections.abc import Callable as Function
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_cam.callbacks.patch_collector import PatchCollector, PatchPart, gather, make_table
from lightning_cam.callbacks.patch_keys import PatchKeys
from lightning_cam.callbacks.patch_reading import ProbabilityReading
from lightning_cam.figures.patch_map import PatchPage, patch_map
from lightning_cam.metrics.measure import summarize
from lightning_cam.no_trace import isolated_rng
from lightning_cam.patches.scores import PatchScores, score_patches
from lightning_cam.patches.table import PatchTable
from lightning_cam.record import Moment
from lightning_cam.render.picture import Picture, to_host
from lightning_cam.render.style import Style
from lightning_cam.training.notices import Notices
from lightning_cam.training.publisher import Publisher
from lightning_cam.training.trainer.compat import Callback, is_fitting
from lightning_cam.training.trainer.schedule import Schedule, present_moment

Place = int | str | Function[..., Any] | Any

_ABOUT = """|  |  |
| --- | --- |
| left | the true label of each patch, at its place |
| right | the predicted probability of {positive} |
| white | no patch |
| AUC, Dice | of the patches of a patient; Dice from probability .5 on |"""


class PatchMap(Callback):
    """Log each validation's patches at their places in the large pictures they were cut from: true labels, predictions.

    A panel a patient, so that one watches the predicted map of the tissue converge to the true one. Nothing is run for it: the
    numbers are taken from the validation as it goes, on all processes, and training with and without it is bit-identical.
    AUC and Dice of a patient (exact, and from probability .5 on), their means over the patients for which they are defined,
    are logged as ``<tag>/auc`` and ``<tag>/dice``, the share of these as ``<tag>/auc_defined``; checkpoints and early stopping
    can monitor them. The picture is ``<tag>/map``.

    A mistake in these options raises in the sanity check, before the first optimizer step; what fails later is one warning a
    cause.

    Args:
        patient: where a batch holds whose patch it is, words or numbers [b]: a name in the batch or in a part of it, a
            position, or a callable ``batch -> values``.
        x: where it holds the place from left to right, in pixels of the large picture, [b]; best as whole numbers.
        y: the same from top to bottom.
        target: the labels [b], 0 or 1, negative or NaN for none; by default under their usual names, or second in a tuple.
        output: where the probabilities or logits are in what ``validation_step`` returns: key, position, attribute or callable.
            By default its ``probabilities`` or ``logits``, else what the module gave in its step, else the last of its parts
            to give [b], [b 1] or [b k].
        positive: the class that counts as 1, where there are more than two.
        probabilities: whether the model's numbers are probabilities. By default they are if all of a validation's lie in
            [0, 1] and, of several classes, sum to 1; else logits.
        loader: which of several validation loaders, by position.
        rows: of patients in the picture; by default as many as there are patients, 24 at most.
        columns: of patients; by default as many as make it laptop-shaped.
        patch_size: the side of a patch in pixels of the large picture; by default found by the distances.
        classes: names of label 0 and of label 1.
        style: size, font, and colours of the probabilities.
        schedule: which validations, and the step; there is no baseline.
        per_patient: log ``<tag>/auc/<patient>`` and ``<tag>/dice/<patient>`` too.
        tag: first part of every tag.
        on_error: ``warn`` or ``raise``, for what fails after the first look.

    Attributes:
        table: the patches of the last validation, on the first process.

    Example:
        >>> trainer = L.Trainer(callbacks=[PatchMap(patient="slide", x="x", y="y")], logger=False)
    """

    def __init__(
        self,
        patient: Place = "patient_id",
        x: Place = "x",
        y: Place = "y",
        target: Place | None = None,
        output: Place | None = None,
        *,
        positive: int | None = None,
        probabilities: bool | None = None,
        loader: int = 0,
        rows: int | None = None,
        columns: int | None = None,
        patch_size: int | float | None = None,
        classes: Sequence[str] = ("negative", "positive"),
        style: Style = Style(tile=240),  # noqa: B008 - frozen
        schedule: Schedule = Schedule(),  # noqa: B008 - frozen
        per_patient: bool = False,
        tag: str = "patches",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if not tag or tag != tag.strip("/"):
            raise ValueError(f"tag={tag!r}: expected a name such as 'patches', without a slash at its ends.")
        self.keys = PatchKeys(patient, x, y, target)
        self.output, self.positive, self.probabilities, self.loader = output, positive, probabilities, loader
        self.page = PatchPage(rows, columns, patch_size, classes)
        self.style, self.schedule, self.per_patient, self.tag = style, schedule, per_patient, tag
        self.notices = Notices(on_error, "PatchMap")
        self.publisher = Publisher(self.notices)
        self.reading = ProbabilityReading(probabilities, self.notices)
        self.table: PatchTable | None = None
        self.collector: PatchCollector | None = None
        self._restart()

    # what passes by

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin anew with a new run."""
        if trainer.global_step == 0:
            self._restart()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Be ready to collect; in the sanity check only to see whether it can be done."""
        self.collector = None
        if trainer.sanity_checking or self.schedule.due(trainer):
            self.collector = PatchCollector(self.keys, self.output, self.positive)

    on_test_start = on_validation_start

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Be ready for what the step makes of a batch."""
        if self.collector is not None and dataloader_idx == self.loader:
            self.collector.begin(pl_module)

    on_test_batch_start = on_validation_batch_start

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the patches of a batch."""
        if self.collector is not None and dataloader_idx == self.loader:
            self.collector.add(outputs, batch)

    on_test_batch_end = on_validation_batch_end

    # when it has passed by

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Gather, draw and log."""
        if self.collector is None:
            return
        collector, self.collector = self.collector, None
        parts = gather(trainer, collector.end())
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # on every process: it is a collective
        numbers: dict[str, float] | None = None
        error: Exception | None = None
        if trainer.is_global_zero:
            try:
                with isolated_rng():  # a tracker may draw numbers, and the training goes on with those it would have had
                    numbers = self._numbers(trainer, parts, collector.error, folder)
            except Exception as raised:
                error = raised
        # every process comes to this broadcast, also where the first one failed, or the others would wait for ever
        numbers, failure = trainer.strategy.broadcast((numbers, None if error is None else f"{error}"))
        if numbers is not None:
            self._looked = True
            if not trainer.sanity_checking:
                self.log_dict(numbers, sync_dist=trainer.world_size > 1)  # type: ignore[attr-defined] # lent by Lightning in fit
        elif self.notices.on_error == "raise" or self._may_end(trainer):
            raise error or RuntimeError(f"PatchMap failed on the first process: {failure}")
        elif error is not None:
            self.notices.failed("the map of patches failed and is left out", error)

    on_test_epoch_end = on_validation_epoch_end

    def _may_end(self, trainer: Any) -> bool:
        """Whether a mistake may end the run: while nothing was trained that could be lost."""
        return not self._looked and (not is_fitting(trainer) or trainer.global_step == 0)

    def _numbers(self, trainer: Any, parts: Sequence[PatchPart], error: Exception | None, folder: Path) -> dict[str, float]:
        """Draw the patches of all processes, and give their numbers under their tags."""
        if error is not None:
            raise error
        for part in parts:
            if part.error:
                raise RuntimeError(part.error)
        if not any(part.patients for part in parts):
            raise ValueError(f"no batch of validation loader {self.loader} passed by; name another: PatchMap(loader=0).")
        # two batches of a sanity check are too few to tell
        are_probabilities = self.reading.decide(parts, remember=not trainer.sanity_checking)
        table = make_table(parts, self.positive, are_probabilities).to(trainer.strategy.root_device)
        scores = score_patches(table)
        tag = f"{self.tag}_test" if trainer.testing else self.tag
        if trainer.sanity_checking:
            return {}
        self.table = table.to(torch.device("cpu"))
        if not trainer.fast_dev_run:
            self.publisher.open(trainer.loggers, folder)
            self.notices.attempt(False, "the picture", self._publish, table, tag, present_moment(trainer, self.schedule, {}))
            self.publisher.close()
        return self._means(table.patients, scores, tag)

    def _publish(self, table: PatchTable, tag: str, moment: Moment) -> None:
        page = replace(self.page, moment=f"{moment.title} · step {moment.step}")
        about = _ABOUT.format(positive=self.page.classes[1])
        picture = Picture(to_host(patch_map(table, page, self.style)), about, self.style.encoding)
        self.publisher.publish(f"{tag}/map", picture, moment.step)

    def _means(self, patients: Sequence[str], scores: PatchScores, tag: str) -> dict[str, float]:
        numbers = summarize({f"{tag}/{name}": value[:, None] for name, value in vars(scores).items()})
        if self.per_patient:
            for name, values in vars(scores).items():
                tags = [f"{tag}/{name}/{patient}" for patient in patients]
                numbers |= dict(zip(tags, values.tolist(), strict=True))
        return numbers

    def _restart(self) -> None:
        self.table = None
        self._looked = False
        self.reading = ProbabilityReading(self.probabilities, self.notices)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of everything on the device."""
        if self.collector is not None:
            self.collector.release()
        self.collector = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of everything on the device."""
        self.teardown(trainer, pl_module, "")
