"""A look with regions and nothing else, for metrics of where the heat is."""

import torch

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.model.trace import Calls
from lightning_cam.record import Earlier
from lightning_cam.targets import find
from lightning_cam.targets.target import TargetScores

SIZES = {1: ((5,), (13,)), 2: ((3, 4), (7, 9)), 3: ((2, 3, 4), (5, 4, 7))}  # of maps and images, by their number of sides


def looked(baseline=None, now=None, dtype=torch.float64, **regions):
    """A Seen of images of the regions' size, and what it is compared with."""
    size = next((mask.shape for mask in regions.values()), (1, 4, 4))
    images = torch.zeros(size[0], 1, *size[1:])
    scores = torch.zeros(size[0], 1, dtype=dtype)
    scored = find(0)
    choice = scored.choose(scores, None, None)
    forward = Forward(None, images, scores, TargetScores(scores, choice, scored), {}, Calls(), regions=regions)
    return Seen(forward, "layer", 0, Earlier(now, baseline))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rectangle(x0, y0, x1, y1, h=8, w=8):
    """A mask [1 h w] of one box."""
    mask = torch.zeros(1, h, w, dtype=torch.bool)
    mask[:, y0:y1, x0:x1] = True
    return mask


def within_five_sigma(values, expected):
    """Whether the mean of random values is what is expected of them."""
    sigma = float(values.std()) / len(values) ** 0.5
    return abs(float(values.mean()) - expected) < 5 * sigma
