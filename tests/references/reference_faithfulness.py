"""Slow references of faithfulness, written from the papers: one sample, one pixel, one step at a time, in NumPy.

``probability(image)`` is the explained class's, of one image [z *s], by a net run on it alone; heat [*m] is one raw map.
"""

import math
from itertools import pairwise, product

import numpy as np
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve


def places(size):
    return product(*(range(side) for side in size))


def resized(heat, size):
    """Linear between the centres of cells, constant beyond."""
    large = np.zeros(size)
    for place in places(size):
        corners = []
        for p, cells, side in zip(place, heat.shape, size, strict=True):
            at = min(max((p + 0.5) * cells / side - 0.5, 0.0), cells - 1.0)
            low = min(math.floor(at), cells - 1)
            corners.append([(low, 1 - (at - low)), (min(low + 1, cells - 1), at - low)])
        for choice in product(*corners):
            weight = math.prod(share for _, share in choice)
            large[place] += weight * heat[tuple(index for index, _ in choice)]
    return large


def scaled(heat):
    """The positive part from 0 to 1."""
    positive = np.maximum(heat, 0)
    low, high = positive.min(), positive.max()
    return np.array([(value - low) / (high - low) for value in positive.flat]).reshape(heat.shape)


def through(image, heat):
    mask = resized(scaled(heat), image.shape[1:])
    return np.stack([channel * mask for channel in image])


def average_drop(probability, image, heat):
    """Chattopadhay et al. 2018: max(0, Y - O) / Y."""
    y, o = probability(image), probability(through(image, heat))
    return max(0.0, y - o) / y


def increase(probability, image, heat):
    """Chattopadhay et al. 2018: 1 where Y < O."""
    return float(probability(image) < probability(through(image, heat)))


def average_gain(probability, image, heat):
    """Zhang et al. 2023: max(0, O - Y) / (1 - Y)."""
    y, o = probability(image), probability(through(image, heat))
    return max(0.0, o - y) / (1 - y)


def complexity(heat):
    """Poppi et al. 2021: the L1 norm of the scaled map, over its number of cells."""
    return sum(abs(value) for value in scaled(heat).flat) / heat.size


def coherency(map_of, image, heat):
    """Poppi et al. 2021: Pearson's correlation of the map with that of the image seen through it, from 0 to 1."""
    again = np.maximum(map_of(through(image, heat)), 0).ravel()
    before = np.maximum(heat, 0).ravel()
    covariance = sum((a - again.mean()) * (b - before.mean()) for a, b in zip(again, before, strict=True))
    size = math.sqrt(sum((a - again.mean()) ** 2 for a in again) * sum((b - before.mean()) ** 2 for b in before))
    return (covariance / size + 1) / 2


def adcc(probability, map_of, image, heat):
    """Poppi et al. 2021: 3 / (1 / Coherency + 1 / (1 - Complexity) + 1 / (1 - AverageDrop))."""
    like, dense = coherency(map_of, image, heat), complexity(heat)
    return 3 / (1 / like + 1 / (1 - dense) + 1 / (1 - average_drop(probability, image, heat)))


def by_relevance(heat, size, seed=0):
    """Places, the most relevant first; of equal ones that which is drawn first."""
    large = resized(heat, size)
    drawn = torch.randperm(large.size, generator=torch.Generator().manual_seed(seed)).tolist()
    everywhere = list(places(size))
    return sorted((everywhere[i] for i in drawn), key=lambda place: -large[place])


def area(curve):
    """Under points (share, probability), by trapezoids as wide as they are."""
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(curve))


def along(probability, start, end, order, steps):
    """The curve while pixels go from their start to their end."""
    curve = []
    for k in range(steps + 1):
        count = round(k * len(order) / steps)
        changed = start.copy()
        for place in order[:count]:
            changed[(slice(None), *place)] = end[(slice(None), *place)]
        curve.append((count / len(order), probability(changed)))
    return curve


def deletion(probability, image, heat, steps=10, fill=0.0):
    """Petsiuk et al. 2018: pixels become a constant, the most relevant first."""
    return area(along(probability, image, np.full_like(image, fill), by_relevance(heat, image.shape[1:]), steps))


def blurred(image, sigma):
    """A Gaussian along each side, one pixel after another; what falls outside is left out, and the rest sums to 1."""
    smooth = image
    for axis, side in enumerate(image.shape[1:], 1):
        lines = np.moveaxis(smooth, axis, -1)
        out = np.zeros_like(lines)
        for i in range(side):
            weights = [math.exp(-(((i - j) / (sigma * side)) ** 2) / 2) for j in range(side)]
            for j in range(side):
                out[..., i] += lines[..., j] * weights[j] / sum(weights)
        smooth = np.moveaxis(out, -1, axis)
    return smooth


def insertion(probability, image, heat, steps=10, sigma=0.05):
    """Petsiuk et al. 2018: pixels come back into the blurred image, the most relevant first."""
    return area(along(probability, blurred(image, sigma), image, by_relevance(heat, image.shape[1:]), steps))


def imputed(image, missing):
    """Rong et al. 2022: every missing pixel is the weighted mean of its neighbours, diagonal ones at half the weight."""
    size = image.shape[1:]
    unknown = [place for place in places(size) if missing[place]]
    index = {place: i for i, place in enumerate(unknown)}
    system = lil_matrix((len(unknown), len(unknown)))
    right = np.zeros((len(unknown), len(image)))
    for i, place in enumerate(unknown):
        total = 0.0
        for move in product((-1, 0, 1), repeat=len(size)):
            other = tuple(p + d for p, d in zip(place, move, strict=True))
            if not any(move) or not all(0 <= p < side for p, side in zip(other, size, strict=True)):
                continue
            weight = 0.5 ** sum(map(abs, move))
            total += weight
            if other in index:
                system[i, index[other]] = -weight
            else:
                right[i] += weight * image[(slice(None), *other)]
        system[i, i] = total
    solution = spsolve(system.tocsc(), right).reshape(len(unknown), len(image))
    filled = image.copy()
    for place, values in zip(unknown, solution, strict=True):
        filled[(slice(None), *place)] = values
    return filled


def road(probability, image, heat, shares=(0.2, 0.4, 0.6, 0.8), noise=0.01, seed=0):
    """Rong et al. 2022, both orders: the mean of half of what is left without the least relevant less without the most."""
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    order = by_relevance(heat, image.shape[1:], seed)
    total = 0.0
    for share in shares:
        count = round(share * len(order))
        left = []
        for taken in (order[:count], order[len(order) - count :]):
            missing = np.zeros(image.shape[1:], dtype=bool)
            for place in taken:
                missing[place] = True
            changed = imputed(image, missing)
            changed[:, missing] += noise * (image.max() - image.min()) * drawn[:, missing]
            left.append(probability(changed))
        total += (left[1] - left[0]) / 2 / len(shares)
    return total
