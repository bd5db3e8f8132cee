"""View: how a model is looked at, for the time of one look."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.session import Context, Session, open_session
from lightning_cam.methods.apply import map_plans
from lightning_cam.model.output import Output
from lightning_cam.registry import Entry
from lightning_cam.targets.state import of_part, state
from lightning_cam.training.chunk import Attempt, Chunk, sparing_shortage
from lightning_cam.training.look.computed import Computed
from lightning_cam.training.look.look import Look
from lightning_cam.training.look.part import Part
from lightning_cam.training.notices import Notices


@dataclass(eq=False)
class View:
    """A model, and what of it is watched how.

    Attributes:
        model: the network.
        named: the layers, as the user names them; none for the one found by itself.
        layers: their names in full; none until the first forward.
        methods: what is computed there.
        fusion: what makes one map of all layers' maps, if that is wanted.
        output: where the logits are in the model's output.
        context: under which the model is run.
    """

    model: nn.Module
    named: Sequence[str]
    layers: Sequence[str]
    methods: Sequence[Entry[Any]]
    fusion: Entry[Any] | None
    output: Output
    context: Context

    def compute(self, look: Look, notices: Notices, attempt: Attempt, chunk: Chunk) -> Computed:
        """What a look finds of some of the samples.

        Args:
            look: the look.
            notices: tell what was found.
            attempt: runs what may fail.
            chunk: which samples.
        """
        target = look.run.target
        if len(chunk) > 1:
            attempt = sparing_shortage(attempt)
        if len(chunk) < look.count:
            target = of_part(target, chunk.samples, look.count, chunk.labels)
        with self._open(chunk) as session:
            forward = session.forward(chunk.batch.images, target, chunk.batch.labels, chunk.batch.regions)
            self._remember(session, forward, notices)
            plans = map_plans(self.layers, self.methods, self.fusion)
            part = look.compute(Part(forward, plans, chunk, look.count, attempt), notices)
            part.target = state(target)
            if not chunk.samples.start:  # what is drawn is of the first samples
                part.concepts = look.run.concepts.follow_all(forward, self.layers, look.moment, attempt)
        return part

    def _open(self, chunk: Chunk) -> AbstractContextManager[Session]:
        # found by itself, the layer is traced once and then stays the same, also where adapters or a freeze come later
        layers = self.layers or self.named
        return open_session(self.model, layers, chunk.batch.images, output=self.output, context=self.context, call=chunk.call)

    def _remember(self, session: Session, forward: Forward, notices: Notices) -> None:
        """The default layer is looked for once."""
        if not self.layers and not self.named:
            notices.say(f"watching the layer {session.layers[0]!r}, found by itself")
        notices.say(session.call.in_words(), *forward.in_words(), forward.target_scores.choice.note)
        self.layers = list(session.layers)
