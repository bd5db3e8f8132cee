"""What a run keeps from look to look, and a checkpoint with it. b batch."""

from collections.abc import Mapping
from typing import Any

from lightning_cam.change.groups import Parts
from lightning_cam.change.noise import NoiseFloor
from lightning_cam.data.batch import FixedBatch
from lightning_cam.record import Moment
from lightning_cam.targets import state
from lightning_cam.targets.adapters import find
from lightning_cam.targets.target import Target
from lightning_cam.training.concept_tracker import ConceptTracker
from lightning_cam.training.history import History
from lightning_cam.training.look.look import Run
from lightning_cam.training.look.parts import PartShares
from lightning_cam.training.notices import Notices

_SAMPLES = "samples"  # the key of their fingerprints
_NOISE = "noise"
_SHARES = "shares"


class Memory:
    """The run so far: maps, what targets and concepts took up, and which samples were watched.

    Args:
        spec: the target, as the user gave it.
        concepts: how many concepts are drawn.
        parts: among which parts of the net the drift is split.

    Attributes:
        target: which number is explained, with what it took up.
        concepts: where each concept was at the last look.
        history: the maps by ``<layer>/<method>``.
        noise: how far maps move by what should not move them.
        shares: what moved them, by parts of the net.
        fingerprints: the samples' own, in their order; none before the first look.
        looked: whether a look came off.
    """

    def __init__(self, spec: Any, concepts: int, parts: Parts | None = None) -> None:
        self.spec = spec
        self.target: Target = find(spec)
        self.concepts = ConceptTracker(concepts)
        self.parts = parts
        self.restart()

    def restart(self) -> None:
        """Forget everything, as for a new run."""
        self.history: dict[str, History] = {}
        self.noise = NoiseFloor()
        self.shares = PartShares(self.parts)
        self.target = state.anew(self.target)
        self.concepts.load_state_dict({})
        self.fingerprints: tuple[str, ...] = ()
        self.looked = False

    def of(self, moment: Moment) -> Run:
        """What a look of this moment is compared with."""
        if moment.fitting:
            return Run(self.target, self.history, self.noise, self.shares, self.concepts)
        # validate and test look at what may be other samples, and must not move what the run is compared with
        return Run(state.anew(self.target), {}, self.noise, self.shares, self.concepts)

    def follow_samples(self, batch: FixedBatch, notices: Notices) -> None:
        """Take these samples for those of the run, with a warning if the run had others."""
        # of fewer or more, as the user may ask for, those that both have
        pairs = list(zip(self.fingerprints, batch.fingerprints, strict=False))
        differing = sum(before != now for before, now in pairs)
        if self.fingerprints and len(self.fingerprints) != len(batch):
            # a row is another sample's now
            for history in self.history.values():
                history.clear()
        self.fingerprints = batch.fingerprints
        if differing:
            notices.warn(
                f"{differing} of {len(pairs)} samples differ from those that this run watched before, so its earlier maps are "
                "of other samples. Give data that starts the same, or hand the samples in: Batch(samples=batch)."
            )

    def aside(self) -> "Memory":
        """Another one for a look that leaves nothing: targets with what they took up, and no run."""
        other = Memory(self.spec, 0)
        other.load_state_dict({name: kept for name, kept in self.state_dict().items() if "/" not in name})
        return other

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: plain values and CPU tensors."""
        states: dict[str, Any] = {tag: history.state_dict() for tag, history in self.history.items()}
        states |= state.state(self.target) | self.concepts.state_dict()
        if self.shares.rows:
            states[_SHARES] = self.shares.state_dict()
        if self.noise.turn:
            states[_NOISE] = self.noise.state_dict()
        # no key before the first look
        if self.fingerprints:
            states[_SAMPLES] = list(self.fingerprints)
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take up the run that a checkpoint holds; older ones hold no fingerprints."""
        self.history = {tag: History.of(maps) for tag, maps in states.items() if "/" in tag}
        state.load(self.target, states)
        self.concepts.load_state_dict(states)
        self.noise = NoiseFloor.from_state(states.get(_NOISE, {}))
        self.shares.load_state_dict(states.get(_SHARES, {}))
        self.fingerprints = tuple(states.get(_SAMPLES, ()))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "target": None}  # what a target's name stands for cannot always be pickled

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__ |= attributes | {"target": find(attributes["spec"])}
