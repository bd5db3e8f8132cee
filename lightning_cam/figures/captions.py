"""What is written beside the maps: captions, titles, the description of a picture. b batch, t targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_cam.data.batch import FixedBatch
from lightning_cam.heat import Norm
from lightning_cam.record import Record
from lightning_cam.render.style import Style
from lightning_cam.render.text import Caption

NO_EVIDENCE = "no evidence"

_COLOURS = {
    "positive": "0 to maximum",
    "minmax": "minimum to maximum",
    "symmetric": "against to for, 0 in the middle",
}


@dataclass(frozen=True)
class Remarks:
    """What a caption may tell beside its map.

    Attributes:
        change: of each map's strength since the first look, as a factor, NaN where there is none; empty outside a run.
        number: the metric whose value is told.
        words: what a sample is marked with, by its place in the batch.
    """

    change: Sequence[float] = ()
    number: str | None = None
    words: Mapping[int, str] = field(default_factory=dict)


def captions(
    batch: FixedBatch,
    record: Record,
    norm: Norm = "positive",
    remarks: Remarks = Remarks(),
) -> list[Caption]:
    """A caption for each sample and target: class, probability, right or wrong, raw strength, and what is remarked."""
    b, t = record.score.shape
    names = sample_names(batch)
    told = []
    for i in range(b):
        for j in range(t):
            caption = _caption(batch, record, names[i], (i, j), (norm, remarks))
            told.append(replace(caption, remark=remarks.words.get(i, "")))
    return told


def factor_words(factor: float) -> str:
    """A factor in a few letters; of NaN nothing.

    Example:
        >>> [factor_words(factor) for factor in (0.4321, 2.0, 12.3, 1e-9, 1e9)]
        ['x0.43', 'x2', 'x12', 'x0.00', 'x>999']
    """
    if factor != factor:
        return ""
    if factor > 999:
        return "x>999"
    if factor < 0.1:
        return f"x{factor:.2f}"
    return f"x{float(f'{factor:.2g}'):g}"


def row_names(batch: FixedBatch, record: Record) -> list[str]:
    """A short name for each row of a filmstrip: the sample's label, or which of its targets it is, else its own name."""
    t = record.score.shape[1]
    names = sample_names(batch)
    if record.target_names:
        return list(record.target_names) * len(names)
    labels = batch.labels
    if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
        names = [batch.class_name(label) for label in labels.tolist()]
    elif bool((record.predictions.labels >= 0).all()):
        # soft labels
        names = [batch.class_name(label) for label in record.predictions.labels.tolist()]
    elif record.absent is not None:
        classes = record.predictions.classes.flatten().tolist()
        return [batch.class_name(c) if c >= 0 else names[i // t] for i, c in enumerate(classes)]
    return [name for name in names for _ in range(t)]


def sample_names(batch: FixedBatch) -> list[str]:
    """The samples' names, or their numbers."""
    return list(batch.names) or [f"sample {i}" for i in range(len(batch))]


def file_words(names: Sequence[str], most: int = 40) -> list[str]:
    """Names of targets as parts of file names; their numbers where names are alike or missing.

    Example:
        >>> file_words(["a cat", "up/down"]), file_words(["a?", "a!"])
        (['a_cat', 'up_down'], ['0', '1'])
    """
    words = ["".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name[:most]) for name in names]
    if "" in words or len(set(words)) < len(words):
        return [str(i) for i in range(len(words))]
    return words


def description(batch: FixedBatch, record: Record, target: str, style: Style) -> str:
    """What stays the same over a run, in Markdown; TensorBoard keeps the first of a tag."""
    layer = f"`{record.title}`"
    if record.changed_in_place:
        layer += ", after the in-place operation behind it"
    scale = f"{style.scale}"
    if not isinstance(style.scale, str):
        scale = f"fixed, {style.scale:g} is hottest"
    target_line = f"`{target}`"
    if record.note:
        target_line += f": {record.note}"
    lines = {
        "layer": layer,
        "method": f"`{record.method}`",
        "target": target_line,
        "colours": f"{style.colours}, {_COLOURS[style.norm]}, scale: {scale}",
        "batch": f"{len(batch)} samples, {batch.origin}",
        "weights": "as in the model at that moment, evaluation mode",
    }
    return "\n".join(["|  |  |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in lines.items())])


def name_target(spec: Any) -> str:
    """A target in a word."""
    if isinstance(spec, Tensor):
        return "classes given"
    # numbers written out would be lines of their own
    if isinstance(spec, list | tuple) and any(isinstance(part, Tensor) for part in spec):
        return f"[{', '.join(name_target(part) for part in spec)}]"
    if isinstance(spec, dict):
        return ", ".join(f"{name} {_options(options)}" for name, options in spec.items())
    return getattr(spec, "__name__", None) or str(spec)


def plain_captions(
    names: Sequence[str], targets: Sequence[str], strength: Float[Tensor, "n 2"], on_map: Float[Tensor, "..."] | None
) -> list[Caption]:
    """A caption for each map outside a run, of its target in words, if it has any, its score and its peak."""
    shares = [nan] * len(names) if on_map is None else on_map.flatten().tolist()
    captions = []
    for name, target, (score, peak), share in zip(names, targets, strength.tolist(), shares, strict=True):
        line = name
        if target:
            line = f"{target} · {name}"
        captions.append(Caption(line, f"score {score:.3g}, peak {peak:.3g}" + on_map_words(", ", share)))
    return captions


def on_map_words(before: str, share: float) -> str:
    """How much of the evidence is on the map, where class or register tokens have the rest; of NaN nothing."""
    percent = _percent(share)
    if not percent:
        return ""
    return f"{before}on map{percent}"


def _options(options: Any) -> Any:
    """Options in words that are the same in every run: functions by name, tensors by shape."""
    if not isinstance(options, Mapping):
        return options
    words = {}
    for name, value in options.items():
        words[name] = value
        if isinstance(value, Tensor):
            words[name] = f"tensor {tuple(value.shape)}"
        elif callable(value):
            words[name] = getattr(value, "__name__", type(value).__name__)
    return words


def _caption(batch: FixedBatch, record: Record, name: str, position: tuple[int, int], told: tuple[Norm, Remarks]) -> Caption:
    sample, target = position
    norm, remarks = told
    predictions = record.predictions
    class_id = int(predictions.classes[position])
    predicted = int(predictions.predicted[sample])
    line = name
    if class_id >= 0:
        line = batch.class_name(class_id) + _percent(float(predictions.probability[position]))
    elif record.target_names:
        line = f"{record.target_names[target]} {float(record.score[position]):.2f}"
    if predicted >= 0 and predicted != class_id:
        line += f", said {batch.class_name(predicted)}{_percent(float(predictions.predicted_probability[sample]))}"
    under = _strength(record, position, norm)
    if under != NO_EVIDENCE:
        under = _number(record, position, remarks.number) + under + _beside(record, position, remarks.change)
    if record.lost is not None and bool(record.lost[position]):
        line += ", lost"
        under = "nothing is where it was pinned"
    if line != name:
        under += f" · {name}"
    return Caption(line, under, predictions.is_right(sample))


def _number(record: Record, position: tuple[int, int], metric: str | None) -> str:
    """The metric wished for, in front of all else, since narrow captions are cut at their end."""
    if metric is None or metric not in record.values:
        return ""
    value = float(record.values[metric][position])
    told = f"{value:.3g}"
    if value != value:
        told = "undefined"
    return f"{metric} {told} · "


def _beside(record: Record, position: tuple[int, int], change: Sequence[float]) -> str:
    """What is told behind a map's strength: its change, and its share of the evidence."""
    words = ""
    if change:
        sample, target = position
        factor = factor_words(change[sample * record.score.shape[1] + target])
        words += f" ({factor})" if factor else ""
    if record.on_map is not None:
        words += on_map_words(" · ", float(record.on_map[position]))
    return words


def _percent(probability: float) -> str:
    if probability != probability:
        return ""
    return f" {100 * probability:.0f}%"


def _strength(record: Record, position: tuple[int, int], norm: Norm) -> str:
    """The map's raw maximum, of a map drawn on both sides of zero also that of its negative."""
    strength, against = float(record.strength[position]), float(record.against[position])
    if norm == "symmetric" and max(against, strength) > 0:
        return f"for {max(strength, 0):.3g}, against {max(against, 0):.3g}"
    if strength > 0:
        return f"peak {strength:.3g}"
    return NO_EVIDENCE
