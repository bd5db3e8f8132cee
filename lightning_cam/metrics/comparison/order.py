"""Whether the cells come in the same order as before, whatever their values. b batch, m map, n its cells."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.metrics.comparison.pair import compare
from lightning_cam.registry import METRICS


@METRICS.register(range=(-1.0, 1.0), floor=0.0, cost="none")
def spearman(heat: Float[Tensor, "b *m"], seen: Seen, *, to: str = "baseline") -> Float[Tensor, "b"]:
    """Whether the cells are in the same order as at an earlier look: Spearman's rank correlation of the raw signed maps.

    Pearson's correlation of the ranks, tied cells at their mean rank, in [-1, 1]: 1 for the same order, -1 for its
    reverse; two unrelated maps give 0 in the mean, its floor. Any rising change of the values leaves it as it is. It
    is taken at layer resolution: enlarged maps have the same order on many more cells, which looks like certainty and
    is none. NaN at the first look, where either map is constant, and where the class explained was another.

    Source: Spearman 1904; of saliency maps Adebayo et al. 2018, section 3, arXiv 1810.03292.

    Args:
        heat: raw maps.
        seen: what one forward showed, and what came before.
        to: the ``baseline``, the ``previous`` look, or the ``best`` so far.

    Raises:
        ValueError: for another ``to``.
    """
    return compare(rank_correlation, heat, seen, to)


def top_share(seen: Seen, *, share: float = 0.2, to: str = "baseline") -> Float[Tensor, "b"]:
    """What ``top_iou`` scores for unrelated maps: ``q / (2 - q)`` for a share of q."""
    return seen.score.new_full((len(seen.score),), share / (2 - share))


@METRICS.register(range=(0.0, 1.0), floor=top_share, cost="none")
def top_iou(heat: Float[Tensor, "b *m"], seen: Seen, *, share: float = 0.2, to: str = "baseline") -> Float[Tensor, "b"]:
    """Whether the hottest cells are the same as at an earlier look: the intersection over union of both maps' top cells.

    ``sum min(T, T') / sum max(T, T')`` in [0, 1], where T is 1 at the top ``share`` of the cells, as far as they have
    positive evidence, and 0 elsewhere. Cells tied at the border have what is left of the share in equal parts, and so
    has the last cell where the share is no whole number of cells: no cell is preferred for its position. Of a share q
    unrelated maps have about ``q / (2 - q)`` in common, its floor, .111 for q = .2: random maps of few cells a little
    more (.116 at 7 x 7), maps with fewer positive cells than that less. NaN at the first look, where either map
    has no positive evidence, and where the class explained was another.

    Source: the top-k intersection of Ghorbani et al. 2019, section 3, arXiv 1710.10547, over the union (Jaccard 1901; of
    parts of cells Ruzicka 1958).

    Args:
        heat: raw maps.
        seen: what one forward showed, and what came before.
        share: of the cells that count as the top, above 0, at most 1.
        to: the ``baseline``, the ``previous`` look, or the ``best`` so far.

    Raises:
        ValueError: for another ``to``, and for a share that is none.
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"top_iou compares the top share of the cells, above 0 and at most 1; got share={share!r}. "
            "For the top fifth write metrics=[{'top_iou': {'share': 0.2}}]."
        )

    def overlap(now: Tensor, then: Tensor) -> Tensor:
        first, second = top_cells(now, share), top_cells(then, share)
        return torch.minimum(first, second).sum(1) / torch.maximum(first, second).sum(1)

    return compare(overlap, heat, seen, to)


def rank_correlation(now: Float[Tensor, "b *m"], then: Float[Tensor, "b *m"]) -> Float[Tensor, "b"]:
    """Spearman's rank correlation of each pair of maps; NaN where either is constant."""
    first, second = _centred_ranks(now), _centred_ranks(then)
    spread = first.square().sum(1).sqrt() * second.square().sum(1).sqrt()
    return ((first * second).sum(1) / spread).clamp(-1, 1)


def top_cells(heat: Float[Tensor, "b *m"], share: float) -> Float[Tensor, "b n"]:
    """How much of each cell belongs to the top share of its map, 0 to 1; NaN for a map without positive evidence.

    Example:
        >>> top_cells(torch.tensor([[5.0, 1.0, 1.0, -2.0], [3.0, 0.0, 0.0, 0.0]]), 0.5).tolist()
        [[1.0, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]]
    """
    positive = heat.flatten(1) > 0
    below, through = _counts(heat)
    n = below.shape[1]
    places = share * n - (n - through)  # what cells above leave of the share
    member = (places / (through - below)).clamp(0, 1)
    # zeros are no evidence: without this all of a sparse map's would be at the top, each in part
    return (member * positive).where(positive.any(1, keepdim=True), torch.nan)


def _centred_ranks(heat: Float[Tensor, "b *m"]) -> Float[Tensor, "b n"]:
    """Each cell's rank in its map less the mean rank, tied cells at the mean of theirs."""
    below, through = _counts(heat)
    return (below + through - below.shape[1]) / 2


def _counts(heat: Float[Tensor, "b *m"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """How many cells of its map are below each cell, and how many below or level with it; NaN for a map with any NaN."""
    flat = heat.flatten(1).contiguous()
    ordered = flat.sort(dim=1).values
    absent = flat.isnan().any(1, keepdim=True)
    below = torch.searchsorted(ordered, flat).to(flat.dtype)
    through = torch.searchsorted(ordered, flat, right=True).to(flat.dtype)
    return below.masked_fill(absent, torch.nan), through.masked_fill(absent, torch.nan)
