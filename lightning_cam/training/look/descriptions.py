"""What the numbers of a look are, in words that stand beside their curves."""

import functools
import inspect
from typing import Any

from lightning_cam.registry import Entry
from lightning_cam.training.look.result import LookResult, Tags, told_first


def descriptions(result: LookResult, tags: Tags) -> dict[str, str]:
    """A line for each curve that the run is going to have, by its tag; at the first look, of which every curve has a point.

    Example:
        >>> from lightning_cam import Watcher
        >>> watcher = Watcher(resnet18(num_classes=2), torch.rand(2, 3, 64, 64), "layer4", metrics=["gini"], folder=folder)
        >>> results = []
        >>> watcher.observers.append(results.append)
        >>> records = watcher.look(step=0)
        >>> descriptions(results[0], Tags("cam", alone=True, named=True))["cam/gini"]
        'How unevenly the positive evidence is spread over the cells: the Gini index. From 0 to 1.'
    """
    if not result.moment.baseline or not result.moment.fitting:
        return {}
    words = {metric.label: in_words(metric) for metric in result.metrics}
    lines: dict[str, str] = {}
    for record in result.records:
        told = told_first(record, tags.named)
        lines |= {f"{tags.of(record)}{name}": words[name] for name in told if name in words}
    control = "What a bump in the middle of every picture has, a map that has learned nothing: "
    return lines | {f"{tags.tag}_centre/{name}": control + words[name] for name in result.centre if name in words}


def in_words(metric: Entry[Any]) -> str:
    """What a metric says of itself, its range, and which way is better."""
    function = metric.function
    while isinstance(function, functools.partial):
        function = function.func
    about = (inspect.getdoc(function) or metric.label).splitlines()[0]
    low, high = metric.facts.get("range", (None, None))
    if low is not None and high is not None:
        about += f" From {low:g} to {high:g}."
    elif low is not None:
        about += f" From {low:g} up."
    better = metric.facts.get("higher_is_better")
    if better is not None:
        about += " Higher is better." if better else " Lower is better."
    return about
