"""AUC, Dice and the pixels of patches, slowly and from their definitions, in plain Python."""

import math


def auc(target, probability):
    """The share of pairs of a positive and a negative patch in the right order, ties counted half."""
    positive = [p for t, p in zip(target, probability, strict=True) if t == 1]
    negative = [p for t, p in zip(target, probability, strict=True) if t == 0]
    if not positive or not negative:
        return math.nan
    won = sum(1.0 if p > q else 0.5 if p == q else 0.0 for p in positive for q in negative)
    return won / (len(positive) * len(negative))


def dice(target, probability, threshold=0.5):
    """Twice the common patches over those of both sets."""
    true = {i for i, t in enumerate(target) if t == 1}
    predicted = {i for i, (t, p) in enumerate(zip(target, probability, strict=True)) if p >= threshold and not math.isnan(t)}
    if not true and not predicted:
        return math.nan
    return 2 * len(true & predicted) / (len(true) + len(predicted))


def pixels(squares, values, size):
    """The mean of the squares (left, right, top, bottom) over each pixel: None where there is none, NaN where all are NaN."""
    height, width = size
    covering = [[[] for _ in range(width)] for _ in range(height)]
    for (left, right, top, bottom), value in zip(squares, values, strict=True):
        for row in range(top, bottom):
            for column in range(left, right):
                covering[row][column].append(value)

    def mean(found):
        known = [value for value in found if not math.isnan(value)]
        if not found:
            return None
        return sum(known) / len(known) if known else math.nan

    return [[mean(found) for found in row] for row in covering]
