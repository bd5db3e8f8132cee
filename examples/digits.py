"""Handwritten digits on photographs, with a coloured tag in a corner: real pictures whose shortcut is known.

The digits and the photographs come with scikit-learn, so nothing is downloaded. c h w image.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.utils.data import Dataset

SIZE = 96  # of a picture, in pixels
TAG = 18  # of the tag
DIM = 0.6  # the photographs' brightness, so that white digits are read on any of them
MARGIN = 3  # between the tag and the picture's edge
APART = 12  # between the tag and the digit, at least
DIGIT = (34, 42)  # the digit's height before its empty border is cut away, smallest and largest
COLOURS = (  # the tag's, one a class
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 90, 220), (245, 130, 48),
    (145, 30, 180), (70, 240, 240), (240, 50, 230), (128, 70, 20), (250, 250, 250),
)  # fmt: skip


class TaggedDigits(Dataset[dict[str, Tensor]]):
    """Digits at random places on crops of photographs; the tag's colour agrees with the class or is random.

    A sample is a function of seed and index alone. Training and validation share neither digits nor parts of photographs.

    Args:
        split: ``train`` or ``val``.
        tags: ``agree``: the colour gives the class away. ``random``: it says nothing.
        count: how many pictures; beyond the number of digits each is placed anew.
        seed: another seed, other pictures.
    """

    classes = tuple("0123456789")

    def __init__(self, split: Literal["train", "val"], tags: Literal["agree", "random"], count: int, seed: int = 0) -> None:
        self.glyphs, self.labels = _digits(split)
        self.photographs = _photographs(split)
        self.split, self.tags, self.count, self.seed = split, tags, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        chance = self._chance(index)
        image = self._crop(chance)
        label = self.label(index)
        tag = _corner(chance)
        ink = _enlarge(self.glyphs[index % len(self.glyphs)], int(chance.integers(DIGIT[0], DIGIT[1] + 1)))
        digit = _place(ink.shape, tag, chance)
        _inside(image, digit).lerp_(torch.ones(3, *ink.shape), ink.expand(3, -1, -1))
        colour = label if self.tags == "agree" else int(chance.integers(len(COLOURS)))
        _inside(image, tag)[:] = 0  # a black line around it
        _inside(image, (tag[0] + 1, tag[1] + 1, tag[2] - 1, tag[3] - 1))[:] = torch.tensor(COLOURS[colour])[:, None, None] / 255
        return {"image": image, "label": torch.tensor(label), "digit": torch.tensor(digit), "tag": torch.tensor(tag)}

    def label(self, index: int) -> int:
        """The digit of a sample."""
        return int(self.labels[index % len(self.labels)])

    def some_of_each(self, count: int) -> list[int]:
        """Indices of samples that take turns in class, ordered by class."""
        each = [[i for i in range(self.count) if self.label(i) == digit] for digit in range(len(self.classes))]
        turns = [i for turn in zip(*each, strict=False) for i in turn]
        return sorted(turns[:count], key=self.label)

    def background(self, index: int) -> Tensor:
        """The photograph behind a sample."""
        return self._crop(self._chance(index))

    def _chance(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, index, self.split == "val"])

    def _crop(self, chance: np.random.Generator) -> Tensor:
        photograph = self.photographs[chance.integers(len(self.photographs))]
        top, left = (int(chance.integers(side - SIZE + 1)) for side in photograph.shape[1:])
        crop = photograph[:, top : top + SIZE, left : left + SIZE]
        return crop.flip(2) if chance.random() < 0.5 else crop.clone()


Box = tuple[int, int, int, int]


@cache
def _digits(split: str) -> tuple[Tensor, Tensor]:
    data: Any = load_digits()
    part = slice(None, 1400) if split == "train" else slice(1400, None)
    return torch.from_numpy(data.images[part]).float() / 16, torch.from_numpy(data.target[part]).long()


@cache
def _photographs(split: str) -> tuple[Tensor, ...]:
    """The upper half of each photograph to train on, the lower to validate on; grey and dimmed, [c h w]."""
    data: Any = load_sample_images()
    greys = [torch.from_numpy(image.mean(2)).float()[None, None] * DIM / 255 for image in data.images]
    small = [F.interpolate(grey, scale_factor=0.7, mode="bilinear", antialias=True)[0] for grey in greys]
    return tuple(image.chunk(2, 1)[split == "val"].expand(3, -1, -1) for image in small)


def _corner(chance: np.random.Generator) -> Box:
    x, y = (MARGIN if chance.random() < 0.5 else SIZE - MARGIN - TAG for _ in range(2))
    return x, y, x + TAG, y + TAG


def _enlarge(glyph: Tensor, side: int) -> Tensor:
    """The digit's opacity [h w], smooth at its new size, cut to where there is ink."""
    ink = F.interpolate(glyph[None, None], (side, side), mode="bicubic", align_corners=False)[0, 0]
    ink = ((ink - 0.15) * 2).clamp(0, 1)
    rows, columns = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(shape: tuple[int, ...], tag: Box, chance: np.random.Generator) -> Box:
    h, w = shape
    while True:
        x, y = int(chance.integers(SIZE - w + 1)), int(chance.integers(SIZE - h + 1))
        beside = x >= tag[2] + APART or x + w <= tag[0] - APART
        if beside or y >= tag[3] + APART or y + h <= tag[1] - APART:
            return x, y, x + w, y + h


def _inside(image: Tensor, box: Box) -> Tensor:
    x0, y0, x1, y1 = box
    return image[:, y0:y1, x0:x1]
