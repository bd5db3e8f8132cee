"""Methods that cover parts of the image and read the score: neither a gradient nor a layer is needed.

They explain what has no gradient at all: quantised, traced and exported models. The watched layer plays no part. b batch,
s sides of the image, z its channels, m map, n changed samples, l length of a side, g cells of a coarse mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_cam.capture.gradient import at_least_float
from lightning_cam.capture.seen import Seen
from lightning_cam.heat import above_rounding
from lightning_cam.methods.perturbation.layer import checked
from lightning_cam.methods.perturbation.masking import masked_images
from lightning_cam.registry import METHODS


@METHODS.register
def occlusion(
    seen: Seen, *, window: float = 1 / 8, stride: float = 1 / 16, fill: Literal["mean"] | float = "mean", chunk: int = 64
) -> Float[Tensor, "b *m"]:
    """Occlusion: at each place, the score that is lost when a window around it is covered.

    ``S(x) - S(x covered around uv)``, signed, in units of the score. The map has ``1 / stride`` cells a side, of a pixel at
    least; a window lies around the middle of each, cut off at the image's edge. Of a linear model it is the sum of
    ``w (x - fill)`` over the window. What several places say alike is lost with none of them.

    Cost: a forward a cell and sample. Source: Zeiler & Fergus 2014, section 4.2, arXiv 1311.2901, who draw the score and cover
    with grey.

    Args:
        seen: what one forward showed.
        window: the window's sides, as shares of the image's.
        stride: from window to window, as a share of the image's sides.
        fill: what covers: ``mean``, each image's own mean of each channel, which is as neutral however images are normalised;
            or a number in the units of the model's input, such as 0 for the dataset's mean where that was taken off.
        chunk: how many covered images are made and run at a time.

    Raises:
        ValueError: for a chunk below 1, a fill of another name, or shares other than 0 < stride <= window <= 1.
    """
    if not 0 < stride <= window <= 1:
        raise ValueError(
            f"occlusion(window={window!r}, stride={stride!r}): expected shares of the image's sides, "
            "0 < stride <= window <= 1; with a stride above the window parts would never be covered."
        )
    images = seen.image
    covers = [_covers(side, window, stride).to(images.device) for side in images.shape[2:]]
    cells = torch.Size([len(cover) for cover in covers])
    covered_scores = []
    for i in range(len(images)):
        fills = _fill(images[i], fill)
        scores = []
        for places in torch.arange(cells.numel(), device=images.device).split(checked(chunk)):
            covered = torch.where(_windows(covers, places)[:, None], fills, images[i])
            scores.append(seen.rescore(i, image=covered))
        covered_scores.append(torch.cat(scores))
    left = torch.stack(covered_scores)
    heat: Tensor = (seen.score[:, None] - left).unflatten(1, cells)
    return above_rounding(heat, seen.score_eps * (seen.score.abs() + left.abs().amax(1)))


@METHODS.register
def rise(seen: Seen, *, n: int = 1000, cells: int = 7, p: float = 0.5, seed: int = 0, chunk: int = 64) -> Float[Tensor, "b *s"]:
    """RISE: the mean score of randomly masked images in which a place is shown, less the mean score of all of them.

    ``sum_i (S_i - mean S) M_i / (n p)`` with ``S_i = S(x * M_i)``, signed, in units of the score, at the image's size.
    Masks are grids of ``cells`` a side, each 1 with probability p, enlarged linearly and shifted by less than a cell. The
    paper leaves the mean in: its scores are probabilities, near 0 for most masks. A logit has no such zero, and a constant c in
    it would add ``c sum_i M_i / (n p)``, a pattern of the masks alone; without the mean no constant counts, and 0 means no
    evidence. Pixels that are hidden become 0: the dataset's mean where that was taken off, else black. The same seed draws the
    same masks at every look, for every sample and on every device; global random states stay as they are.

    Cost: n forwards a sample. Source: Petsiuk et al. 2018, section 3, arXiv 1806.07421, with 4000 masks for VGG-16 and 8000
    for ResNet-50. With fewer the map has more noise, which falls as 1 / sqrt(n).

    Args:
        seen: what one forward showed.
        n: how many masks.
        cells: of a mask before it is enlarged, along each side.
        p: the probability that a cell is shown.
        seed: which masks.
        chunk: how many masked images are made and run at a time.

    Raises:
        ValueError: for n, cells or a chunk below 1, or a p that is no probability between 0 and 1.
    """
    if n < 1 or cells < 1 or not 0 < p < 1:
        raise ValueError(f"rise(n={n!r}, cells={cells!r}, p={p!r}): expected n and cells of 1 or more, and 0 < p < 1.")
    images = seen.image
    masks = RandomMasks.drawn(images.shape[2:], n, cells, p, seed)
    chunks = torch.arange(n).split(checked(chunk))
    scores = []
    for part in chunks:
        shown = masks.enlarged(part).to(seen.score)
        scores.append(torch.stack([seen.rescore(i, image=masked_images(image, shown)) for i, image in enumerate(images)]))
    score = torch.cat(scores, 1)
    # where no score differs from another but by rounding, no mask counts
    rounding = 2 * seen.score_eps * score.abs().amax(1)
    weights = above_rounding(score - score.mean(1, keepdim=True), rounding) / (n * p)
    heat = weights.new_zeros(len(images), *images.shape[2:])
    # enlarged a second time: all masks at the image's size would not fit into memory
    for part, w in zip(chunks, weights.split(chunk, 1), strict=True):
        heat = heat + torch.einsum("bn,n...->b...", w, masks.enlarged(part).to(w))
    return heat


@dataclass(frozen=True, eq=False)
class RandomMasks:
    """Random masks as they were drawn, on the CPU, so that they are the same for every device and precision.

    Attributes:
        grids: which cells are shown.
        shifts: of each mask along each side, in pixels.
        sides: of the image.
    """

    grids: Float[Tensor, "n ..."]
    shifts: Sequence[Int[Tensor, "n"]]
    sides: torch.Size

    @staticmethod
    def drawn(sides: torch.Size, n: int, cells: int, p: float, seed: int) -> "RandomMasks":
        """Draw masks from a generator of their own."""
        generator = torch.Generator().manual_seed(seed)
        grids = torch.rand(n, *[cells] * len(sides), generator=generator, dtype=torch.float64) < p
        shifts = [torch.randint(_cell(side, cells), (n,), generator=generator) for side in sides]
        return RandomMasks(grids.double(), shifts, sides)

    def enlarged(self, part: Int[Tensor, "n"]) -> Float[Tensor, "n *s"]:
        """Some of the masks at the image's size, in [0, 1].

        A grid is enlarged to one cell more than the image needs, linearly with half-pixel centres, and cut at its shift.
        """
        masks = self.grids[part]
        cells = masks.shape[1]
        for side, shift in zip(self.sides, self.shifts, strict=True):
            pixel = shift[part, None].double() + torch.arange(side)
            place = (pixel + 0.5) * cells / ((cells + 1) * _cell(side, cells)) - 0.5
            distance = place.clamp(0, cells - 1)[:, :, None] - torch.arange(cells)
            taps = (1 - distance.abs()).clamp(min=0)
            # the side's cells become pixels, and go last: after all sides their order is the image's
            masks = torch.einsum("ng...,nlg->n...l", masks, taps)
        return masks


def _cell(side: int, cells: int) -> int:
    """Pixels of a side that a cell is enlarged to."""
    return -(-side // cells)


def _covers(side: int, window: float, stride: float) -> Bool[Tensor, "n l"]:
    """For each cell along a side the pixels whose centre lies in the window around its middle; on the CPU."""
    cells = min(round(1 / stride), side)
    length = side / cells
    # no less than the cell itself, where cells are as small as pixels
    half = max(window * side, length) / 2
    middle = (torch.arange(cells, dtype=torch.float64)[:, None] + 0.5) * length
    pixel = torch.arange(side, dtype=torch.float64) + 0.5
    return (pixel >= middle - half) & (pixel < middle + half)


def _windows(covers: Sequence[Bool[Tensor, "_ _"]], places: Int[Tensor, "n"]) -> Bool[Tensor, "n *s"]:
    """The pixels covered at some of the places: a product over the sides."""
    inside = torch.ones_like(places[:, None], dtype=torch.bool)
    for cover, index in zip(covers, torch.unravel_index(places, [len(cover) for cover in covers]), strict=True):
        inside = (inside[:, :, None] & cover[index][:, None]).flatten(1)
    windows: Tensor = inside.unflatten(1, [cover.shape[1] for cover in covers])
    return windows


def _fill(image: Shaped[Tensor, "z *s"], fill: Literal["mean"] | float) -> Shaped[Tensor, "z *ones"]:
    """What covers an image, a value a channel."""
    ones = [1] * (image.ndim - 1)
    if not isinstance(fill, str):
        return torch.full((len(image), *ones), fill, dtype=image.dtype, device=image.device)
    if fill != "mean":
        raise ValueError(
            f"fill={fill!r}: expected 'mean' for each image's own mean, or a number in the units of the model's input."
        )
    mean = at_least_float(image.flatten(1)).mean(1).to(image.dtype)
    return mean.reshape(-1, *ones)
