"""Optimal transport on a grid, exactly: the least work that brings one map's mass to another's. b batch, n cells, a arcs.

What two maps have in common stays where it is, since distances obey the triangle inequality, so only the difference
is moved. The simplex method for networks keeps for each sample a tree of arcs that joins all cells and carries the
flow, puts in the arc that saves most and takes out the one whose flow that ends, until none saves anything: all
samples at once, as rows of tensors.

A tree is kept as the inverse of its incidence matrix, whose entries are -1, 0 and 1 and stay exact: the row of an arc
tells the cells that it cuts off from the root, by the direction in which it carries. Its ``price`` of a cell is
Kantorovich's potential, the work of bringing a unit from there to the root along the tree: once no
source and sink differ by more than their distance, it proves the flow to be the least.

Source: Dantzig 1951; Ahuja, Magnanti & Orlin 1993, Network Flows, chapter 11.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_SAMPLES = 16  # at once: at 1024 cells they take some 100 MiB
_ROUNDS = 2  # a cell: where several flows are equal, arcs may in theory come and go forever; half a round has sufficed
_GAIN = 1e-12  # of the diagonal: what an arc must save at least


def positions(sides: Sequence[int]) -> Float[Tensor, "n d"]:
    """The place of each cell of a grid, in cells, in the order of ``flatten``.

    Example:
        >>> positions((2, 2)).tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    axes = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) for side in sides], indexing="ij")
    return torch.stack(axes, -1).flatten(0, -2)


def least_work(moved: Float[Tensor, "b n"], sides: Sequence[int]) -> Float[Tensor, "b"]:
    """The least sum of mass times Euclidean distance, in cells, that evens out each sample's surplus; NaN where it has NaN.

    Args:
        moved: the surplus of each cell, whose sum is 0: one map's shares less the other's.
        sides: of the grid.

    Example:
        >>> least_work(torch.tensor([[1.0, 0.0, 0.0, -1.0]]), (2, 2)).tolist()
        [1.4142135381698608]
    """
    # Apple's devices know no double precision
    home = torch.device("cpu") if moved.device.type == "mps" else moved.device
    surplus = moved.to(home, torch.float64)
    places = positions(sides).to(home)
    return torch.cat([_solve(samples, places) for samples in surplus.split(_SAMPLES)]).to(moved)


@dataclass(eq=False)
class _Tree:
    """For each sample a tree of arcs, the flow on them, and the price of each cell; changed in place.

    Attributes:
        cut: of each arc, 1 at the cells it cuts off from the root if it carries out of them, -1 if into them, else 0.
        flow: on each arc, infinite in the row of the root, which has none.
        price: of each cell.
    """

    cut: Int[Tensor, "b a n"]
    flow: Float[Tensor, "b a"]
    price: Float[Tensor, "b n"]

    def put_in(self, source: Int[Tensor, "b"], sink: Int[Tensor, "b"], gain: Float[Tensor, "b"]) -> None:
        """Let an arc from source to sink take over what it can, in place of the first that it empties; none without a gain."""
        saves = gain > 0
        rows = torch.arange(len(gain), device=gain.device)
        # what each arc is relieved of by a unit that goes directly: not 0 along the cycle that is closed
        relief = (self.cut[rows, :, source] - self.cut[rows, :, sink]) * saves[:, None]
        amount, emptied = self.flow.where(relief > 0, torch.inf).min(1)
        amount = amount.where(saves, 0)
        self.flow -= amount[:, None] * relief
        self.flow[rows, emptied] = amount.where(saves, self.flow[rows, emptied])
        # the new arc takes the row of the emptied one: it joins what that cut off
        cut_off = self.cut[rows, emptied]
        self.price -= gain[:, None] * cut_off
        relief[rows, emptied] = 0
        samples, arcs = relief.nonzero(as_tuple=True)
        self.cut[samples, arcs] -= relief[samples, arcs, None] * cut_off[samples]


def _solve(surplus: Float[Tensor, "b n"], places: Float[Tensor, "n d"]) -> Float[Tensor, "b"]:
    distance = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
    least = _GAIN * distance.max()
    sources, sinks = _ends(surplus)
    cost = distance[sources[:, :, None], sinks[:, None, :]]
    tree = _comb(surplus, places)
    unsettled = torch.ones_like(surplus[:, 0], dtype=torch.bool)
    for _ in range(1 + _ROUNDS * surplus.shape[1]):
        # of each source the sink that saves most; several of these arcs are put in before all are looked at once more
        nearest = (tree.price.gather(1, sinks)[:, None] + cost).argmin(2)
        length = cost.gather(2, nearest[:, :, None])[:, :, 0]
        unsettled = _improve(tree, sources, sinks.gather(1, nearest), length, least)
        if not unsettled.any():
            break
    return (tree.price * surplus).sum(1).masked_fill(unsettled, torch.nan)


def _improve(
    tree: _Tree, sources: Int[Tensor, "b k"], sinks: Int[Tensor, "b k"], length: Float[Tensor, "b k"], least: Float[Tensor, ""]
) -> Bool[Tensor, "b"]:
    """Put in these arcs, the best first, until none saves anything; whether any did."""
    improved = torch.zeros(len(sources), dtype=torch.bool, device=sources.device)
    for _ in range(length.shape[1]):
        gain, arc = (tree.price.gather(1, sources) - tree.price.gather(1, sinks) - length).max(1)
        saves = gain > least
        if not saves.any():
            break
        improved |= saves
        arc = arc[:, None]
        tree.put_in(sources.gather(1, arc)[:, 0], sinks.gather(1, arc)[:, 0], gain.where(saves, 0))
    return improved


def _ends(surplus: Float[Tensor, "b n"]) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b l"]]:
    """The cells that have too much and those that have too little, filled up with others to as many in every sample."""
    order = surplus.argsort(1, descending=True)
    most_sources = int((surplus > 0).sum(1).max())
    most_sinks = int((surplus < 0).sum(1).max())
    return order[:, : max(most_sources, 1)], order[:, -max(most_sinks, 1) :]


def _comb(surplus: Float[Tensor, "b n"], places: Float[Tensor, "n d"]) -> _Tree:
    """A first tree: each cell joined to the next towards the middle along its last side that is off it.

    Over one side it is the line, and its flow the least already: the difference of the cumulative sums.
    """
    sides = places.shape[1]
    off = places - (places.amax(0) / 2).floor()
    axis = torch.arange(sides, device=places.device)
    last = axis.where(off != 0, -1).amax(1)[:, None, None]
    level = places[:, None] == places
    beyond = (places - places[:, None]) * off.sign()[:, None] >= 0
    # behind an arc are the cells of the same line farther out, with all that is joined to them
    behind = (level | (axis >= last)) & (beyond | (axis != last))
    behind = (behind.all(2) & (last[:, :, 0] >= 0)).double()
    carried = surplus @ behind.T
    # an arc that carries nothing has a direction too, or it would be none of the tree's
    carries = torch.where(carried < 0, -1, 1).to(torch.int8)
    cut = carries[:, :, None] * behind.to(torch.int8)
    flow = carried.abs().masked_fill(last[:, 0, 0] < 0, torch.inf)
    return _Tree(cut, flow, cut.sum(1, dtype=torch.float64))
