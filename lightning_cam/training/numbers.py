"""Numbers: what is told of the maps beside the mean of each metric."""

from dataclasses import dataclass

from lightning_cam.change.groups import Parts


@dataclass(frozen=True)
class Numbers:
    """What is told of the maps beside the mean of each metric.

    Args:
        per_class: log each metric's mean for each class too, as ``<metric>/<class>``; of the class of the label, where there
            is one, else of the class explained.
        table: write every sample's numbers at every look into ``samples.csv``, and what moved more than noise into
            ``events.csv``, in the run's log directory.
        parts: named groups of parameters among which the drift since the baseline is split, logged as ``drift_of_<part>`` and
            drawn as stacked bars.
        batches_before: take the maps so many training batches before each look too, and count how far they move until then
            as noise, in ``drift_floor``; 0 for not. It costs a look without numbers and pictures.

    Raises:
        ValueError: for parts that are none, and a number of batches below 0.

    Example:
        >>> Numbers(parts=Parts({"adapters": "*lora_*", "head": "head"})).parts.every
        5
    """

    per_class: bool = False
    table: bool = True
    parts: Parts | None = None
    batches_before: int = 0

    def __post_init__(self) -> None:
        if self.parts is not None and not isinstance(self.parts, Parts):
            raise ValueError(
                f"Numbers(parts={self.parts!r}): expected Parts, such as "
                "Numbers(parts=Parts(groups={'head': 'fc', 'stem': ['conv1', 'bn1']}))."
            )
        if self.batches_before < 0:
            raise ValueError(
                f"Numbers(batches_before={self.batches_before}): expected at least 0, as Numbers(batches_before=5)."
            )
