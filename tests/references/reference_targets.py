"""Slow references for targets: one sample, one prompt, one box at a time, by the formulas and in plain numbers."""

import math

import torch
from torch import Tensor


def cosine(f: Tensor, r: Tensor) -> float:
    """f . r / (|f| |r|)."""
    product = sum(float(a) * float(b) for a, b in zip(f, r, strict=True))
    return product / math.sqrt(sum(float(a) ** 2 for a in f)) / math.sqrt(sum(float(b) ** 2 for b in r))


def cosine_gradient(f: Tensor, r: Tensor) -> list[float]:
    """d cos / d f_i = r_i / (|f| |r|) - cos f_i / |f|^2."""
    size = math.sqrt(sum(float(a) ** 2 for a in f))
    other = math.sqrt(sum(float(b) ** 2 for b in r))
    c = cosine(f, r)
    return [float(b) / (size * other) - c * float(a) / size**2 for a, b in zip(f, r, strict=True)]


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of two boxes given by corners."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def corners(box: Tensor) -> list[float]:
    """Centre, width and height as corners."""
    x, y, w, h = (float(value) for value in box.detach())
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def probability(logits: Tensor, c: int, activation: str) -> float:
    """Of a class of one query."""
    logits = logits.detach()
    if activation == "sigmoid":
        return 1 / (1 + math.exp(-float(logits[c])))
    return math.exp(float(logits[c])) / sum(math.exp(float(z)) for z in logits)


def followed(logits: Tensor, boxes: Tensor, pinned: list[float], c: int, activation: str, threshold: float = 0.5) -> int | None:
    """Which query of one sample has the pinned box: the largest score + IoU of those that overlap enough, or None."""
    best, found = -math.inf, None
    for query in range(len(logits)):
        share = overlap(corners(boxes[query]), pinned)
        rank = probability(logits[query], c, activation) + share
        if share >= threshold and rank > best:
            best, found = rank, query
    return found


def surest(logits: Tensor, activation: str) -> tuple[int, int]:
    """The query and class of the highest probability of one sample; "no object", the last of a softmax, is none."""
    k = logits.shape[1] - (activation == "softmax")
    every = [(probability(logits[query], c, activation), query, c) for query in range(len(logits)) for c in range(k)]
    _, query, c = max(every)
    return query, c


def number(logits: Tensor, boxes: Tensor, pinned: list[float], c: int, activation: str) -> Tensor:
    """What is explained of one sample: the class's logit at the query followed, else the lowest of all queries."""
    query = followed(logits, boxes, pinned, c, activation)
    if query is None:
        return torch.stack([logits[q, c] for q in range(len(logits))]).min()
    return logits[query, c]
