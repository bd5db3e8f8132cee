"""Deep feature factorization: the few concepts of which a layer's activations on a batch are made.

b batch, k concepts, c channels, m map, n places of all samples, y classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from lightning_cam import render
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.data.class_names import class_name
from lightning_cam.figures.concept_sheet import Legend, concept_sheet
from lightning_cam.model.merged import merged_weight
from lightning_cam.model.output import Output
from lightning_cam.render.style import Style

_STEPS_BETWEEN_CHECKS = 10  # of the error, which the host can read only once the device is done


@dataclass(frozen=True, eq=False)
class Concepts:
    """The concepts of a batch, strongest first: ``ReLU(A) ~ sum_k maps_k vectors_k``.

    Attributes:
        maps: how strong each concept is at each place, >= 0, in units of the activation; comparable between images.
        vectors: each concept's channels, >= 0, of length 1.
        scores: what one unit of a concept adds to each class at a place, where the head is linear. After global average
            pooling ``sum_k mean(maps_k) scores_k`` is the logit less its bias, but for the error. None for other heads.
        error: what the concepts leave unexplained, ``|A - maps vectors| / |A|``, 0 to 1.
        layer: the layer's name.
        images: the input.
    """

    maps: Float[Tensor, "b k *m"]
    vectors: Float[Tensor, "k c"]
    scores: Float[Tensor, "k y"] | None
    error: float
    layer: str
    images: Shaped[Tensor, "b ..."]

    @property
    def shares(self) -> Float[Tensor, "b k *m"]:
        """The maps over each concept's maximum in the batch: 0 to 1."""
        dims = [d for d in range(self.maps.ndim) if d != 1]
        peak = self.maps.amax(dims, keepdim=True)
        return self.maps / peak.where(peak > 0, 1)

    def first(self, n: int | None) -> "Concepts":
        """The same concepts in the first n images alone; in all without a number."""
        if n is None or n >= len(self.images):
            return self
        return replace(self, maps=self.maps[:n], images=self.images[:n])

    def picture(
        self,
        style: Style | None = None,
        names: Sequence[str] | None = None,
        classes: Mapping[int, str] = MappingProxyType({}),
        when: str = "",
    ) -> UInt8[Tensor, "3 height width"]:
        """Every image beside its concepts, each in its colour, over a legend.

        Args:
            style: size, font and normalisation; a concept's colours are fixed.
            names: the images' names.
            classes: class names, with which the legend tells the classes that a concept adds to most, where the head is linear.
            when: the moment of a run, for the header.

        Raises:
            ValueError: for images of other than two sides.
        """
        if self.images.ndim != 4:
            raise ValueError(f"Concepts are drawn on pictures [b c h w]; these are {tuple(self.images.shape)}.")
        if style is None:
            style = Style()
        legend = [", ".join(names_of_classes) for names_of_classes in self._best(classes)]
        base = render.to_rgb(self.images, style.normalization, style.bands)
        weight = self.maps.flatten(2).sum(2)
        parts = (weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)).tolist()
        under = f"deep feature factorization of {len(base)} images, {100 * (1 - self.error**2):.0f}% of the activation's energy"
        if when:
            under = f"{when} · {under}"
        if not names:
            names = [f"image {i}" for i in range(len(base))]
        title = f"{len(self.vectors)} concepts at {self.layer}", under
        return concept_sheet(base, self.shares, Legend(names, legend, parts), title, style)

    def _best(self, classes: Mapping[int, str], most: int = 3) -> list[list[str]]:
        """The names of the classes that each concept adds to most; none where the head is not linear."""
        if self.scores is None:
            return [[] for _ in self.vectors]
        count = min(most, self.scores.shape[1])
        best = self.scores.topk(count, dim=1).indices.tolist()
        return [[class_name(c, classes) for c in row] for row in best]


def factorize(
    model: nn.Module,
    images: Shaped[Tensor, "b ..."],
    *,
    concepts: int = 4,
    layer: str | nn.Module | None = None,
    output: Output = None,
    seed: int = 0,
) -> Concepts:
    """Find the concepts that a layer sees in a batch. The model is left as it was.

    ``ReLU(A) ~ W H``, A with a row a place of all samples and a column a channel, W and H non-negative: W gives the maps, H the
    vectors. One forward without gradient, and some hundred products of these matrices on the model's device.

    Source: Collins, Achanta & Süsstrunk 2018, arXiv 1806.10206.

    Args:
        model: any module; looked at in evaluation mode.
        images: a batch, prepared as the model expects it.
        concepts: how many; a handful, few more than the kinds of things in the batch.
        layer: dotted name or module; by default the last module that returns a map.
        output: where the logits are in the model's output.
        seed: of the factorization's first guess; the same seed gives the same concepts.

    Raises:
        ValueError: for a layer that has no map, or more concepts than places or channels.

    Example:
        >>> factorize(squeezenet1_0(), torch.rand(8, 3, 96, 96), concepts=5).maps.shape
        torch.Size([8, 5, 5, 5])
    """
    layers = [] if layer is None else [layer]
    weight = next(model.parameters(), None)
    if weight is not None:
        images = images.to(weight.device)
    with open_session(model, layers, images, output=output) as session:
        forward = session.activations(images)
        return concepts_of(Seen(forward, session.layers[0]), concepts, seed)


