"""Slow references of what a map is like by itself, written from the definitions: one cell of one map at a time."""

import math


def cells(heat):
    return [float(value) for value in heat.flatten()]


def shares(heat):
    positive = [max(value, 0.0) for value in cells(heat)]
    total = sum(positive)
    if not total > 0:
        return None
    return [value / total for value in positive]


def entropy(heat):
    """Shannon 1948, section 6: -sum p log p, over that of equal shares."""
    p = shares(heat)
    if p is None or len(p) == 1:
        return math.nan
    return -sum(share * math.log(share) for share in p if share > 0) / math.log(len(p))


def gini(heat):
    """Half the mean absolute difference over the mean, as Gini 1912 has it, pair by pair."""
    p = shares(heat)
    if p is None:
        return math.nan
    n = len(p)
    return sum(abs(a - b) for a in p for b in p) / (2 * n * n * (sum(p) / n))


def effective_area(heat):
    """Hill 1973, equation 1 with a = 2: (sum p^a)^(1 / (1 - a)) cells, of all there are."""
    p = shares(heat)
    if p is None:
        return math.nan
    return sum(share**2 for share in p) ** (1 / (1 - 2)) / len(p)


def positive_share(heat):
    total = sum(abs(value) for value in cells(heat))
    if total == 0:
        return math.nan
    return sum(value for value in cells(heat) if value > 0) / total


def strength(heat):
    return max(cells(heat))


def norm(heat):
    return math.sqrt(sum(value**2 for value in cells(heat)))
