"""Rows in order: by several keys, and where one group of equal rows ends. n rows."""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


def lexsort(*keys: Shaped[Tensor, "n"]) -> Int[Tensor, "n"]:
    """The order of rows by the first key, of equal ones by the second, and so on; of equal rows as they came.

    Example:
        >>> lexsort(torch.tensor([1, 0, 1]), torch.tensor([5, 9, 4])).tolist()
        [1, 2, 0]
    """
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[key[order].argsort(stable=True)]
    return order


def begins(*sorted_keys: Shaped[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Where rows that are in order differ from the row before.

    Example:
        >>> begins(torch.tensor([3, 3, 7])).tolist()
        [True, False, True]
    """
    first = torch.ones_like(sorted_keys[0], dtype=torch.bool)
    first[1:] = torch.stack([key[1:] != key[:-1] for key in sorted_keys]).any(0)
    return first
