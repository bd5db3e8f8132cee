"""Metrics by class: means over the samples of each, under tags that loggers take. n values of a metric, k classes."""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_cam.record import Record

_LONGEST = 60  # letters of a class in a tag


def by_class(record: Record, classes: Sequence[str] = ()) -> dict[str, float]:
    """Each metric's mean over the samples of each class for which it is defined, as ``<metric>/<class>``; NaN if for none.

    A sample's class is that of its label, so that the samples of a curve are the same throughout a run, whatever the model says
    of them. Where labels are no class a sample, as of several at once, it is the class explained, of each target for itself;
    what has neither is left out. Classes without a sample have no number.

    Args:
        record: of one look.
        classes: their names; where there is none it is ``class_<number>``.

    Example:
        >>> from lightning_cam import Watcher
        >>> watcher = Watcher(resnet18(num_classes=2), (torch.rand(3, 3, 64, 64), torch.tensor([1, 0, 1])), "layer4",
        ...                   metrics=["entropy"], folder=folder)
        >>> list(by_class(watcher.look(step=0)[0], ["cat", "hot dog"]))
        ['entropy/cat', 'entropy/hot_dog']
    """
    explained = record.predictions.classes
    labels = record.predictions.labels[:, None].expand_as(explained)
    known = torch.where(labels >= 0, labels, explained)
    belongs = known >= 0
    present, index = known[belongs].unique(return_inverse=True)
    words = _class_words(present.tolist(), classes)
    numbers: dict[str, float] = {}
    for name, value in record.values.items():
        means = _means(value[belongs], index, len(words)).tolist()
        numbers |= {f"{name}/{word}": mean for word, mean in zip(words, means, strict=True)}
    return numbers


def _means(values: Float[Tensor, "n"], index: Int[Tensor, "n"], count: int) -> Float[Tensor, "k"]:
    """The mean of the finite values of each class; NaN where there is none."""
    defined = values.isfinite()
    # in double precision, or the order of the samples would show
    total = torch.zeros(count, dtype=torch.float64)
    size = total.index_add(0, index, defined.double())
    return total.index_add(0, index, values.double().where(defined, 0)) / size


def _class_words(present: Sequence[int], classes: Sequence[str]) -> list[str]:
    """The names of classes as parts of tags, with its number where other classes have the same."""
    # over all, or a tag would depend on which classes a look happens to meet
    shared = Counter(_word(i, classes) for i in range(len(classes)))
    words = {i: _word(i, classes) for i in present}
    return [f"{word}_{i}" if shared[word] > 1 else word for i, word in words.items()]


def _word(number: int, classes: Sequence[str]) -> str:
    name = ""
    if number < len(classes):
        name = classes[number][:_LONGEST]
    word = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)
    # trackers take a tag for a path, and nothing but dots for the way up
    if not word.strip("._"):
        return f"class_{number}"
    return word
