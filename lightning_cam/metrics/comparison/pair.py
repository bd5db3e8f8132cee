"""The two maps that are compared: this look's, and that of an earlier one. b batch, m map.

The class is the same in both: where an earlier look explained another one, its map is NaN, and so is what compares. Maps of
up to 1024 cells are at layer resolution, larger ones averaged down, both alike.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.registry import did_you_mean

EARLIER = ("baseline", "previous", "best")


def compare(
    pairwise: Callable[[Tensor, Tensor], Tensor], heat: Float[Tensor, "b *u"], seen: Seen, to: str
) -> Float[Tensor, "b"]:
    """A number of this look's maps and an earlier look's; NaN where there is none, as at the first look of a run.

    Args:
        pairwise: ``(now [b *m], then [b *m]) -> [b]``.
        heat: raw maps; what is compared are those in ``seen.earlier``.
        seen: what one forward showed, and what came before.
        to: the ``baseline``, the ``previous`` look, or the ``best`` so far.

    Raises:
        ValueError: for another ``to``.
    """
    if to not in EARLIER:
        raise ValueError(
            f"A map is compared with that of an earlier look, to='baseline', 'previous' or 'best'; got to={to!r}."
            f"{did_you_mean(str(to), EARLIER)} Write it as metrics=[{{'drift': {{'to': 'baseline'}}}}]."
        )
    now = seen.earlier.now
    then: Tensor | None = getattr(seen.earlier, to)
    if now is None or then is None:
        return heat.new_full((len(heat),), torch.nan)
    return pairwise(now, then)
