"""Attention probabilities of every block, connected to the score: one further forward in which attention is written out.

b batch, t targets, h heads, n tokens, d channels of a head, u v patch grid.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_cam.capture.attention_recorder import Attended, AttentionRecorder
from lightning_cam.model.layout import Layout
from lightning_cam.model.trace import Call, layout_of_tokens

_INSTEAD = "grad_cam at a layer of this model needs no attention."


@dataclass(frozen=True, eq=False)
class Attention:
    """Every attention over the image's tokens, in the order in which they ran, and the scores that depend on them."""

    blocks: tuple[Attended, ...]
    scores: Float[Tensor, "b t"]
    head_input: Tensor | None  # what the last linear layer was given
    layout: Layout
    outputs: Mapping[str, Tensor]  # tokens, by the module that returned them
    modules: Mapping[str, nn.Module]
    rerun: Callable[[], Tensor]

    def gradient(self, position: int, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The score's gradient by each tensor; zero where it does not depend on one.

        Raises:
            ValueError: if the score is detached.
        """
        score = self.scores[:, position]
        if not score.requires_grad:
            raise ValueError("The score has no gradient: the target or the model's output is detached. Use attention_rollout.")
        return _gradient(score.sum(), tensors)

    def read(self, position: int) -> Int[Tensor, "r"]:
        """Which tokens the score reads behind the last block: the class token, or those that are pooled."""
        last, numbers = self.blocks[-1].probability, [self.scores[:, position].sum()]
        if self.head_input is not None and self.head_input.ndim == 2:  # a head fresh from zeros lets no gradient through
            numbers.append(self.head_input.square().sum())
        for number in numbers:
            if number.requires_grad:
                (gradient,) = _gradient(number, [last])
                rows = gradient.abs().amax((0, 1, 3)).nonzero()[:, 0]
                if len(rows):
                    return rows
        prefix = self.layout.prefix or 0
        return torch.arange(1 if prefix else last.shape[2], device=last.device)

    def to_map(self, tokens: Float[Tensor, "b n"]) -> Float[Tensor, "b u v"]:
        """A number for each token as a map; prefix tokens are left out."""
        maps: Tensor = tokens[:, self.layout.prefix :].unflatten(1, self.layout.grid)
        return maps

    def own_gradients(self, position: int) -> list[Tensor]:
        """For each block the gradient, by its attention, of the score of its own tokens, read as the last block's are.

        Raises:
            ValueError: if the blocks cannot be told apart by the modules around them.
        """
        names, found = _block_names(self.blocks, self.outputs), []
        for name, block in zip(names, self.blocks, strict=True):
            with _all_return([self.modules[each] for each in names], self.outputs[name]):
                score = self.rerun()[:, position]
            found += _gradient(score.sum(), [block.probability])
        return found


def attend(
    rerun: Callable[[], Tensor],
    scores: Float[Tensor, "b t"],
    image: Sequence[int],
    calls: list[Call],
    layouts: Iterable[Layout],
) -> Attention:
    """Run the model once more at the images of a look, with every attention written out.

    Nothing of torch is replaced: attention is met where it is called, in this thread and for the duration of the forward.

    Args:
        rerun: runs the model at the same images, recorded from its beginning, and gives the scores.
        scores: the scores of the look.
        image: the images' shape.
        calls: the calls of the look.
        layouts: how the watched layers are read as maps.

    Raises:
        ValueError: if the model has no attention over all tokens, or a kernel of its own hides it.
        RuntimeError: if the model did not give the same scores as before.
    """
    modules = {call.name: call.module for call in calls}
    recorder = AttentionRecorder(image[0], {module: name for name, module in modules.items()})
    with recorder.running():
        again = rerun()
    tolerance = 0.05 if scores.dtype in (torch.float16, torch.bfloat16) else 1e-4
    slack = tolerance * float(scores.abs().nan_to_num(0).amax().clamp(min=1))
    if not bool(torch.isclose(again, scores, rtol=0, atol=slack, equal_nan=True).all()):
        raise RuntimeError(
            "The model gave other scores in a second forward of the same images, so its attention would not explain the "
            "first: a random step in evaluation mode, or an attention that torch's own formula does not describe."
        )
    whole = [one for one in recorder.found if one.probability.ndim == 4 and len(one.probability) == image[0] and _square(one)]
    blocks, layout = _of_image(recorder.found, whole, _readings(whole, image, calls, layouts))
    return Attention(blocks, again, recorder.head_input, layout, recorder.outputs, modules, rerun)


def _gradient(number: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    scale = 1024.0 if number.dtype == torch.float16 else 1.0  # gradients in fp16 underflow; a power of two is exact to undo
    total = number.float() * scale if scale != 1.0 else number
    found = torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g / scale for t, g in zip(tensors, found, strict=True)]


def _square(one: Attended) -> bool:
    return one.probability.shape[-1] == one.probability.shape[-2]


def _readings(
    whole: list[Attended], image: Sequence[int], calls: list[Call], layouts: Iterable[Layout]
) -> list[tuple[Layout, int]]:
    """Numbers of tokens that fit the watched layers, then those that fit the patch embedding, each with its layout."""
    numbers = list(dict.fromkeys(one.probability.shape[-1] for one in whole))
    rows = [layout for layout in layouts if layout.prefix is not None]
    watched = [(layout, n) for layout in rows for n in numbers if math.prod(layout.grid) + (layout.prefix or 0) == n]
    return watched + [(layout, n) for n in numbers if (layout := layout_of_tokens(n, image, calls))]


def _of_image(
    found: list[Attended], whole: list[Attended], readings: Iterable[tuple[Layout, int]]
) -> tuple[tuple[Attended, ...], Layout]:
    """Those over all tokens of the image; a text tower beside it is left aside, attention of another kind refused."""
    for layout, n in readings:
        kept = [one for one in whole if one.probability.shape[-1] == n]
        for other in found:
            if other not in kept and _connected(found, other, kept):
                raise ValueError(_refused(other))
        return tuple(kept), layout
    if found:
        raise ValueError(_refused(found[0]))
    raise ValueError(
        "No attention was seen in this forward: the model has none, or a kernel of its own hides it. Let it use torch's "
        "scaled_dot_product_attention or write attention out (timm: fused_attn=False; Hugging Face: "
        f"attn_implementation='sdpa' or 'eager'). {_INSTEAD}"
    )


def _connected(found: list[Attended], other: Attended, kept: list[Attended]) -> bool:
    """Whether one attention feeds into the others or they into it, so that it is part of the same tower."""
    early, late = (other, kept[-1]) if found.index(other) < found.index(kept[-1]) else (kept[-1], other)
    (gradient,) = torch.autograd.grad(late.probability.sum(), early.probability, retain_graph=True, allow_unused=True)
    return gradient is not None


def _refused(one: Attended) -> str:
    shape = tuple(one.probability.shape)
    if not _square(one):
        kind = "from some tokens to others (cross attention, or a pooling by attention)"
    else:
        kind = "within windows, or over tokens whose number changes or does not fit the patch grid"
    return (
        f"The attention in {one.name!r} is {kind}: its probabilities have the shape {shape}; expected [b heads n n] over all "
        f"tokens of the image, in every block. {_INSTEAD}"
    )


def _block_names(blocks: Sequence[Attended], outputs: Mapping[str, Tensor]) -> list[str]:
    """For each attention the outermost module that holds it alone and returns its tokens."""
    names = []
    for one in blocks:
        others = {name for other in blocks if other is not one for name in other.within}
        n = one.probability.shape[-1]
        fit = [name for name in one.within if name not in others and name in outputs and n in outputs[name].shape[:-1]]
        if not fit:
            raise ValueError(
                f"le_grad reads each block's own tokens, and {one.name!r} is in no block of its own (called several times, "
                "or what holds it returns no tokens). Use attention_relevance."
            )
        names.append(fit[0])
    return names


@contextmanager
def _all_return(blocks: Iterable[nn.Module], tokens: Tensor) -> Iterator[None]:
    """Let every block return these tokens, so that only what is behind the blocks is computed from them."""
    held = [vars(block) for block in blocks]
    before = [own.get("forward") for own in held]
    try:
        for own in held:
            own["forward"] = lambda *args, **kwargs: tokens
        yield
    finally:
        for own, forward in zip(held, before, strict=True):
            own.pop("forward", None) if forward is None else own.update(forward=forward)
