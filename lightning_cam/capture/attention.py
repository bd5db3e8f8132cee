"""Attention probabilities of every block, connected to the score: one further forward in which attention is written out.

b batch, t targets, h heads, n tokens, r tokens read, d channels of a head, u v patch grid.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_cam.capture.attention_recorder import AttentionRecorder, RecordedAttention
from lightning_cam.model.layout import Layout
from lightning_cam.model.trace import Call, layout_of_tokens

_WAY_OUT = "grad_cam at a layer of this model needs no attention."
_HALF_SCALE = 1024.0  # gradients in fp16 underflow; a power of two is exact to undo


@dataclass(frozen=True, eq=False)
class Attention:
    """Every attention over the image's tokens, and the scores that depend on them.

    Attributes:
        blocks: the attentions in the order in which they ran, with probabilities [b h n n].
        scores: of every sample and target, connected to the probabilities.
        head_input: what the last linear layer was given.
        layout: how tokens are read as a map.
        outputs: tokens by the name of the module that returned them, connected to the probabilities within it.
        modules: the modules that ran by their names.
        rerun: runs the model anew at the same images, and gives the scores.
    """

    blocks: tuple[RecordedAttention, ...]
    scores: Float[Tensor, "b t"]
    head_input: Tensor | None
    layout: Layout
    outputs: Mapping[str, Tensor]
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

    def read_tokens(self, position: int) -> Int[Tensor, "r"]:
        """Which tokens the score reads behind the last block: the class token, or those that are pooled.

        They are told by the gradient: behind the last attention no token meets another, so only rows that are read have one.
        """
        probability = self.blocks[-1].probability
        probes = [self.scores[:, position].sum()]
        if self.head_input is not None and self.head_input.ndim == 2:
            # a head fresh from zeros lets no gradient through, what it is given still tells
            probes.append(self.head_input.square().sum())
        for probe in probes:
            if probe.requires_grad:
                (gradient,) = _gradient(probe, [probability])
                rows = gradient.abs().amax((0, 1, 3)).nonzero()[:, 0]
                if len(rows):
                    return rows
        # nothing tells: the class token where there is one, else all
        count = 1 if self.layout.prefix else probability.shape[2]
        return torch.arange(count, device=probability.device)

    def to_map(self, tokens: Float[Tensor, "b n"]) -> Float[Tensor, "b u v"]:
        """A number for each token as a map; prefix tokens are left out."""
        maps: Tensor = tokens[:, self.layout.prefix :].unflatten(1, self.layout.grid)
        return maps

    def own_gradients(self, position: int) -> list[Tensor]:
        """For each block the gradient, by its attention, of the score of its own tokens, read as the last block's are.

        The model is run anew once a block, with every block made to return this block's tokens as they were recorded: what is
        computed is only what is behind the blocks, the norm, pooling and head, and it is applied to this block's tokens. They
        are still connected to the block's attention by the forward in which they were recorded.

        Raises:
            ValueError: if the blocks cannot be told apart by the modules around them.
        """
        names = _block_names(self.blocks, self.outputs)
        modules = [self.modules[name] for name in names]
        gradients: list[Tensor] = []
        for name, block in zip(names, self.blocks, strict=True):
            with _returning(modules, self.outputs[name]):
                score = self.rerun()[:, position]
            gradients += _gradient(score.sum(), [block.probability])
        return gradients


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
    names = {module: name for name, module in modules.items()}
    recorder = AttentionRecorder(image[0], names)
    with recorder.running():
        recorded_scores = rerun()
    if not near_scores(recorded_scores, scores):
        raise RuntimeError(
            "The model gave other scores in a second forward of the same images, so its attention would not explain the "
            "first: a random step in evaluation mode, or an attention that torch's own formula does not describe."
        )
    blocks, layout = _of_image(recorder.attentions, image, calls, layouts)
    return Attention(blocks, recorded_scores, recorder.head_input, layout, recorder.outputs, modules, rerun)


def _gradient(number: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    scale = 1.0
    if number.dtype == torch.float16:
        scale = _HALF_SCALE
        number = number.float() * scale
    gradients = torch.autograd.grad(number, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g / scale for x, g in zip(tensors, gradients, strict=True)]


def near_scores(recorded: Tensor, scores: Tensor) -> bool:
    """Whether scores are the same but for the rounding of attention written out."""
    tolerance = 0.05 if scores.dtype in (torch.float16, torch.bfloat16) else 1e-4
    largest = float(scores.abs().nan_to_num(0).amax().clamp(min=1))
    return bool(torch.isclose(recorded, scores, rtol=0, atol=tolerance * largest, equal_nan=True).all())


def _of_image(
    attentions: list[RecordedAttention], image: Sequence[int], calls: list[Call], layouts: Iterable[Layout]
) -> tuple[tuple[RecordedAttention, ...], Layout]:
    """Those over all tokens of the image; a text tower beside it is left aside, attention of another kind refused."""
    candidates = [
        attention
        for attention in attentions
        if attention.probability.ndim == 4 and len(attention.probability) == image[0] and _square(attention)
    ]
    for layout, n in _readings(candidates, image, calls, layouts):
        blocks = [attention for attention in candidates if attention.probability.shape[-1] == n]
        for attention in attentions:
            if attention not in blocks and _connected(attentions, attention, blocks[-1]):
                raise ValueError(_refused(attention))
        return tuple(blocks), layout
    if attentions:
        raise ValueError(_refused(attentions[0]))
    raise ValueError(
        "No attention was seen in this forward: the model has none, or a kernel of its own hides it. Let it use torch's "
        "scaled_dot_product_attention or write attention out (timm: fused_attn=False; Hugging Face: "
        f"attn_implementation='sdpa' or 'eager'). {_WAY_OUT}"
    )


def _square(attention: RecordedAttention) -> bool:
    return attention.probability.shape[-1] == attention.probability.shape[-2]


def _readings(
    candidates: list[RecordedAttention], image: Sequence[int], calls: list[Call], layouts: Iterable[Layout]
) -> list[tuple[Layout, int]]:
    """Numbers of tokens that fit the watched layers, then those that fit the patch embedding, each with its layout."""
    numbers = list(dict.fromkeys(attention.probability.shape[-1] for attention in candidates))
    readings = []
    for layout in layouts:
        if layout.prefix is not None:
            tokens = math.prod(layout.grid) + layout.prefix
            readings += [(layout, n) for n in numbers if n == tokens]
    for n in numbers:
        embedded = layout_of_tokens(n, image, calls)
        if embedded:
            readings.append((embedded, n))
    return readings


def _connected(attentions: list[RecordedAttention], other: RecordedAttention, last: RecordedAttention) -> bool:
    """Whether one attention feeds into another or is fed by it, so that both are part of the same tower."""
    early, late = sorted((other, last), key=attentions.index)
    (gradient,) = torch.autograd.grad(late.probability.sum(), early.probability, retain_graph=True, allow_unused=True)
    return gradient is not None


def _refused(attention: RecordedAttention) -> str:
    shape = tuple(attention.probability.shape)
    kind = "within windows, or over tokens whose number changes or does not fit the patch grid"
    if not _square(attention):
        kind = "from some tokens to others (cross attention, or a pooling by attention)"
    return (
        f"The attention in {attention.name!r} is {kind}: its probabilities have the shape {shape}; expected [b heads n n] over "
        f"all tokens of the image, in every block. {_WAY_OUT}"
    )


def _block_names(blocks: Sequence[RecordedAttention], outputs: Mapping[str, Tensor]) -> list[str]:
    """For each attention the outermost module that holds it alone and returns its tokens."""
    names = []
    for block in blocks:
        shared = {name for other in blocks if other is not block for name in other.modules}
        n = block.probability.shape[-1]
        own = [name for name in block.modules if name not in shared and name in outputs]
        fitting = [name for name in own if n in outputs[name].shape[:-1]]
        if not fitting:
            raise ValueError(
                f"le_grad reads each block's own tokens, and {block.name!r} is in no block of its own (called several times, "
                "or what holds it returns no tokens). Use attention_relevance."
            )
        names.append(fitting[0])
    return names


@contextmanager
def _returning(blocks: Iterable[nn.Module], tokens: Tensor) -> Iterator[None]:
    """Let every block return these tokens, so that only what is behind the blocks is computed from them."""
    # an instance's own forward hides that of its class; some models have one already, which comes back
    attributes = [vars(block) for block in blocks]
    before = [own.get("forward") for own in attributes]
    try:
        for own in attributes:
            own["forward"] = lambda *args, **kwargs: tokens
        yield
    finally:
        for own, forward in zip(attributes, before, strict=True):
            if forward is None:
                own.pop("forward", None)
            else:
                own["forward"] = forward
