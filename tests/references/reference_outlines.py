"""Outlines, bars and discs from their definitions, a place at a time."""

from itertools import product


def border(mask, h, w, y, x, reach):
    """Whether a pixel of another kind lies within reach of (y, x), along both axes; beyond the picture is outside."""
    for down, right in product(range(-reach, reach + 1), repeat=2):
        i, j = y + down, x + right
        there = 0 <= i < h and 0 <= j < w and bool(mask[i][j])
        if there != bool(mask[y][x]):
            return True
    return False


def strokes(mask, line, hairline):
    """Which pixels are of the light line, and which of the dark ones, of a mask as a list of rows."""
    h, w = len(mask), len(mask[0])
    light = [[bool(mask[y][x]) and border(mask, h, w, y, x, line) for x in range(w)] for y in range(h)]
    within = [[bool(mask[y][x]) and not light[y][x] for x in range(w)] for y in range(h)]
    dark = []
    for y in range(h):
        outer = [not mask[y][x] and border(mask, h, w, y, x, hairline) for x in range(w)]
        inner = [within[y][x] and border(within, h, w, y, x, hairline) for x in range(w)]
        dark.append([a or b for a, b in zip(outer, inner, strict=True)])
    return light, dark


def in_disc(place, point, reach):
    """Whether a place's centre is within reach of a point (x, y, z), or the point lies in the place; places are (z, y, x)."""
    centre = [coordinate + 0.5 for coordinate in reversed(place)]
    if any(number != number for number in point):
        return False
    distance = sum((a - b) ** 2 for a, b in zip(centre, point, strict=True)) ** 0.5
    return distance <= reach or all(i <= number < i + 1 for i, number in zip(reversed(place), point, strict=True))


def in_rotated(place, box):
    """Whether a pixel's centre is in a box (centre x, centre y, width, height, degrees), turned back by its angle."""
    from math import cos, radians, sin

    y, x = place
    cx, cy, w, h, angle = box
    dx, dy = x + 0.5 - cx, y + 0.5 - cy
    # counterclockwise in a picture whose y grows downwards
    along = dx * cos(radians(angle)) - dy * sin(radians(angle))
    across = dx * sin(radians(angle)) + dy * cos(radians(angle))
    return abs(along) < w / 2 and abs(across) < h / 2
