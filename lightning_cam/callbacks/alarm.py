"""ShortcutAlarm: a warning where the heat stays where it should not be. b batch."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_cam.callbacks.suspect import find_suspect
from lightning_cam.record import Record
from lightning_cam.registry import did_you_mean
from lightning_cam.training.look import LookResult
from lightning_cam.training.notices import Notices
from lightning_cam.training.trainer.compat import Callback

_MOST_NAMES = 5


class ShortcutAlarm(Callback):
    """Warn once where the share of positive heat in a suspect region, or outside the object, stays over a threshold.

    It watches every look of a ``CAMCallback`` in the same Trainer, wherever in the list either stands, each of its layers and
    methods by itself. The baseline does not count, since a fresh head looks anywhere, nor do validate and test on their own.
    The share is that of ``energy_inside``, its mean over the samples for which it is defined; a look without any changes
    nothing. The warning names the samples with the largest shares, five at most, and tells how much of the images the place
    covers, which is what a map without preference would score: a threshold below that says nothing of shortcuts.

    A region that the batch does not have raises at the baseline, before the first step; nothing ends a run later on. A resumed
    run goes on counting, and one that was warned stays so. Training with and without it is bit-identical, up to where it is
    asked to stop.

    Args:
        region: the name of a suspect region, such as a watermark; by default all outside the region named ``object``, and where
            there is none outside all regions.
        threshold: the share of positive heat above which a look is suspicious, from 0 up to 1.
        looks: at how many in a row.
        stop: stop training too (``trainer.should_stop``, on all processes).
        tag: whose looks, where the Trainer has several ``CAMCallback``.

    Attributes:
        fired: whether it has warned; on the first process, which is told of looks.

    Example:
        >>> from lightning_cam import Batch, CAMCallback
        >>> watched = CAMCallback(batch=Batch(regions={"object": "box", "tag": "tag_box"}))
        >>> trainer = L.Trainer(callbacks=[watched, ShortcutAlarm("tag", threshold=0.3)], logger=False)

    In a loop of your own ``alarm.attach(watcher)``, then read ``alarm.fired``.
    """

    def __init__(
        self,
        region: str | None = None,
        threshold: float = 0.5,
        looks: int = 3,
        stop: bool = False,
        *,
        tag: str | None = None,
    ) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(
                f"ShortcutAlarm(threshold={threshold!r}): expected a share of the heat, from 0 up to 1, such as threshold=0.5."
            )
        if looks < 1:
            raise ValueError(f"ShortcutAlarm(looks={looks!r}): expected how many looks in a row, 1 or more, such as looks=3.")
        self.region, self.threshold, self.looks, self.stop, self.tag = region, threshold, looks, stop, tag
        self.restart()

    def restart(self) -> None:
        """Begin anew, as for a new run."""
        self.notices = Notices("warn", "ShortcutAlarm")
        self.counts: dict[str, int] = {}  # by <layer>/<method>
        self.fired = False
        self._stops = False  # asked for, and not yet agreed on

    # in a Trainer

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find what is watched; begin anew with a new run."""
        if stage != "fit":
            return
        # the state of a resumed run is loaded behind this hook
        if trainer.global_step == 0:
            self.restart()
        watched = self._watched(trainer)
        for callback in watched:
            self.attach(callback.watcher)
        if self.stop:
            trainer.callbacks = self._behind(trainer.callbacks, watched)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop all processes, if asked to."""
        if not trainer.sanity_checking:
            self._agree(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop all processes, if asked to, where there is no validation."""
        self._agree(trainer)

    def _agree(self, trainer: Any) -> None:
        # the first process alone is told of looks, and one that stops alone leaves the others waiting for ever
        if self.stop and trainer.strategy.reduce_boolean_decision(self._stops, all=False):
            self._stops = False
            trainer.should_stop = True

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Watch no longer."""
        for callback in _cam_callbacks(trainer):
            self.detach(callback.watcher)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Watch no longer."""
        self.teardown(trainer, pl_module, "")

    def _watched(self, trainer: Any) -> list[Any]:
        """The callbacks whose looks are watched.

        Raises:
            ValueError: where there is none, or it is not said which.
        """
        known = _cam_callbacks(trainer)
        tags = [callback.watcher.tag for callback in known]
        if not known:
            raise ValueError(
                "ShortcutAlarm watches the maps of a CAMCallback, and this Trainer has none: "
                'callbacks=[CAMCallback(batch=Batch(regions="box")), ShortcutAlarm()].'
            )
        if self.tag is None and len(known) > 1:
            raise ValueError(
                f"ShortcutAlarm watches one CAMCallback, and this Trainer has {len(known)}, {', '.join(map(repr, tags))}. Say "
                f"which: ShortcutAlarm(tag={tags[0]!r})."
            )
        if self.tag is not None and self.tag not in tags:
            raise ValueError(
                f"No CAMCallback of this Trainer has the tag {self.tag!r}.{did_you_mean(self.tag, tags)} There is "
                f"{', '.join(map(repr, tags))}: ShortcutAlarm(tag={tags[0]!r})."
            )
        return [callback for callback in known if self.tag in (None, callback.watcher.tag)]

    def _behind(self, callbacks: list[Any], watched: list[Any]) -> list[Any]:
        """The Trainer's callbacks with this one behind those that it watches.

        Without a validation a look is in the last hook of an epoch, and who stands before it would know of it an epoch late.
        """
        others = [callback for callback in callbacks if callback is not self]
        place = 1 + max(i for i, callback in enumerate(others) if any(callback is each for each in watched))
        if callbacks.index(self) >= place:
            return callbacks
        # a new list: the Trainer is going through the old one
        return [*others[:place], self, *others[place:]]

    # a look

    def attach(self, watcher: Any) -> None:
        """Watch the looks of a ``Watcher``."""
        if self not in watcher.observers:
            watcher.observers.append(self)

    def detach(self, watcher: Any) -> None:
        """Watch the looks of a ``Watcher`` no longer."""
        if self in watcher.observers:
            watcher.observers.remove(self)

    def __call__(self, result: LookResult) -> None:
        """Take note of a look.

        Raises:
            ValueError: at the baseline, for a region that the batch does not have, or maps of fewer sides than the image.
        """
        if not result.moment.fitting or self.fired:
            return
        try:
            for record in result.records:
                self._note(record, result)
        except Exception as error:
            # before the first step a mistake in the options costs nothing yet
            if isinstance(error, ValueError) and result.moment.baseline:
                raise
            self.notices.failed("the alarm failed at a look", error)

    def _note(self, record: Record, result: LookResult) -> None:
        suspect = find_suspect(result.batch.regions, self.region)
        shares = suspect.shares(record.heat, record.layer).cpu()
        mean = float(shares.nanmean())
        if result.moment.baseline or mean != mean:
            return
        count = self.counts.get(record.tag, 0) + 1
        if mean <= self.threshold:
            count = 0
        self.counts[record.tag] = count
        if count >= self.looks and not self.fired:
            self.fired = self._stops = True
            heat = f"{mean:.0%} of the positive heat of {record.tag} is {suspect.words}, {suspect.area():.0%} of the image"
            self.notices.warn(f"{heat}: {self._story(shares, result)}")

    def _story(self, shares: Float[Tensor, "b"], result: LookResult) -> str:
        """For how long, and in which samples most."""
        order = shares.nan_to_num(-1).argsort(descending=True, stable=True).tolist()
        names = result.batch.names or [f"sample {i}" for i in range(len(shares))]
        largest = [f"{names[i]} {shares[i]:.0%}" for i in order[:_MOST_NAMES] if shares[i] == shares[i]]
        text = f"over {self.threshold:.0%} at {self.looks} looks in a row, up to {result.moment.title!r}."
        if self.looks == 1:
            text = f"over {self.threshold:.0%} at {result.moment.title!r}."
        text += f" Most of it in {', '.join(largest)}."
        if self.stop:
            text += " Training stops (stop=True)."
        return text

    # what is kept

    @property
    def state_key(self) -> str:
        """One state for what is watched."""
        return self._generate_state_key(region=self.region, threshold=self.threshold, looks=self.looks, tag=self.tag)

    def state_dict(self) -> dict[str, Any]:
        """How many looks in a row there were, and whether it has warned."""
        return {"counts": dict(self.counts), "fired": self.fired}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run that is resumed was."""
        self.counts, self.fired = dict(state_dict["counts"]), bool(state_dict["fired"])


def _cam_callbacks(trainer: Any) -> list[Any]:
    """The callbacks of a Trainer that look through a Watcher."""
    return [callback for callback in trainer.callbacks if hasattr(getattr(callback, "watcher", None), "observers")]
