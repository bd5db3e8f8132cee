"""Slow references of occlusion and RISE, written from the papers: one image, one window or mask, one pixel at a time."""

import math

import torch
from reference import Case, replicates
from reference_perturbation import score
from torch import Tensor


def covered(place: int, cells: int, side: int, window: float) -> list[int]:
    """The pixels of a side whose middle lies in the window around the middle of a cell."""
    middle = (place + 0.5) * side / cells
    half = max(window * side, side / cells) / 2
    return [pixel for pixel in range(side) if middle - half <= pixel + 0.5 < middle + half]


@replicates("occlusion")
def occlusion(
    case: Case,
    images: Tensor,
    classes: list[int],
    window: float = 1 / 8,
    stride: float = 1 / 16,
    fill: str | float = "mean",
) -> Tensor:
    """Zeiler & Fergus: a grey square over one part of the image after another; here by how much the score falls."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        rows, columns = (min(round(1 / stride), side) for side in image.shape[1:])
        heat = torch.zeros(rows, columns, dtype=image.dtype)
        for u in range(rows):
            for v in range(columns):
                grey = image.clone()
                for z in range(len(image)):
                    value = float(image[z].sum()) / image[z].numel() if fill == "mean" else float(fill)
                    for y in covered(u, rows, image.shape[1], window):
                        for x in covered(v, columns, image.shape[2], window):
                            grey[z, y, x] = value
                heat[u, v] = score(case, image, c) - score(case, grey, c)
        maps.append(heat)
    return torch.stack(maps)


def drawn(size: torch.Size, n: int, cells: int, p: float, seed: int) -> list[Tensor]:
    """Petsiuk et al., section 3.2: small binary grids, enlarged to one cell more than needed, cut at a random shift."""
    generator = torch.Generator().manual_seed(seed)
    grids = torch.rand(n, cells, cells, generator=generator, dtype=torch.float64) < p
    pixels = [math.ceil(side / cells) for side in size]
    shifts = [torch.randint(pixel, (n,), generator=generator).tolist() for pixel in pixels]
    masks = []
    for i in range(n):
        enlarged = [(cells + 1) * pixel for pixel in pixels]
        large = torch.nn.functional.interpolate(grids[i].double()[None, None], enlarged, mode="bilinear")[0, 0]
        top, left = shifts[0][i], shifts[1][i]
        masks.append(large[top : top + size[0], left : left + size[1]])
    return masks


@replicates("rise")
def rise(
    case: Case, images: Tensor, classes: list[int], n: int = 1000, cells: int = 7, p: float = 0.5, seed: int = 0
) -> Tensor:
    """Petsiuk et al.: masks weighted by the score of the masked image over n E[M]; of scores less their mean."""
    maps = []
    masks = drawn(images.shape[2:], n, cells, p, seed)
    for image, c in zip(images, classes, strict=True):
        scores = [score(case, image * mask.to(image), c) for mask in masks]
        mean = sum(scores) / n
        heat = torch.zeros(image.shape[1:], dtype=image.dtype)
        for value, mask in zip(scores, masks, strict=True):
            heat += (value - mean) * mask / (n * p)
        maps.append(heat)
    return torch.stack(maps)
