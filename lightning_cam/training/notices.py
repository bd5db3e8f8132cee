"""What a look has to say: once a cause, and never at the price of the run."""

import traceback
import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import rank_zero_info


class Notices:
    """Warnings and messages already given, and the rule for what a tracker's failure does."""

    def __init__(self, on_error: str) -> None:
        self.on_error = on_error
        self._given: set[str] = set()

    def warn(self, text: str, cause: str | None = None) -> None:
        """Warn, once a cause; without one, once a text."""
        if (cause or text) not in self._given:
            self._given.add(cause or text)
            warnings.warn(f"CAMCallback: {text}", stacklevel=3)

    def say(self, text: str) -> None:
        """Tell on the first process, once a text."""
        if text not in self._given:
            self._given.add(text)
            rank_zero_info(f"CAMCallback: {text}")

    def failed(self, what: str, error: Exception) -> None:
        """Warn of what failed; errors of one kind from one place are one cause, whatever number or path they name."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{what}, training goes on: {type(error).__name__}: {error}"
        self.warn(text, f"{what} {type(error).__name__} {place.filename} {place.lineno}")

    def guarded(self, owner: str, write: Callable[..., Any], *args: Any) -> None:
        """Call a tracker or the disk; its failure is a warning, or raised if so wished."""
        try:
            write(*args)
        except Exception as error:
            if self.on_error == "raise":
                raise
            self.failed(f"writing to {owner} failed", error)
