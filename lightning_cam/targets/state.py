"""What targets keep over a run, such as a frozen reference; one that keeps something has the methods of ``FrozenReference``."""

from collections.abc import Mapping
from typing import Any

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
