"""What was computed of some of the samples, in whichever process; it refers to no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_cam.change.noise import Moved, Rows
from lightning_cam.concepts import Concepts
from lightning_cam.record import Record
from lightning_cam.training.look.part import Map


@dataclass(eq=False)
class Computed:
    """A part of a look.

    Attributes:
        samples: which.
        maps: what the run keeps of them, by tag.
        records: their Records by tag.
        rows: of which of them the floor of drift is measured.
        moved: how far their maps move by each disturbance.
        dropped: disturbances that the model cannot be run with.
        target: what the target took up of them.
        concepts: of each layer, where these are the samples that are shown.
    """

    samples: slice
    maps: Mapping[str, Map]
    records: Mapping[str, Record]
    rows: Rows
    moved: Moved = field(default_factory=dict)
    dropped: Sequence[str] = ()
    target: Mapping[str, Any] = field(default_factory=dict)
    concepts: Sequence[Concepts] = ()
