"""Whether a resumed run watches the samples that it began with. b batch."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from lightning_cam.record import to_host
from lightning_cam.training.notices import Notices

_KEY = "samples"
_BYTES = 8  # enough to tell a few samples apart


class Fingerprints:
    """A hash of each watched sample's pixels, which checkpoints keep.

    Args:
        digests: the samples' hashes, in their order.
    """

    def __init__(self, digests: tuple[str, ...] = ()) -> None:
        self.digests = digests

    def __len__(self) -> int:
        return len(self.digests)

    def follow(self, images: Shaped[Tensor, "b ..."], notices: Notices) -> None:
        """Take these samples' for those of the run, with a warning if the run had others."""
        digests = fingerprints(images)
        # of fewer or more, as the user may ask for, those that both have
        pairs = list(zip(self.digests, digests, strict=False))
        differing = sum(before != now for before, now in pairs)
        self.digests = digests
        if differing:
            notices.warn(
                f"{differing} of {len(pairs)} samples differ from those that this run watched before, so its earlier maps are "
                "of other samples. Give data that starts the same, or hand the samples in: Batch(samples=batch)."
            )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds, under one key; nothing before the first look."""
        if not self.digests:
            return {}
        return {_KEY: list(self.digests)}

    @classmethod
    def of(cls, states: Mapping[str, Any]) -> "Fingerprints":
        """Those that a checkpoint holds; older ones hold none."""
        return cls(tuple(states.get(_KEY, ())))


def fingerprints(images: Shaped[Tensor, "b ..."]) -> tuple[str, ...]:
    """A hash of each sample's values, bit by bit; on the host, where they are brought by one transfer.

    Example:
        >>> one, other = fingerprints(torch.eye(2))
        >>> one == other, fingerprints(torch.eye(2)[:1]) == (one,)
        (False, True)
    """
    (pixels,) = to_host([images])
    rows = pixels.reshape(len(pixels), -1).view(torch.uint8)
    return tuple(hashlib.blake2b(row.numpy(), digest_size=_BYTES).hexdigest() for row in rows)
