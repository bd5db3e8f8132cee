"""What a look has to say: once a cause, and never at the price of the run."""

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from lightning.fabric.utilities import rank_zero_info, rank_zero_only

from lightning_cam.data.batch import FixedBatch
from lightning_cam.render.overlay import display_advice, looks_normalized
from lightning_cam.render.style import Style

T = TypeVar("T")
Held = tuple[str, str | None]  # a warning and its cause


class Notices:
    """Warnings and messages already given, and the rule for what a failure does.

    Args:
        on_error: ``warn`` or ``raise``, for what fails after the first look.
        owner: who speaks.
    """

    def __init__(self, on_error: str, owner: str = "CAMCallback") -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r}: expected 'warn' or 'raise'.")
        self.on_error = on_error
        self.owner = owner
        self._causes: set[str] = set()
        self._held: list[Held] | None = None  # where warnings wait, instead of being given

    def warn(self, text: str, cause: str | None = None) -> None:
        """Warn on the first process, once a cause; without one, once a text."""
        if not self._is_new(cause or text):
            return
        if self._held is not None:
            self._held.append((text, cause))
        # what another one has to say the first one is told, and says
        elif not getattr(rank_zero_only, "rank", 0):
            warnings.warn(f"{self.owner}: {text}", stacklevel=3)

    @contextmanager
    def held(self, wanted: bool) -> Iterator[list[Held]]:
        """Keep the warnings of this block, if wanted, for a process that gives those of all."""
        kept: list[Held] = []
        before = self._held
        self._held = kept if wanted else before
        try:
            yield kept
        finally:
            self._held = before

    def pass_on(self, held: Iterable[Held]) -> None:
        """Give what another process had to warn of, if nobody did yet."""
        for text, cause in held:
            self.warn(text, cause)

    def say(self, *texts: str) -> None:
        """Tell on the first process, once a text; nothing where there is none."""
        for text in texts:
            if text and self._is_new(text):
                rank_zero_info(f"{self.owner}: {text}")

    def failed(self, what: str, error: Exception) -> None:
        """Warn of what failed; errors of one kind from one place are one cause, whatever number or path they name."""
        # where it was raised, not where it was caught
        place = traceback.extract_tb(error.__traceback__)[-1]
        cause = f"{what} {type(error).__name__} {place.filename} {place.lineno}"
        # a disk that takes nothing is one cause, whatever is written to it
        if isinstance(error, OSError) and error.errno is not None:
            cause = f"{what} OSError"
        self.warn(f"{what}, training goes on: {type(error).__name__}: {error}", cause)

    def attempt(self, first: bool, what: str, function: Callable[..., T], *args: Any) -> T | None:
        """What the function gives, or None and a warning where it failed; at the first look an error is let out."""
        try:
            return function(*args)
        except Exception as error:
            self.caught(first, what, error)
            return None

    def caught(self, first: bool, what: str, error: Exception) -> None:
        """Warn of an error; at the first look it is let out."""
        if first or self.on_error == "raise":
            raise error
        self.failed(f"{what} failed and is left out", error)

    def guarded(self, owner: str, write: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Call a tracker or the disk; its failure is a warning, or raised if so wished."""
        try:
            write(*args, **options)
        except Exception as error:
            if self.on_error == "raise":
                raise
            self.failed(f"writing to {owner} failed", error)

    # remembered here: Python's own filter goes by the text and the line, not by the cause
    def _is_new(self, cause: str) -> bool:
        if cause in self._causes:
            return False
        self._causes.add(cause)
        return True


def warn_of_clipping(batch: FixedBatch, style: Style, notices: Notices) -> None:
    """Warn where pictures lie outside 0 to 1 and nobody knows by which normalisation."""
    normalization = style.normalization or batch.normalization
    if normalization is None and style.bands is None and looks_normalized(batch.pictures):
        notices.warn(
            "the images lie outside 0 to 1 and no Normalize was found in the dataset's transform, so they are shown "
            f"clipped; give {display_advice(batch.pictures)}."
        )
