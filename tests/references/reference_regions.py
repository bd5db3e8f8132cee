"""Slow references of regions and of the energy inside them, in any number of sides: one place of one sample at a time."""

import math
from itertools import product


def interpolated(heat, place, size):
    """A map's value at a place of the image: linear along each side between the centres of its cells, constant beyond."""
    value = 0.0
    corners = []
    for p, cells, side in zip(place, heat.shape, size, strict=True):
        at = min(max((p + 0.5) * cells / side - 0.5, 0.0), cells - 1.0)
        low = min(math.floor(at), cells - 1)
        high = min(low + 1, cells - 1)
        corners.append([(low, 1 - (at - low)), (high, at - low)])
    for choice in product(*corners):
        weight = math.prod(share for _, share in choice)
        value += weight * max(float(heat[tuple(index for index, _ in choice)]), 0.0)
    return value


def energy_inside(heat, mask):
    """Wang et al. 2020, section 4.3: the sum of L over the region, over its sum everywhere, L = ReLU of the map, enlarged."""
    inside, total = 0.0, 0.0
    for place in product(*(range(side) for side in mask.shape)):
        energy = interpolated(heat, place, mask.shape)
        total += energy
        if mask[place]:
            inside += energy
    if total == 0 or not mask.any():
        return math.nan
    return inside / total


def is_inside(place, box):
    """Whether the centre of a place (z, y, x), (y, x) or (x,) is in a box of its lower ends and its upper ends, x first."""
    sides = len(place)
    centre = [p + 0.5 for p in reversed(place)]
    return all(box[i] <= centre[i] < box[sides + i] for i in range(sides))
