"""A sample's fingerprint: by it a run knows its samples again, in a checkpoint and in a record. b batch."""

import hashlib
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from lightning_cam.record import to_host

_BYTES = 8  # enough to tell a few samples apart


def fingerprints(images: Shaped[Tensor, "b ..."]) -> tuple[str, ...]:
    """A hash of each sample's values, bit by bit; on the host, where they are brought by one transfer.

    Args:
        images: of any shape and type; how they lie in memory does not count.

    Returns:
        Sixteen hexadecimal digits a sample.

    Example:
        >>> one, other = fingerprints(torch.eye(2))
        >>> one == other, fingerprints(torch.eye(2)[:1]) == (one,)
        (False, True)
    """
    (pixels,) = to_host([images])
    rows = pixels.reshape(len(pixels), -1).view(torch.uint8)
    return tuple(digest(row.numpy()) for row in rows)


def digest(data: Any) -> str:
    """A hash of bytes, or of what has them in one piece: sixteen hexadecimal digits.

    Example:
        >>> digest(b"a cat")
        '67f5dfb40b23dda2'
    """
    return hashlib.blake2b(data, digest_size=_BYTES).hexdigest()
