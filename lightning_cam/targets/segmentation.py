"""Segmentation: a class over a region of its own map. b batch, k class, h w output."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.target import Pinned

Where = Literal["predicted", "label", "everywhere"] | Sequence[int] | Tensor


@TARGETS.register
def segment(
    output: Any, label: Tensor | None, *, of: int | None = None, where: Where = "predicted", background: int | None = 0
) -> Pinned:
    """Seg-Grad-CAM's target: the logits of a class, summed over a region, ``sum_(i,j) in M S_c(i, j)``.

    A sample in which the region is empty has no such target: its score and map are NaN, and the sheet leaves it out.

    Source: Vinogradova et al. 2020, arXiv 2002.11434.

    Args:
        output: logits [b k *m], such as [b k h w], or a dict that holds them as ``out`` (torchvision's).
        label: class ids of every place, [b *m], for ``where="label"``.
        of: the class; by default the one of most places in the region, other than the background.
        where: the region M: where the class is ``predicted``, where it is the ``label``, ``everywhere``, one place (y, x) of
            the output, or a mask [*m] or [b *m].
        background: the class that is never chosen by itself; None if there is none.

    Raises:
        ValueError: for an output or a region of another shape.
    """
    z = _dense(output)
    said = z.detach().argmax(1)
    ground = _ground(where, said, label)
    if of is None:
        c = _commonest(
            ground if isinstance(where, str) and where == "label" else said, _mask(where, said), background, z.shape[1]
        )
    elif 0 <= of < z.shape[1]:
        c = torch.full((len(z),), of, device=z.device)
    else:
        raise ValueError(f"segment(of={of}): the model has {z.shape[1]} classes, 0 to {z.shape[1] - 1}.")
    own = c.reshape(-1, *(1,) * said[0].ndim)
    region = ground == own if isinstance(where, str) and where != "everywhere" else _mask(where, said)

    def score(output: Any, c: Int[Tensor, "b"], region: Bool[Tensor, "b *m"]) -> Float[Tensor, "b"]:
        of_class = _dense(output)[torch.arange(len(c), device=c.device), c]
        return (of_class * region).flatten(1).sum(1)

    return Pinned(score, (c, region), c, ~region.flatten(1).any(1), placed=True)


def _dense(output: Any) -> Float[Tensor, "b k *m"]:
    z = output.get("out") if isinstance(output, Mapping) else output
    if not isinstance(z, Tensor) or z.ndim < 3:
        given = tuple(z.shape) if isinstance(z, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"The target 'segment' needs logits of every place, [b k h w]; the model gave {given}.")
    return z


def _ground(where: Where, said: Int[Tensor, "b *m"], label: Tensor | None) -> Int[Tensor, "b *m"]:
    """The classes by which the region is told."""
    if not isinstance(where, str) or where != "label":
        return said
    if label is None or label.shape != said.shape:
        given = "none" if label is None else f"{tuple(label.shape)}"
        raise ValueError(f"segment(where='label') needs class ids {tuple(said.shape)}; got {given}.")
    return label.to(said)


def _mask(where: Where, said: Int[Tensor, "b *m"]) -> Bool[Tensor, "b *m"]:
    """The region before any class is asked for."""
    sides = tuple(said.shape[1:])
    if isinstance(where, Tensor):
        mask = where.to(said.device).bool()
        if tuple(mask.shape[-len(sides) :]) != sides or mask.ndim > said.ndim:
            raise ValueError(f"segment(where=...): a mask is {sides} or {tuple(said.shape)}; got {tuple(where.shape)}.")
        return mask.expand(said.shape)
    if isinstance(where, str):
        if where not in ("predicted", "label", "everywhere"):
            raise ValueError(
                f"segment(where={where!r}): expected 'predicted', 'label', 'everywhere', a place (y, x) or a mask."
            )
        return torch.ones_like(said, dtype=torch.bool)
    place = tuple(where)
    if len(place) != len(sides) or not all(0 <= p < n for p, n in zip(place, sides, strict=True)):
        raise ValueError(f"segment(where={where!r}): expected a place in {sides}, the size of the output, as (y, x).")
    mask = torch.zeros_like(said, dtype=torch.bool)
    mask.movedim(0, -1)[place] = True
    return mask


def _commonest(ground: Int[Tensor, "b *m"], mask: Bool[Tensor, "b *m"], background: int | None, k: int) -> Int[Tensor, "b"]:
    """The class of most places in the mask; ids that are no class (an ignored 255) are not counted, nor is the background."""
    counted = mask & (ground >= 0) & (ground < k)
    votes = torch.zeros(len(ground), k, device=ground.device)
    votes.scatter_add_(1, ground.clamp(0, k - 1).flatten(1), counted.flatten(1).float())
    if background is not None and 0 <= background < k and k > 1:
        votes[:, background] = votes[:, background].clamp(max=0.5)  # taken only where nothing else is
    return votes.argmax(1)
