"""Slow references of where a map is hot, in any number of sides: plain loops over the places of one sample, in float64.

Maps are given at the image's size, but for the pointing game, whose points are those of the map's own cells.
"""

import math
from itertools import product

import numpy as np


def places(shape):
    return product(*(range(side) for side in shape))


def pointing_game(heat, mask, tolerance):
    """Zhang et al. 2016: hits over hits and misses; a hit is nearer than the tolerance to a pixel of the object, or in one."""
    most = max(float(heat[cell]) for cell in places(heat.shape))
    least = min(float(heat[cell]) for cell in places(heat.shape))
    if not mask.any() or most <= 0 or most == max(least, 0.0):
        return math.nan
    hottest = [cell for cell in places(heat.shape) if heat[cell] == most]
    return sum(points_into(cell, heat.shape, mask, tolerance) for cell in hottest) / len(hottest)


def points_into(cell, cells, mask, tolerance):
    point = [(index + 0.5) * side / count for index, count, side in zip(cell, cells, mask.shape, strict=True)]
    if mask[tuple(math.floor(p) for p in point)]:
        return True
    radius = tolerance * max(mask.shape)
    inside = [place for place in places(mask.shape) if mask[place]]
    return any(math.dist(point, [p + 0.5 for p in place]) < radius for place in inside)


def relevance_rank(heat, mask):
    """Arras et al. 2022: |P_topK intersected with GT| / K, over all orders of tied values by counting their share."""
    k = int(mask.sum())
    if k == 0:
        return math.nan
    order = sorted(places(mask.shape), key=lambda place: -float(heat[place]))
    last = float(heat[order[k - 1]])
    certain = [place for place in order if heat[place] > last]
    tied = [place for place in order if heat[place] == last]
    inside = sum(bool(mask[place]) for place in certain)
    inside += sum(bool(mask[place]) for place in tied) * (k - len(certain)) / len(tied)
    return inside / k


def iou(heat, mask, threshold):
    """The pixels strictly above a share of the maximum, and those of the region: those in both over those in either."""
    most = max(float(heat[place]) for place in places(mask.shape))
    hot = {place for place in places(mask.shape) if heat[place] > threshold * most}
    region = {place for place in places(mask.shape) if mask[place]}
    return len(hot & region) / len(hot | region)


def average_precision(values, positive):
    """sum_n (R_n - R_n-1) P_n, a step at each value there is, from the largest on."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        picked = [p for v, p in zip(values, positive, strict=True) if v >= threshold]
        recall = sum(picked) / sum(positive)
        total += (recall - before) * sum(picked) / len(picked)
        before = recall
    return total


def components(hot):
    """The boxes of the components of a boolean array, places touching at corners too, and how many places each has."""
    rest = {place for place in places(hot.shape) if hot[place]}
    found = []
    while rest:
        front = [rest.pop()]
        part = list(front)
        while front:
            place = front.pop()
            for step in product((-1, 0, 1), repeat=hot.ndim):
                other = tuple(p + s for p, s in zip(place, step, strict=True))
                if other in rest:
                    rest.remove(other)
                    front.append(other)
                    part.append(other)
        lower = [min(axis) for axis in zip(*part, strict=True)]
        upper = [max(axis) + 1 for axis in zip(*part, strict=True)]
        found.append(((*lower[::-1], *upper[::-1]), len(part)))
    return found


def box_iou(box, other):
    """Intersection over union of two half-open boxes."""
    sides = len(box) // 2
    both, own, others = 1, 1, 1
    for i in range(sides):
        both *= max(0, min(box[sides + i], other[sides + i]) - max(box[i], other[i]))
        own *= box[sides + i] - box[i]
        others *= other[sides + i] - other[i]
    return both / (own + others - both)


def best_overlap(heat, truth, threshold, largest):
    """The best IoU of a box of the map (of its largest component) with a true one; heat in [0, 1]."""
    parts = components(np.asarray(heat) > threshold)
    if not parts:
        return 0.0
    if largest:
        most = max(size for _, size in parts)
        parts = [part for part in parts if part[1] == most]
    return max(box_iou(box, other) for box, _ in parts for other, _ in truth)


def max_box_acc(maps, masks, delta, largest, chosen_on=None):
    """Choe et al. 2020: hits of each sample at the threshold with most hits, of 0, .01, ..., .99, on other maps if given."""

    def hits(some):
        rows = []
        for heat, mask in zip(some, masks, strict=True):
            truth = components(np.asarray(mask))
            rows.append([best_overlap(heat, truth, step / 100, largest) >= delta for step in range(100)])
        return rows

    own = hits(maps)
    deciding = own if chosen_on is None else hits(chosen_on)
    numbers = [sum(row[step] for row in deciding) for step in range(100)]
    best = [step for step in range(100) if numbers[step] == max(numbers)]
    middle = best[(len(best) - 1) // 2]
    return [float(row[middle]) for row in own]
