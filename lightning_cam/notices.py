"""What a look has to say: once a cause, and never at the price of the run."""

import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import rank_zero_info


class Notices:
    """Warnings and messages already given, and the rule for what a tracker's failure does."""

    def __init__(self, on_error: str) -> None:
        self.on_error = on_error
        self._given: set[str] = set()

    def warn(self, text: str) -> None:
        """Warn, once a text."""
        if text not in self._given:
            self._given.add(text)
            warnings.warn(f"CAMCallback: {text}", stacklevel=3)

    def say(self, text: str) -> None:
        """Tell on the first process, once a text."""
        if text not in self._given:
            self._given.add(text)
            rank_zero_info(f"CAMCallback: {text}")

    def guarded(self, write: Callable[..., Any], *args: Any) -> None:
        """Call a tracker or the disk; its failure is a warning, or raised if so wished."""
        try:
            write(*args)
        except Exception as error:
            if self.on_error == "raise":
                raise
            owner = type(args[0]).__name__ if args else ""
            name = getattr(write, "__name__", owner)
            self.warn(f"writing to {owner} failed ({name}), training goes on: {type(error).__name__}: {error}")
