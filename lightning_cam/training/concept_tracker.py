"""The concepts of the fixed batch from look to look."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lightning_cam import concepts
from lightning_cam.capture.seen import Seen
from lightning_cam.data.batch import FixedBatch
from lightning_cam.render import Picture, to_host
from lightning_cam.render.style import Style
from lightning_cam.training.schedule import Moment


@dataclass
class ConceptTracker:
    """Concepts that each begin where they were at the look before, so that a concept keeps its colour over a run.

    Attributes:
        count: how many; 0 for none.
        vectors: each layer's concepts at its last look of the fit.
    """

    count: int
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or self.count < 0:
            raise ValueError(f"concepts={self.count!r}: expected how many are drawn, 0 for none.")

    def picture(self, seen: Seen, batch: FixedBatch, style: Style, moment: Moment) -> Picture:
        """Every sample beside its concepts, over a legend."""
        found = concepts.of(seen, self.count, start=self.vectors.get(seen.layer))
        if moment.fitting:
            self.vectors[seen.layer] = found.vectors.cpu()
        if style.normalization is None and batch.normalization is not None:
            style = replace(style, mean=batch.normalization[0], std=batch.normalization[1])
        when = f"{moment.title} · step {moment.step}"
        drawn = found.picture(style, batch.names, dict(enumerate(batch.classes)), when)
        about = f"Deep feature factorization of `{seen.layer}` on {len(batch)} samples, {batch.origin}."
        return Picture(to_host(drawn), about, style.encoding)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold so that concepts keep their colours in a resumed run."""
        return dict(self.vectors)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up the concepts of the run that is resumed."""
        self.vectors = dict(state)
