"""Slow references of how two maps differ, written from the definitions: one cell of one pair at a time."""

import math
from itertools import product

from reference_shape import cells, shares


def cosine(now, then):
    a, b = cells(now), cells(then)
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def drift(now, then):
    return 1 - cosine(now, then)


def ranks(values):
    """Spearman 1904: places in order of size, from 1; of equal values the mean of the places they take together."""
    order = sorted(values)
    return [sum(place for place, other in enumerate(order, 1) if other == value) / order.count(value) for value in values]


def spearman(now, then):
    a, b = ranks(cells(now)), ranks(cells(then))
    x, y = sum(a) / len(a), sum(b) / len(b)
    shared = sum((p - x) * (q - y) for p, q in zip(a, b, strict=True))
    spread = math.sqrt(sum((p - x) ** 2 for p in a) * sum((q - y) ** 2 for q in b))
    return shared / spread if spread else math.nan


def top(values, share):
    """The positive cells by falling value until the share is used up; those on one level take equal parts of what is left."""
    left, member = share * len(values), [0.0] * len(values)
    for level in sorted(set(values), reverse=True):
        tied = [i for i, value in enumerate(values) if value == level]
        for i in tied:
            member[i] = min(1.0, max(0.0, left) / len(tied)) if level > 0 else 0.0
        left -= len(tied)
    return member


def top_iou(now, then, share=0.2):
    a, b = top(cells(now), share), top(cells(then), share)
    if not sum(a) or not sum(b):
        return math.nan
    return sum(map(min, a, b)) / sum(map(max, a, b))


def jensen_shannon(now, then):
    """Lin 1991, equation 4.1 with both weights a half: H of the mean less the mean of H, in bits."""

    def bits(p):
        return -sum(share * math.log2(share) for share in p if share > 0)

    p, q = shares(now), shares(then)
    if p is None or q is None:
        return math.nan
    mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return bits(mean) - (bits(p) + bits(q)) / 2


def places(heat):
    return list(product(*(range(side) for side in heat.shape)))


def centre_shift(now, then):
    if shares(now) is None or shares(then) is None:
        return math.nan
    grid = places(now)
    centres = [
        [sum(share * place[axis] for share, place in zip(shares(heat), grid, strict=True)) for axis in range(now.ndim)]
        for heat in (now, then)
    ]
    return math.dist(*centres)


def wasserstein(now, then):
    """Kantorovich 1942 as it stands: a flow from every cell to every other, whose sums are both maps' shares."""
    import numpy as np
    from scipy.optimize import linprog

    grid = places(now)
    n = len(grid)
    work = [math.dist(a, b) for a in grid for b in grid]
    sums = np.zeros((2 * n, n * n))
    for i in range(n):
        sums[i, i * n : (i + 1) * n] = 1
        sums[n + i, i::n] = 1
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    # the last sum follows from the others
    return linprog(work, A_eq=sums[:-1], b_eq=[*shares(now), *shares(then)][:-1], options=tight).fun
