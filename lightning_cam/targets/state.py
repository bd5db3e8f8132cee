"""What targets keep over a run, such as a frozen reference; one that keeps something has the methods of ``FrozenReference``."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_cam.targets.adapters import TargetList, members
from lightning_cam.targets.target import Target

_KEY = "target"


def anew(target: Target) -> Target:
    """The target without what it took up at other samples; what keeps nothing stays as it is."""
    if isinstance(target, TargetList):
        return TargetList(tuple(anew(part) for part in target.targets))
    if not hasattr(target, "anew"):
        return target
    fresh: Target = target.anew()
    return fresh


def of_part(target: Target, samples: slice, count: int, labels: Tensor | None) -> Target:
    """The target for some of the samples alone, where these are run by themselves.

    What holds something of each sample, such as a class each, has a method ``for_part``; all others stay as they are.

    Args:
        target: of the whole batch.
        samples: which of its samples.
        count: how many there are.
        labels: of all of them.

    Raises:
        ValueError: where a target holds something of another number of samples.
    """
    if isinstance(target, TargetList):
        return TargetList(tuple(of_part(part, samples, count, labels) for part in target.targets))
    if not hasattr(target, "for_part"):
        return target
    part: Target = target.for_part(samples, count, labels)
    return part


def join(target: Target, states: Sequence[Mapping[str, Any]]) -> None:
    """Let the target keep what its parts took up, each of some of the samples: their states, in the samples' order.

    What keeps something of each sample has a method ``join``, which is handed its parts' states.
    """
    for i, member in enumerate(_with_state(target)):
        parts = [part[_KEY][i] for part in states if _KEY in part]
        if hasattr(member, "join") and len(parts) == len(states) > 0:
            member.join(parts)


def state(target: Target) -> dict[str, Any]:
    """What a checkpoint must hold of a target, under one key; nothing where nothing is kept."""
    states = [part.state_dict() for part in _with_state(target)]
    # no key at all where there is nothing, so that checkpoints of most targets carry none
    if not states:
        return {}
    return {_KEY: states}


def load(target: Target, states: Mapping[str, Any]) -> None:
    """Take up what a checkpoint holds of the same target."""
    # not strict: a checkpoint may come from a run of another target, or of one that had no state yet
    for part, part_state in zip(_with_state(target), states.get(_KEY, []), strict=False):
        part.load_state_dict(part_state)


def _with_state(target: Target) -> list[Any]:
    return [part for part in members(target) if hasattr(part, "anew")]
