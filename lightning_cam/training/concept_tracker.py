"""The concepts of the fixed batch from look to look. k concepts, c channels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.concepts import Concepts, concepts_of
from lightning_cam.record import Moment

_KEY = "concepts"


@dataclass
class ConceptTracker:
    """Concepts that each begin where they were at the look before, so that a concept keeps its colour over a run.

    Attributes:
        count: how many; 0 for none.
        vectors: each layer's concepts at its last look of the fit, on the CPU.
    """

    count: int
    vectors: dict[str, Float[Tensor, "k c"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or self.count < 0:
            raise ValueError(f"concepts={self.count!r}: expected how many are drawn, 0 for none.")

    def follow(self, seen: Seen, fitting: bool) -> Concepts:
        """The concepts of a layer now; in a fit the next look begins with them."""
        concepts = concepts_of(seen, self.count, start=self.vectors.get(seen.layer))
        # a test of other weights between two fits must not move where the run's concepts begin
        if fitting:
            self.vectors[seen.layer] = concepts.vectors.cpu()
        return concepts

    def follow_all(
        self,
        forward: Forward,
        layers: Sequence[str],
        moment: Moment,
        attempt: Callable[..., Any],
    ) -> list[Concepts]:
        """The concepts of every layer, where any are wanted; one that fails costs only itself."""
        if not self.count:
            return []
        followed = []
        for layer in layers:
            seen = Seen(forward, layer)
            concepts = attempt(f"concepts at {layer}", self.follow, seen, moment.fitting)
            # None where it failed, and the failure is reported already
            if concepts is not None:
                followed.append(concepts)
        return followed

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold so that concepts keep their colours in a resumed run, under one key; if there are any."""
        if not self.count:
            return {}
        return {_KEY: dict(self.vectors)}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take up the concepts of the run that is resumed."""
        self.vectors = dict(states.get(_KEY, {}))
