"""How far the whole map turned, evidence for and against alike. b batch, m map, n its cells."""

from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.metrics.comparison.pair import compare
from lightning_cam.metrics.shape import unit_maximum
from lightning_cam.registry import METRICS


@METRICS.register(range=(0.0, 2.0), cost="none")
def drift(heat: Float[Tensor, "b *m"], seen: Seen, *, to: str = "baseline") -> Float[Tensor, "b"]:
    """How far the map has moved since an earlier look of the run: the cosine distance of the raw signed maps.

    ``1 - M . M' / (|M| |M'|)`` in [0, 2]: 0 for the same map at any strength, 1 for maps without a cell in common, 2
    for the same map with its sign turned. NaN at the first look, where either map is zero, and where the class
    explained was another.

    Of all distances here it is the default because it needs no choice: it reads every cell with its sign, where
    shares and ranks leave out evidence against the class or how large any of it is; strength, a curve of its own,
    does not enter; it has a value wherever a map has one, on grids of any size and number of sides, and costs
    nothing. It does not tell near from far: a narrow peak one cell further is as far as one across the image, which
    is what ``centre_shift`` and ``wasserstein`` are for.

    Source: explanations of a fixed probe set followed over fine-tuning, and their drift, as Dhayalkar 2026, arXiv
    2601.11625, of text classifiers; the cosine of maps between checkpoints as in 2604.08513 and others before.

    Args:
        heat: raw maps.
        seen: what one forward showed, and what came before.
        to: the ``baseline``, the ``previous`` look, or the ``best`` so far.

    Raises:
        ValueError: for another ``to``.
    """
    return compare(cosine_distance, heat, seen, to)


@METRICS.register(range=(-1.0, 1.0), cost="none")
def cosine(heat: Float[Tensor, "b *m"], seen: Seen, *, to: str = "baseline") -> Float[Tensor, "b"]:
    """How alike the raw signed maps of two looks are in direction: their cosine.

    ``M . M' / (|M| |M'|)`` in [-1, 1], 1 for the same map at any strength: ``1 - drift``. NaN as there.

    Source: as ``drift``.

    Args:
        heat: raw maps.
        seen: what one forward showed, and what came before.
        to: the ``baseline``, the ``previous`` look, or the ``best`` so far.

    Raises:
        ValueError: for another ``to``.
    """
    return 1 - compare(cosine_distance, heat, seen, to)


def cosine_distance(now: Float[Tensor, "b *m"], then: Float[Tensor, "b *m"]) -> Float[Tensor, "b"]:
    """One minus the cosine of each pair of maps, 0 to 2.

    It is half the squared distance of the two as unit vectors: the same number, but exactly 0 for equal maps, and of
    small drifts no digit is lost to the difference from 1.

    Example:
        >>> cosine_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0]])).tolist()
        [1.0]
    """
    between = _unit(now) - _unit(then)
    return (between.square().sum(1) / 2).clamp(max=2)


def _unit(heat: Float[Tensor, "b *m"]) -> Float[Tensor, "b n"]:
    """Each map as a vector of length 1; NaN for a map of zeros."""
    flat = unit_maximum(heat)
    return flat / flat.square().sum(1, keepdim=True).sqrt()
