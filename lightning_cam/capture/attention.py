"""Attention probabilities of every block, connected to the score: one further forward in which attention is written out.

b batch, t targets, h heads, n tokens, q probes of a pooling, k its keys, r rows read, d channels of a head, u v patch grid.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from lightning_cam.capture.attention_pooling import Readout, Runs, reads_beside
from lightning_cam.capture.attention_recorder import AttentionRecorder, RecordedAttention
from lightning_cam.capture.attention_tower import Recording, Tower, find_tower, holders, is_square, returns_tokens
from lightning_cam.capture.gradient import at_least_float, scaled_gradients
from lightning_cam.model.layout import Layout
from lightning_cam.model.trace import Calls


@dataclass(frozen=True, eq=False)
class Attention:
    """Every attention over the image's tokens, and the scores that depend on them.

    Attributes:
        tower: the attentions.
        scores: of every sample and target, connected to the probabilities.
        head_input: what the last linear layer was given.
        outputs: tokens by the name of the module that returned them, connected to the probabilities within it.
        modules: the modules that ran by their names.
        rerun: runs the model anew at the same images, and gives the scores.
    """

    tower: Tower
    scores: Float[Tensor, "b t"]
    head_input: Tensor | None
    outputs: Mapping[str, Tensor]
    modules: Mapping[str, nn.Module]
    rerun: Callable[[], Tensor]

    @property
    def blocks(self) -> tuple[RecordedAttention, ...]:
        """Those of all tokens to all, [b h n n], in the order in which they ran; none where convolutions are pooled."""
        return self.tower.blocks

    @property
    def readout(self) -> Readout | None:
        """The pooling by attention behind them, [b h q k], if there is one."""
        return self.tower.readout

    @property
    def last(self) -> RecordedAttention:
        """The last one, of which the score reads single rows."""
        return self.sequence[-1]

    @property
    def sequence(self) -> tuple[RecordedAttention, ...]:
        """All of them."""
        if self.readout is None:
            return self.blocks
        return (*self.blocks, self.readout.attention)

    @property
    def layout(self) -> Layout:
        """How the tokens that the last one attends to are read as a map."""
        if self.readout is None:
            return self.tower.layout
        return self.readout.layout

    def exact(self, values: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Without gradient, in single precision or that of the scores; some models take every softmax in single."""
        return at_least_float(values.detach().to(torch.promote_types(values.dtype, self.scores.dtype)))

    def gradient(self, position: int, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The score's gradient by each tensor; zero where it does not depend on one.

        Raises:
            ValueError: if the score is detached.
        """
        return _of_score(self.scores[:, position], tensors)

    def read_tokens(self, position: int) -> Int[Tensor, "r"]:
        """Which rows of the last attention the score reads: the class token, those that are pooled, or a readout's probes.

        They are told by the gradient: behind the last attention no token meets another, so only rows that are read have one.
        """
        probability = self.last.probability
        probes = [self.scores[:, position].sum()]
        if self.head_input is not None and self.head_input.ndim == 2:
            # a head fresh from zeros lets no gradient through, what it is given still tells
            probes.append(self.head_input.square().sum())
        for probe in probes:
            if probe.requires_grad:
                (gradient,) = scaled_gradients(probe, [probability])
                if gradient is not None and gradient.any():
                    return gradient.abs().amax((0, 1, 3)).nonzero()[:, 0]
        # nothing tells: the class token where there is one, else all
        count = probability.shape[2]
        if is_square(self.last) and self.layout.prefix:
            count = 1
        return torch.arange(count, device=probability.device)

    def to_tokens(self, keys: Float[Tensor, "b k"]) -> Float[Tensor, "b n"]:
        """A number for each key of the readout as one for each token of the blocks."""
        if self.readout is None:
            return keys
        return self.readout.to_tokens(keys, self.tower.layout)

    def to_map(self, tokens: Float[Tensor, "b n"]) -> Float[Tensor, "b u v"]:
        """A number for each token, or key of a readout, as a map; what is before the patches or behind them is left out."""
        grid = self.layout.grid
        end = tokens.shape[1] - self.layout.suffix
        maps: Tensor = tokens[:, end - math.prod(grid) : end].unflatten(1, grid)
        return maps

    def own_gradients(self, position: int) -> list[Tensor]:
        """For each block the gradient of the score of its own tokens, read as the last block's are.

        It is taken by the block's attention, [b h n n], or where a readout pools the tokens by the readout's attention to this
        block's tokens, [b h q k]; without blocks, to what is pooled.

        The model is run anew once a block, with every block made to return this block's tokens as they were recorded: what is
        computed is only what is behind the blocks, the norm, pooling and head, and it is applied to this block's tokens. They
        are still connected to the block's attention by the forward in which they were recorded.

        Raises:
            ValueError: if the blocks cannot be told apart by the modules around them, or the score is detached.
        """
        if not self.blocks:
            return self.gradient(position, [self.last.probability])
        names = [self._holder(block) for block in self.blocks]
        modules = [self.modules[name] for name in names]
        gradients: list[Tensor] = []
        for name, block in zip(names, self.blocks, strict=True):
            with _returning(modules, self.outputs[name]):
                score, readout = self._read(position)
            gradients += _of_score(score, [(readout or block).probability])
        return gradients

    def _read(self, position: int) -> tuple[Tensor, RecordedAttention | None]:
        """The score of the tokens that blocks are made to return, and how a readout attends to them."""
        if self.readout is None:
            return self.rerun()[:, position], None
        recorder = AttentionRecorder(len(self.scores), {module: name for name, module in self.modules.items()})
        with recorder.running():
            score = self.rerun()[:, position]
        return score, next(a for a in recorder.attentions if a.name == self.last.name)

    def _holder(self, block: RecordedAttention) -> str:
        """The outermost module that holds this attention alone and returns its tokens."""
        own = holders(block, [*self.blocks, self.last])
        for name in own:
            if returns_tokens(name, block, self.outputs):
                return name
        raise ValueError(
            f"le_grad reads each block's own tokens, and {block.name!r} is in no block of its own (called several times, "
            'or what holds it returns no tokens). Write method="attention_relevance".'
        )


def attend(
    runs: Runs,
    scores: Float[Tensor, "b t"],
    shape: Sequence[int],
    calls: Calls,
    layouts: Iterable[Layout],
) -> Attention:
    """Run the model once more at the images of a look, with every attention written out.

    Nothing of torch is replaced: attention is met where it is called, in this thread and for the duration of the forward.

    Args:
        runs: how the model is run.
        scores: the scores of the look.
        shape: the shape of the images, by which tokens are read as maps.
        calls: the calls of the look.
        layouts: how the watched layers are read as maps.

    Raises:
        ValueError: if the model has no attention over all tokens, or a kernel of its own hides it.
        RuntimeError: if the model did not give the same scores as before.
    """
    modules = {call.name: call.module for call in calls}
    names = {module: name for name, module in modules.items()}
    recorder = AttentionRecorder(shape[0], names)
    with recorder.running():
        recorded_scores = runs.rerun()
    if not near_scores(recorded_scores, scores):
        raise RuntimeError(
            "The model gave other scores in a second forward of the same images, so its attention would not explain the "
            "first: a random step in evaluation mode, or an attention that torch's own formula does not describe."
        )

    def is_read_beside(attention: RecordedAttention) -> bool:
        return reads_beside(runs, names, recorder.attentions.index(attention))

    recording = Recording(recorder, recorded_scores, calls, is_read_beside)
    tower = find_tower(recording, shape, layouts)
    return Attention(tower, recorded_scores, recorder.head_input, recorder.outputs, modules, runs.rerun)


def _of_score(score: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    gradients: list[Tensor | None] = []
    if score.requires_grad:
        gradients = scaled_gradients(score.sum(), tensors)
    # a head that is trained has a gradient of its own, whatever is cut off in front of it
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "The score has no gradient by attention: the target, the model's output or what lies between the blocks and it is "
            'under torch.no_grad() or detached. Write method="attention_rollout".'
        )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(tensors, gradients, strict=True)]


def near_scores(recorded: Tensor, scores: Tensor) -> bool:
    """Whether scores are the same but for the rounding of attention written out."""
    tolerance = 0.05 if scores.dtype in (torch.float16, torch.bfloat16) else 1e-4
    largest = float(scores.abs().nan_to_num(0).amax().clamp(min=1))
    return bool(torch.isclose(recorded, scores, rtol=0, atol=tolerance * largest, equal_nan=True).all())


@contextmanager
def _returning(blocks: Iterable[nn.Module], tokens: Tensor) -> Iterator[None]:
    """Let every block return these tokens, so that only what is behind the blocks is computed from them."""
    # an instance's own forward hides that of its class; some models have one already, which comes back
    attributes = [vars(block) for block in blocks]
    before = [own.get("forward") for own in attributes]

    def returned(*args: Any, **kwargs: Any) -> Tensor:
        # as where attention is recorded: the model may run its blocks, and what is behind them, under a no_grad of its own
        torch.set_grad_enabled(True)
        # a clone, for an in-place operation behind them must not rewrite what was recorded
        return tokens.clone()

    try:
        for own in attributes:
            own["forward"] = returned
        yield
    finally:
        for own, forward in zip(attributes, before, strict=True):
            if forward is None:
                own.pop("forward", None)
            else:
                own["forward"] = forward
