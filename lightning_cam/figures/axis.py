"""An upright axis with round numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TICKS = 5  # at most so many steps over the range
_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """Round numbers from the bottom to the top, zero among them.

    Attributes:
        ticks: the numbers.
        digits: behind their points.
        height: from the lowest to the highest, in pixels.
    """

    ticks: Sequence[float]
    digits: int
    height: int

    @classmethod
    def over(cls, low: float, high: float, height: int) -> "Axis":
        """An axis over a range in which zero lies; of no extent it is 0 to 1.

        Example:
            >>> Axis.over(-0.04, 0.31, 100).words
            ['-0.1', '0.0', '0.1', '0.2', '0.3', '0.4']
        """
        if not high > low:
            low, high = 0.0, 1.0
        least = (high - low) / _TICKS
        decade = 10.0 ** math.floor(math.log10(least))
        step = decade * next(step for step in _STEPS if step * decade >= least * (1 - 1e-9))
        first = math.floor(low / step + 1e-9)
        last = math.ceil(high / step - 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        ticks = [i * step for i in range(first, last + 1)]
        return cls(ticks, digits, height)

    @property
    def words(self) -> list[str]:
        """The numbers as they are written."""
        return [self.word(tick) for tick in self.ticks]

    def word(self, value: float, finer: int = 0) -> str:
        """A value with as many digits behind the point as the numbers have, or some more."""
        return f"{value:.{self.digits + finer}f}"

    def row(self, value: float) -> int:
        """The pixels of a value below the top.

        Example:
            >>> Axis.over(0.0, 0.4, 100).row(0.3)
            25
        """
        span = self.ticks[-1] - self.ticks[0]
        return round(self.height * (self.ticks[-1] - value) / span)
