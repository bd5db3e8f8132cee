"""What targets keep over a run, such as a frozen reference; one that keeps something has the methods of ``Frozen``."""

from collections.abc import Mapping
from typing import Any

from lightning_cam.targets.target import Several, Target

_KEY = "target"


def anew(target: Target) -> Target:
    """The target without what it took up at other samples; what keeps nothing stays as it is."""
    if not _keeping(target):
        return target
    if isinstance(target, Several):
        return Several([anew(one) for one in target.targets])
    fresh: Target = target.anew()  # type: ignore[attr-defined]
    return fresh


def state(target: Target) -> dict[str, Any]:
    """What a checkpoint must hold of a target, under one key; nothing where nothing is kept."""
    kept = [one.state_dict() for one in _keeping(target)]
    return {_KEY: kept} if kept else {}


def load(target: Target, states: Mapping[str, Any]) -> None:
    """Take up what a checkpoint holds of the same target."""
    for one, kept in zip(_keeping(target), states.get(_KEY, []), strict=False):
        one.load_state_dict(kept)


def _keeping(target: Target) -> list[Any]:
    return [one for one in (target.targets if isinstance(target, Several) else [target]) if hasattr(one, "anew")]