def concepts_of(
    seen: Seen,
    concepts: int = 4,
    seed: int = 0,
    start: Float[Tensor, "k c"] | None = None,
) -> Concepts:
    """The concepts in what one forward showed at one layer; from vectors to start with, which keep their order."""
    a = seen.activation.relu()
    rows = a.movedim(1, -1).flatten(0, -2)
    w, h = nmf(rows, concepts, seed=seed, start=start)
    error = float((rows - w @ h).norm() / rows.norm().clamp(min=torch.finfo(rows.dtype).tiny))
    maps = w.reshape(len(a), *a.shape[2:], concepts).movedim(-1, 1)
    return Concepts(maps, h, _scores(seen, h), error, seen.layer, seen.forward.pictures)


def nmf(
    values: Float[Tensor, "n c"],
    concepts: int,
    *,
    steps: int = 1000,
    tolerance: float = 1e-5,
    seed: int = 0,
    start: Float[Tensor, "k c"] | None = None,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "k c"]]:
    """Non-negative factors W, H of non-negative values, least squares, by multiplicative updates.

    The rows of H have length 1 and come in the order of their part in the values, largest first. It stops when ten steps
    lower the relative error by less than the tolerance. Global random states are left alone.

    Source: Lee & Seung 2001 (NIPS), eq. 4.

    Args:
        values: >= 0.
        concepts: columns of W and rows of H.
        steps: at most this many updates of both.
        tolerance: of the relative error.
        seed: of the first guess.
        start: the H to begin with, whose rows then keep their order.

    Returns:
        W, in units of the values, and H, of no unit; both >= 0.

    Raises:
        ValueError: for negative values, or more concepts than rows or columns.

    Example:
        >>> w, h = nmf(torch.ones(6, 4), concepts=1)
        >>> torch.allclose(w @ h, torch.ones(6, 4))
        True
    """
    if not 1 <= concepts <= min(values.shape):
        raise ValueError(
            f"concepts={concepts!r}: expected 1 to {min(values.shape)}, for {len(values)} places and "
            f"{values.shape[1]} channels."
        )
    if bool((values < 0).any()):
        raise ValueError("Non-negative factorization needs values >= 0; rectify them first.")
    largest = values.amax()
    v = values / largest.where(largest > 0, 1)  # eps below is then small against every entry that matters
    eps = torch.finfo(v.dtype).eps
    w, h = _first_guess(v, concepts, seed)
    if start is not None:
        h = start.to(v) + eps  # an entry of zero would stay one
        for _ in range(_STEPS_BETWEEN_CHECKS):  # W finds its place before H moves
            w = w * (v @ h.T) / (w @ (h @ h.T) + eps)
    size = v.norm().clamp(min=torch.finfo(v.dtype).tiny)
    last_error = torch.inf
    for step in range(1, steps + 1):
        h = h * (w.T @ v) / (w.T @ w @ h + eps)
        w = w * (v @ h.T) / (w @ (h @ h.T) + eps)
        if step % _STEPS_BETWEEN_CHECKS == 0:
            error = float((v - w @ h).norm() / size)
            if last_error - error < tolerance:
                break
            last_error = error
    length = h.norm(dim=1)
    w = w * length * largest
    h = h / length.where(length > 0, 1)[:, None]
    if start is not None:
        return w, h
    order = w.norm(dim=0).argsort(descending=True, stable=True)
    return w[:, order], h[order]


def _first_guess(v: Float[Tensor, "n c"], concepts: int, seed: int) -> tuple[Float[Tensor, "n k"], Float[Tensor, "k c"]]:
    """Random factors, whose product is about as large as the values."""
    # drawn on the CPU in double precision, so that every device and precision begins alike
    generator = torch.Generator().manual_seed(seed)
    w = torch.rand((len(v), concepts), generator=generator, dtype=torch.float64)
    h = torch.rand((concepts, v.shape[1]), generator=generator, dtype=torch.float64)
    scale = (v.mean() / concepts).sqrt()
    return scale * w.to(v), scale * h.to(v)


def _scores(seen: Seen, vectors: Float[Tensor, "k c"]) -> Float[Tensor, "k y"] | None:
    """What one unit of each concept adds to each class, if the head is linear in the layer's channels."""
    if seen.head is None:
        return None
    if not isinstance(seen.head.layer, nn.Linear | nn.Conv2d):
        return None
    try:
        weight = merged_weight(seen.head.module).flatten(1).to(vectors.dtype)
    except ValueError:  # packed by a quantisation, or under an adapter that is no LoRA: concepts need no scores
        return None
    if weight.shape[1] != vectors.shape[1]:
        return None
    return vectors @ weight.T
