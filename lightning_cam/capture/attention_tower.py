"""Which of a forward's attentions are the image's: its blocks, and the pooling behind them. b batch, h heads, n tokens."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_cam.capture.attention_pooling import WAY_OUT, Readout, make_readout
from lightning_cam.capture.attention_recorder import AttentionRecorder, RecordedAttention
from lightning_cam.model.layout import Layout
from lightning_cam.model.trace import Calls, layout_of_tokens


@dataclass(frozen=True, eq=False)
class Tower:
    """The attentions over the image's tokens.

    Attributes:
        blocks: those of all tokens to all, [b h n n], with a residual stream beside them; none where convolutions are pooled.
        readout: the pooling by attention behind them; None where a class token or a mean is read.
        layout: how the blocks' tokens are read as a map, or without blocks the readout's keys.
    """

    blocks: tuple[RecordedAttention, ...]
    readout: Readout | None
    layout: Layout


@dataclass(frozen=True, eq=False)
class Recording:
    """A forward in which attention was recorded.

    Attributes:
        recorder: what was recorded.
        scores: the scores, connected to it.
        calls: the calls of the forward.
        reads_beside: whether the scores depend on the image other than through an attention; runs the model twice.
    """

    recorder: AttentionRecorder
    scores: Tensor
    calls: Calls
    reads_beside: Callable[[RecordedAttention], bool]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules that ran by their names."""
        return {call.name: call.module for call in self.calls}

    def others_of(self, last: RecordedAttention, blocks: list[RecordedAttention]) -> list[RecordedAttention]:
        """What else belongs to the tower of blocks: the scores read it, and it feeds the last one or is fed by it."""
        attentions = self.recorder.attentions
        place = attentions.index(last)
        related = [a for a in _feeding(attentions[:place], [last.probability]) if a not in blocks]
        if last not in blocks:
            related.append(last)
        later = attentions[place + 1 :]
        # most often it feeds none of them, which a single backward tells
        if later and _feeding([last], [a.probability for a in later]):
            related += [a for a in later if _feeding([last], [a.probability])]
        return _feeding(related, [self.scores])


def find_tower(recording: Recording, image: Sequence[int], layouts: Iterable[Layout]) -> Tower:
    """The attentions over all tokens of the image; a text tower beside it is left aside, attention of another kind refused.

    Args:
        recording: the forward.
        image: the images' shape.
        layouts: how the watched layers are read as maps.

    Raises:
        ValueError: if there is none, or they cannot be read as blocks and one pooling behind them.
    """
    attentions = recording.recorder.attentions
    fitting = [a for a in attentions if a.probability.ndim == 4 and len(a.probability) == image[0]]
    refusals = []
    for layout, n in _readings(fitting, image, recording.calls, layouts):
        over_tokens = [attention for attention in fitting if attention.probability.shape[-1] == n]
        blocks = [attention for attention in over_tokens if is_square(attention)]
        try:
            return _as_tower(recording, blocks, (blocks or over_tokens)[-1], layout)
        except ValueError as refusal:
            refusals.append((not blocks, refusal))
    if refusals:
        # what is wrong behind blocks says more than that there are none over so many tokens
        raise min(refusals, key=lambda pair: pair[0])[1]
    if attentions:
        raise ValueError(_refused(attentions))
    raise ValueError(
        "No attention was seen in this forward: the model has none, or a kernel of its own hides it. Let it use torch's "
        "scaled_dot_product_attention or write attention out (timm: fused_attn=False; Hugging Face: "
        f"attn_implementation='sdpa' or 'eager'). {WAY_OUT}"
    )


def _as_tower(recording: Recording, blocks: list[RecordedAttention], last: RecordedAttention, layout: Layout) -> Tower:
    """Blocks, of which the last is given, or without blocks the one that pools, as a tower if nothing else belongs to it."""
    attentions = recording.recorder.attentions
    others = recording.others_of(last, blocks)
    if not blocks and not others:
        raise ValueError(_refused([last]))
    if not others:
        pooling = _pooling_over_all(blocks, recording)
        if pooling is None or recording.reads_beside(pooling):
            return Tower(tuple(blocks), None, layout)
        blocks.remove(pooling)
        return Tower(tuple(blocks), Readout(pooling, layout), layout)
    behind = attentions.index(others[0]) >= attentions.index(last)
    if len(others) > 1 or not behind or not _same_batch(others[0], last) or recording.reads_beside(others[0]):
        raise ValueError(_refused(others))
    return Tower(tuple(blocks), make_readout(others[0], layout, recording.modules.get(others[0].name)), layout)


