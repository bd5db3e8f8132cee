"""Targets that are scores of chosen classes, or of one output. b batch, k class, t targets, d look-alikes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.classes import classes_of
from lightning_cam.targets.logits import shape
from lightning_cam.targets.target import Pinned


@TARGETS.register
def log_probability(logits: Any, label: Tensor | None, *, of: Any = None) -> Pinned:
    """Log-softmax of a class: ``S_c - log sum_j exp S_j``; what speaks for it rather than for all others.

    Its gradient is that of the probability divided by p_c, so it is contrastive and does not fade as p_c nears 1 by p_c.

    Args:
        logits: the model's output [b k].
        label: the labels.
        of: the class: any target that chooses some; by default the label where there are labels, else the predicted class.

    Raises:
        ValueError: for a single logit.
    """
    return _pinned(_several(logits, "log_probability"), classes_of(of, logits, label), lambda z: z.log_softmax(1))


@TARGETS.register
def softmax_probability(logits: Any, label: Tensor | None, *, of: Any = None) -> Pinned:
    """Softmax of a class, ``p_c``: the map of log_probability scaled by p_c, which fades as the model gets better.

    Args:
        logits: the model's output [b k].
        label: the labels.
        of: the class, as for log_probability.

    Raises:
        ValueError: for a single logit.
    """
    return _pinned(_several(logits, "softmax_probability"), classes_of(of, logits, label), lambda z: z.softmax(1))


@TARGETS.register
def counterfactual(logits: Any, label: Tensor | None, *, of: Any = None) -> Pinned:
    """Evidence against a class, ``-S_c``: the places whose absence would raise its logit.

    Source: Selvaraju et al. 2017, section 3.3, arXiv 1610.02391.

    Args:
        logits: the model's output [b k].
        label: the labels.
        of: the class, as for log_probability.
    """
    return _pinned(logits, classes_of(of, logits, label), torch.neg)


@TARGETS.register
def contrast(
    logits: Any,
    label: Tensor | None,
    weight: Float[Tensor, "k c"] | None = None,
    *,
    gamma: float = 0.6,
    nearest: int | Sequence[int] = 3,
    of: Any = None,
) -> Pinned:
    """Finer-CAM's target: a class less its look-alikes, ``S_c - gamma * mean_d S_d``; what tells it from them.

    Look-alikes are the classes whose weights in the classifier have the largest cosine with the class's own. After global
    average pooling and one linear layer the map is that of the weights ``w_c - gamma * mean_d w_d``.

    Source: Zhang et al. 2025, arXiv 2501.11309; how look-alikes are found is ours, their published code is ``rivals``.

    Args:
        logits: the model's output [b k].
        label: the labels.
        weight: the classifier's weights.
        gamma: how much of the look-alikes is taken off; 0 leaves the logit.
        nearest: how many look-alikes, or their class ids, of which a class itself is never one.
        of: the class, as for log_probability.

    Raises:
        ValueError: if look-alikes are to be found and the classifier is no one linear layer.
    """
    c = classes_of(of, _several(logits, "contrast"), label)
    if not isinstance(nearest, int):
        given = torch.tensor(list(nearest), device=c.device)
        if not len(given) or int(given.min()) < 0 or int(given.max()) >= logits.shape[1]:
            raise ValueError(f"contrast(nearest={nearest!r}): expected class ids from 0 to {logits.shape[1] - 1}, or a number.")
        return _less(logits, c, given.expand(*c.shape, -1), gamma)
    if weight is None:
        raise ValueError(
            "contrast finds look-alikes by the classifier's weights, and this model does not end in one linear layer or 1x1 "
            "convolution. Name them, {'contrast': {'nearest': [3, 7]}}, or use 'rivals', which goes by the logits."
        )
    unit = torch.nn.functional.normalize(weight.float(), dim=1)
    return _less(logits, c, _most(unit[c.clamp(min=0)] @ unit.T, c, nearest), gamma)


@TARGETS.register
def rivals(logits: Any, label: Tensor | None, *, gamma: float = 0.6, nearest: int = 3, of: Any = None) -> Pinned:
    """A class less its rivals, ``S_c - gamma * mean_d S_d`` over the other classes of the largest logits of each sample.

    For the predicted class these are the look-alikes of Finer-CAM's published code, which goes by nearness of logits and may
    weigh them by their probabilities; here they count alike.

    Source: Zhang et al. 2025, arXiv 2501.11309.

    Args:
        logits: the model's output [b k].
        label: the labels.
        gamma: how much of the rivals is taken off.
        nearest: how many rivals.
        of: the class, as for log_probability.
    """
    c = classes_of(of, _several(logits, "rivals"), label)
    z = logits.detach() if c.ndim == 1 else logits.detach()[:, None].expand(-1, c.shape[1], -1)
    return _less(logits, c, _most(z, c, nearest), gamma)


@TARGETS.register
def binary(logits: Any, label: Shaped[Tensor, "b *one"] | None) -> Pinned:
    """A single logit, signed by its label: ``S`` for 1, ``-S`` for 0; without labels by its own sign.

    Args:
        logits: the model's output [b] or [b 1].
        label: the labels, 0 or 1 (or -1 or 1), of any type.

    Raises:
        ValueError: for more than one logit a sample.
    """
    one = isinstance(logits, Tensor) and logits.numel() == len(logits)
    if not one or (label is not None and label.numel() != len(logits)):
        given = shape(logits) + ("" if label is None else f" and labels {tuple(label.shape)}")
        raise ValueError(
            f"The target 'binary' needs one logit a sample, [b] or [b 1]; got {given}. Use 'label' or 'positives'."
        )
    said = logits.detach().flatten() > 0 if label is None else label.to(logits.device).flatten() > 0.5
    sign = said.to(logits.dtype) * 2 - 1
    return Pinned(lambda z, sign: z.flatten() * sign, (sign,))


@TARGETS.register
def value(
    output: Any, label: Shaped[Tensor, "b *k"] | None, *, of: int = 0, less: float | Literal["label"] = 0.0
) -> Float[Tensor, "b"]:
    """A regression's number, signed, less a reference: ``y - reference``. Places of positive heat raise it.

    The reference moves the score and not the map of a gradient; a method that weighs by the score does feel it.

    Args:
        output: the model's output [b] or [b k].
        label: the labels.
        of: which of k numbers.
        less: the reference: a number, or ``label`` for the error.

    Raises:
        ValueError: for an output of another shape, or labels that do not fit it.
    """
    if not isinstance(output, Tensor) or output.ndim not in (1, 2) or not 0 <= of < output[0].numel():
        raise ValueError(f"The target 'value' needs numbers [b] or [b k] with k above {of}; the model gave {shape(output)}.")
    y = output if output.ndim == 1 else output[:, of]
    if less != "label":
        return y - less
    if label is None or label.numel() not in (len(y), output.numel()):
        given = "none" if label is None else f"{tuple(label.shape)}"
        raise ValueError(f"value(less='label') needs a label for each number {tuple(output.shape)}; got {given}.")
    there = label.to(y.device).reshape(len(y), -1)
    return y - there[:, of if there.shape[1] > 1 else 0]


def _several(logits: Any, name: str) -> Any:
    if isinstance(logits, Tensor) and logits[0].numel() == 1:
        raise ValueError(f"The target {name!r} needs several classes; the model gave {tuple(logits.shape)}. Use 'binary'.")
    return logits


def _at(scores: Float[Tensor, "b k"], classes: Int[Tensor, "b *t"]) -> Float[Tensor, "b *t"]:
    return scores.gather(1, classes.clamp(min=0).reshape(len(scores), -1)).reshape(classes.shape)


def _pinned(logits: Tensor, c: Int[Tensor, "b *t"], score: Callable[[Tensor], Tensor]) -> Pinned:
    c = c.to(logits.device)
    return Pinned(lambda z, c: _at(score(z), c), (c,), c, c < 0)


def _most(closeness: Float[Tensor, "b *t k"], c: Int[Tensor, "b *t"], n: int) -> Int[Tensor, "b *t d"]:
    if n < 1:
        raise ValueError(f"nearest={n}: expected at least one class to tell from.")
    others = closeness.scatter(-1, c.clamp(min=0)[..., None], -torch.inf)
    return others.topk(min(n, others.shape[-1] - 1), dim=-1).indices


def _less(logits: Tensor, c: Int[Tensor, "b *t"], others: Int[Tensor, "b *t d"], gamma: float) -> Pinned:
    counts = (others != c[..., None]).to(logits.dtype)
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)

    def score(z: Tensor, c: Tensor, others: Tensor, share: Tensor) -> Tensor:
        return _at(z, c) - gamma * (_at(z, others) * share).sum(-1)

    return Pinned(score, (c, others, share), c, c < 0)
