"""Targets for embeddings: likeness to a reference that is frozen, so that it does not drift. b batch, e embedding."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.logits import describe_shape
from lightning_cam.targets.target import Choice

Measure = Callable[[Float[Tensor, "b e"], Float[Tensor, "b e"]], Float[Tensor, "b"]]


class FrozenReference:
    """Likeness to a reference that was handed in, or is frozen at the first look and stays with the run.

    Attributes:
        measure: ``(embeddings, references) -> scores [b]``.
        reference: embeddings [e] or [b e]; None before the first look.
    """

    def __init__(self, measure: Measure, reference: Any = None) -> None:
        self.measure = measure
        self.handed_in = reference is not None
        self.reference: Tensor | None = None
        if reference is not None:
            self.reference = storable(torch.as_tensor(reference))
        self.__name__ = measure.__name__.strip("_")

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """The reference of each sample; at the first look the embeddings become it."""
        embedding = embeddings(output)
        if self.reference is None:
            self.reference = storable(embedding)
        reference = self.reference.to(embedding)
        # a single row serves every sample
        fits = reference.ndim == 1 or len(reference) in (1, len(embedding))
        if reference.shape[-1] != embedding.shape[1] or not fits:
            raise ValueError(
                f"The reference of {self.__name__!r} is {tuple(reference.shape)} and the embeddings are "
                f"{tuple(embedding.shape)}; expected the same numbers of both. For other samples take anew() of this target, "
                "or one of its own."
            )
        return Choice((reference.expand(embedding.shape),))

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b 1"]:
        """The likeness."""
        (reference,) = choice.parts
        return self.measure(embeddings(output), reference)[:, None]

    def anew(self) -> "FrozenReference":
        """The same target for another run or other samples: a reference handed in stays, one that was frozen does not."""
        if self.handed_in:
            return FrozenReference(self.measure, self.reference)
        return FrozenReference(self.measure)

    def for_part(self, samples: slice, count: int, labels: Tensor | None) -> "FrozenReference":
        """The references of some of the samples; what is not frozen yet the part freezes for itself, and ``join`` takes up."""
        reference = self.reference
        if reference is None:
            return self.anew()
        if reference.ndim == 1 or (self.handed_in and len(reference) == 1):
            return self
        if len(reference) != count:
            raise ValueError(
                f"The reference of {self.__name__!r} is {tuple(reference.shape)} and there are {count} samples; expected a row "
                "for each, or one for all."
            )
        return FrozenReference(self.measure, reference[samples])

    def join(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take up the references that parts of the samples froze."""
        references = [part["reference"] for part in states]
        if self.reference is None and all(reference is not None for reference in references):
            self.reference = torch.cat(references)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold so that a resumed run goes on with the same reference."""
        return {"reference": self.reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the reference of the run that is resumed; one that was handed in stays."""
        if not self.handed_in:
            # a run of another target has none to give
            self.reference = state.get("reference")


@TARGETS.register
def similarity(*, reference: Any = None) -> FrozenReference:
    """Cosine with a reference, ``f . r / (|f| |r|)``: which places make the embedding like it.

    Give the reference: a text's embedding, a prototype, another picture's. One frozen at the first look is the sample's own
    embedding then; at that very look the cosine is at its maximum of 1, so its gradient and map are zero, and later maps show
    what moves back to it. For one that has a map from the start take ``projection``.

    Args:
        reference: embeddings [e] or [b e]; by default those of the first look.
    """
    return FrozenReference(_similarity, reference)


@TARGETS.register
def projection(*, reference: Any = None) -> FrozenReference:
    """Length along a reference, ``f . r / |r|``: like the cosine, but not blind at the look that freezes the reference.

    Args:
        reference: embeddings [e] or [b e]; by default those of the first look.
    """
    return FrozenReference(_projection, reference)


def _similarity(e: Float[Tensor, "b e"], r: Float[Tensor, "b e"]) -> Float[Tensor, "b"]:
    cosine = F.cosine_similarity(e, r, dim=1)
    # the gradient is as long as unit vectors are apart: where they are the same but for rounding, it is nothing else
    apart = (F.normalize(e, dim=1) - F.normalize(r, dim=1)).norm(dim=1)
    return torch.where(apart <= 2 * torch.finfo(e.dtype).eps, cosine.detach(), cosine)


def _projection(e: Float[Tensor, "b e"], r: Float[Tensor, "b e"]) -> Float[Tensor, "b"]:
    return (e * F.normalize(r, dim=1)).sum(1)


def storable(e: Tensor) -> Tensor:
    """A copy that a checkpoint may hold, of single precision or better."""
    return e.detach().to("cpu", torch.promote_types(e.dtype, torch.float32), copy=True)


def embeddings(output: Any) -> Float[Tensor, "b e"]:
    """A model's output as embeddings.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = describe_shape(output)
        raise ValueError(f"Likeness needs embeddings [b e]; the model gave {shape}. Name them with output=...")
    return output
