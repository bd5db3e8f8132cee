"""Targets for embeddings: likeness to a reference that is frozen, so that it does not drift. b batch, e embedding."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.target import Pinned

Measure = Callable[[Float[Tensor, "b e"], Float[Tensor, "b e"]], Float[Tensor, "b"]]


class Frozen:
    """A target whose reference is given, or frozen at the first look and kept with the run.

    Attributes:
        reference: embeddings [e] or [b e]; None before the first look.
        measure: ``(embeddings, references) -> scores [b]``.
    """

    def __init__(self, measure: Measure, reference: Any = None) -> None:
        self.measure = measure
        self.reference: Tensor | None = None if reference is None else _plain(torch.as_tensor(reference))
        self.given = reference is not None
        self.__name__ = measure.__name__.strip("_")

    def __call__(self, output: Any, label: Tensor | None) -> Pinned:
        """The scores, by the frozen reference."""
        e = _embedding(output)
        if self.reference is None:
            self.reference = _plain(e)
        reference = self.reference.to(e)
        if reference.shape[-1] != e.shape[1] or (reference.ndim == 2 and len(reference) not in (1, len(e))):
            raise ValueError(
                f"The reference of {self.__name__!r} is {tuple(reference.shape)} and the embeddings are {tuple(e.shape)}; "
                "expected the same numbers of both. For other samples take anew() of this target, or one of its own."
            )
        return Pinned(lambda output, frozen: self.measure(_embedding(output), frozen), (reference.expand(e.shape),))

    def anew(self) -> "Frozen":
        """The same target for another run or other samples: a reference that was given stays, one that was frozen does not."""
        return Frozen(self.measure, self.reference if self.given else None)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold so that a resumed run goes on with the same reference."""
        return {"reference": self.reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the reference of the run that is resumed; one that was given stays."""
        if not self.given:
            self.reference = state["reference"]


@TARGETS.register
def similarity(*, reference: Any = None) -> Frozen:
    """Cosine with a reference, ``f . r / (|f| |r|)``: which places make the embedding like it.

    Give the reference: a text's embedding, a prototype, another picture's. One frozen at the first look is the sample's own
    embedding then; at that very look the cosine is at its maximum of 1, so its gradient and map are zero, and later maps show
    what moves back to it. For one that has a map from the start take ``projection``.

    Args:
        reference: embeddings [e] or [b e]; by default those of the first look.
    """
    return Frozen(_similarity, reference)


@TARGETS.register
def projection(*, reference: Any = None) -> Frozen:
    """Length along a reference, ``f . r / |r|``: like the cosine, but not blind at the look that freezes the reference.

    Args:
        reference: embeddings [e] or [b e]; by default those of the first look.
    """
    return Frozen(_projection, reference)


def _similarity(e: Float[Tensor, "b e"], r: Float[Tensor, "b e"]) -> Float[Tensor, "b"]:
    return torch.nn.functional.cosine_similarity(e, r, dim=1)


def _projection(e: Float[Tensor, "b e"], r: Float[Tensor, "b e"]) -> Float[Tensor, "b"]:
    return (e * torch.nn.functional.normalize(r, dim=1)).sum(1)


def _plain(e: Tensor) -> Tensor:
    """A copy that a checkpoint may hold, of single precision or better."""
    return e.detach().to("cpu", torch.promote_types(e.dtype, torch.float32), copy=True)


def _embedding(output: Any) -> Float[Tensor, "b e"]:
    if not isinstance(output, Tensor) or output.ndim != 2:
        given = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"Likeness needs embeddings [b e]; the model gave {given}. Name them with output=...")
    return output
