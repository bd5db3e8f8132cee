"""Targets that tell a class from classes like it. b batch, k class, t targets, c channels, d look-alikes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.registry import TARGETS
from lightning_cam.targets.classes import choose_classes
from lightning_cam.targets.scores import at_classes, require_several
from lightning_cam.targets.target import Choice, Target


@TARGETS.register
def contrast(
    *,
    gamma: float = 0.6,
    similar: int | Sequence[int] = 3,
    classes: Any = None,
) -> Target:
    """Finer-CAM's target: a class less its look-alikes, ``S_c - gamma * mean_d S_d``; what tells it from them.

    Look-alikes are the classes whose weights in the classifier have the largest cosine with the class's own. After global
    average pooling and one linear layer the map is that of the weights ``w_c - gamma * mean_d w_d``.

    Source: Zhang et al. 2025, arXiv 2501.11309; how look-alikes are found is ours, their published code is ``rivals``.

    Args:
        gamma: how much of the look-alikes is taken off; 0 leaves the logit.
        similar: how many look-alikes, or their class ids, of which a class itself is never one.
        classes: the class, as for log_probability.

    Raises:
        ValueError: if look-alikes are to be found and the classifier is no one linear layer.
    """
    return ClassContrast("contrast", _similar_by_weights, gamma, similar, classes)


@TARGETS.register
def rivals(*, gamma: float = 0.6, similar: int = 3, classes: Any = None) -> Target:
    """A class less its rivals, ``S_c - gamma * mean_d S_d`` over the other classes of the largest logits of each sample.

    For the predicted class these are the look-alikes of Finer-CAM's published code, which goes by nearness of logits and may
    weigh them by their probabilities; here they count alike.

    Source: Zhang et al. 2025, arXiv 2501.11309.

    Args:
        gamma: how much of the rivals is taken off.
        similar: how many rivals.
        classes: the class, as for log_probability.
    """
    return ClassContrast("rivals", _similar_by_logits, gamma, similar, classes)


@dataclass(frozen=True, eq=False)
class ClassContrast:
    """The logit of a class less a share of the mean logit of classes like it.

    Attributes:
        name: the target's name.
        find_similar: ``(logits, classes, head, count) -> classes`` like those chosen, [b t d].
        gamma: the share.
        similar: how many, or which.
        classes: the class, as for log_probability.
    """

    name: str
    find_similar: Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
    gamma: float
    similar: int | Sequence[int]
    classes: Any
    reads = "logits"

    def choose(self, output: Any, label: Tensor | None, head: Float[Tensor, "k c"] | None) -> Choice:
        """The classes, those like them, and the share of each in the mean; a class itself is never one like it."""
        require_several(output, self.name)
        choice = choose_classes(self.classes, output, label)
        assert choice.classes is not None
        if isinstance(self.similar, int):
            others = self.find_similar(output.detach(), choice.classes, head, self.similar)
        else:
            others = self._named(output).expand(*choice.classes.shape, -1)
        # named look-alikes may hold the class itself; it counts for nothing, and the mean is over the rest
        counts = (others != choice.classes[..., None]).to(output.dtype)
        # at least 1: where no look-alike is left, the score is the logit itself
        share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        return replace(choice, parts=(others, share))

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """``S_c - gamma * mean_d S_d``."""
        others, share = choice.parts
        mean_of_others: Tensor = (at_classes(output, others) * share).sum(-1)
        return at_classes(output, choice.classes) - self.gamma * mean_of_others

    def _named(self, output: Tensor) -> Int[Tensor, "d"]:
        assert not isinstance(self.similar, int)
        named = torch.tensor(list(self.similar), device=output.device)
        if not len(named) or int(named.min()) < 0 or int(named.max()) >= output.shape[1]:
            raise ValueError(
                f"{self.name}(similar={self.similar!r}): expected class ids from 0 to {output.shape[1] - 1}, or a number."
            )
        return named


def _similar_by_weights(
    logits: Float[Tensor, "b k"],
    classes: Int[Tensor, "b t"],
    head: Float[Tensor, "k c"] | None,
    count: int,
) -> Int[Tensor, "b t d"]:
    if head is None:
        raise ValueError(
            "contrast finds look-alikes by the classifier's weights, "
            "and this model does not end in one linear layer or 1x1 convolution whose weights can be read "
            "(not packed by a quantisation, under no adapter but LoRA). "
            "Name them, {'contrast': {'similar': [3, 7]}}, or use 'rivals', which goes by the logits."
        )
    directions = F.normalize(head.float(), dim=1)
    cosines = directions[classes.clamp(min=0)] @ directions.T
    return _nearest_others(cosines, classes, count)


def _similar_by_logits(
    logits: Float[Tensor, "b k"],
    classes: Int[Tensor, "b t"],
    head: Tensor | None,
    count: int,
) -> Int[Tensor, "b t d"]:
    wide = logits[:, None].expand(-1, classes.shape[1], -1)
    return _nearest_others(wide, classes, count)


def _nearest_others(
    closeness: Float[Tensor, "b t k"],
    classes: Int[Tensor, "b t"],
    count: int,
) -> Int[Tensor, "b t d"]:
    if count < 1:
        raise ValueError(f"similar={count}: expected at least one class to tell from.")
    # the class is its own nearest: put last, it is not among the first
    others = closeness.scatter(-1, classes.clamp(min=0)[..., None], -torch.inf)
    return others.topk(min(count, others.shape[-1] - 1), dim=-1).indices