def _same_batch(a: RecordedAttention, b: RecordedAttention) -> bool:
    return a.probability.ndim == b.probability.ndim and len(a.probability) == len(b.probability)


def is_square(attention: RecordedAttention) -> bool:
    """Whether tokens attend to as many."""
    return attention.probability.shape[-1] == attention.probability.shape[-2]


def holders(block: RecordedAttention, others: Iterable[RecordedAttention]) -> list[str]:
    """The modules that hold an attention and none of the others, outermost first."""
    shared = {name for other in others if other is not block for name in other.modules}
    return [name for name in block.modules if name not in shared]


def returns_tokens(name: str, block: RecordedAttention, outputs: Mapping[str, Tensor]) -> bool:
    """Whether a module returned as many tokens as the attention in it is over; a softmax returned probabilities."""
    n = block.probability.shape[-1]
    output = outputs.get(name)
    if output is None or output.ndim < 3 or n not in output.shape[:-1]:
        return False
    return output.shape[-1] != n or output.numel() != block.probability.numel()


def _readings(
    fitting: list[RecordedAttention], image: Sequence[int], calls: Calls, layouts: Iterable[Layout]
) -> list[tuple[Layout, int]]:
    """Numbers of tokens that fit the watched layers, the patch embedding or a map of convolutions, each with its layout."""
    numbers = list(dict.fromkeys(attention.probability.shape[-1] for attention in fitting))
    readings = []
    for layout in layouts:
        readings += _of_layout(layout, numbers)
    for n in numbers:
        embedded = layout_of_tokens(n, image, calls)
        if embedded:
            readings.append((embedded, n))
    for call in reversed(calls):
        if call.layout is not None and call.layout.prefix is None:
            readings += _of_layout(call.layout, numbers)
    return list(dict.fromkeys(readings))


def _of_layout(layout: Layout, numbers: list[int]) -> list[tuple[Layout, int]]:
    cells = math.prod(layout.grid)
    if layout.prefix is not None:
        return [(layout, n) for n in numbers if n == cells + layout.extra]
    # the cells of a map as tokens, alone or behind their mean or a class token
    return [(replace(layout, batch=0, channel=2, prefix=n - cells), n) for n in numbers if n - cells in (0, 1)]


def _feeding(early: list[RecordedAttention], late: list[Tensor]) -> list[RecordedAttention]:
    """Those of the attentions on which any of the tensors depends; all where they have no gradient to tell."""
    if not early or not late[0].requires_grad:
        return early
    probabilities = [attention.probability for attention in early]
    sums = [tensor.sum() for tensor in late]
    gradients = torch.autograd.grad(sums, probabilities, retain_graph=True, allow_unused=True)
    return [attention for attention, gradient in zip(early, gradients, strict=True) if gradient is not None]


def _pooling_over_all(blocks: list[RecordedAttention], recording: Recording) -> RecordedAttention | None:
    """The last attention, if it may be no block but a pooling in which all tokens attend and only some are read.

    A block returns all tokens, and is a module of the same class as the one before it.
    """
    last = blocks[-1]
    own = [name for name in holders(last, blocks) if returns_tokens(name, last, recording.recorder.outputs)]
    if not own:
        return last
    if len(blocks) == 1:
        # what leads past a first block need not tell images apart: a class token is the same for all
        return None
    outermost = [holders(block, blocks)[:1] for block in blocks[-2:]]
    kinds = [type(recording.modules[name]) for names in outermost for name in names]
    if len(kinds) == 2 and kinds[0] is kinds[1] and own[0] in outermost[1]:
        return None
    return last


def _refused(attentions: Sequence[RecordedAttention]) -> str:
    # of several, cross attention says more of the model than the blocks beside it
    attention = next((a for a in attentions if not is_square(a)), attentions[0])
    shape = tuple(attention.probability.shape)
    kind = "within windows, or over tokens whose number changes or does not fit the patch grid"
    if not is_square(attention):
        kind = "from some tokens to others (cross attention), and not the one pooling by which alone the score reads tokens"
    return (
        f"The attention in {attention.name!r} is {kind}: its probabilities have the shape {shape}; expected [b heads n n] over "
        f"all tokens of the image, in every block, and at most one pooling of them. {WAY_OUT}"
    )
