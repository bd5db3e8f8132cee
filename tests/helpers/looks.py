"""What Watchers keep and write, compared."""

import torch


def same(first, second):
    """Whether two histories hold the same looks, bit for bit."""
    assert first.titles == second.titles
    assert (first.lowest, first.highest) == (second.lowest, second.highest)
    return all(torch.equal(a, b) for a, b in zip(first.heats, second.heats, strict=True))


def files(folder):
    """Every file below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


def strength(heat, seen):
    """A metric: the largest value of each map."""
    return heat.flatten(1).amax(1)
