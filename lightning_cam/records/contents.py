"""What a record holds: Records and the watched samples, as trees of plain values and tensors, and back.

b batch, t targets, s sides of a picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from jaxtyping import Bool, Shaped
from torch import Tensor

from lightning_cam.data.batch import FixedBatch
from lightning_cam.data.fingerprints import digest
from lightning_cam.record import Moment, Predictions, Record, to_host
from lightning_cam.records.layout import Tree
from lightning_cam.records.maps import CodedMaps, code, decode

_MOST_LABELS = 4096  # numbers a sample; masks as labels are another picture


@dataclass(frozen=True, eq=False)
class WatchedSamples:
    """The samples that looks are of.

    Attributes:
        pictures: each sample as it is shown, an encoded JPEG of at most 224 pixels a side; a signal as its line, of a volume
            some slices side by side; none where the samples cannot be shown.
        fingerprints: a hash of each sample's own values, bit by bit.
        names: their names; none where they have none.
        classes: the classes' names.
        labels: as the batch holds them, but none of more than 4096 numbers a sample.
        regions: masks by name, of the image's size.
        origin: where the samples come from, in words.
    """

    pictures: tuple[bytes, ...]
    fingerprints: tuple[str, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Shaped[Tensor, "b ..."] | None
    regions: Mapping[str, Bool[Tensor, "b *s"]]
    origin: str

    def __len__(self) -> int:
        return len(self.fingerprints)


def samples_key(batch: FixedBatch) -> str:
    """By what looks name their samples: the same for the same pixels, names and classes."""
    words = [*batch.fingerprints, "", *batch.names, "", *batch.classes]
    return digest("\0".join(words).encode("utf-8", "surrogatepass"))


def samples_tree(batch: FixedBatch) -> Tree:
    """The samples without their pictures."""
    labels = batch.labels
    if labels is not None and labels[:1].numel() > _MOST_LABELS:
        labels = None
    return {
        "fingerprints": batch.fingerprints,
        "names": batch.names,
        "classes": batch.classes,
        "labels": labels,
        "regions": _named(batch.regions),
        "origin": batch.origin,
    }


def samples_of(tree: Tree, pictures: Sequence[bytes]) -> WatchedSamples:
    """The samples of a tree and the pictures beside it."""
    return WatchedSamples(
        pictures=tuple(pictures),
        fingerprints=_words(tree["fingerprints"]),
        names=_words(tree["names"]),
        classes=_words(tree["classes"]),
        labels=tree["labels"],
        regions=_restored(tree["regions"]),
        origin=str(tree["origin"]),
    )


def record_tree(record: Record) -> Tree:
    """A Record with its maps coded; by one transfer from where they were computed."""
    coded = code(record.heat)
    codes, scale = to_host([coded.codes, coded.scale])
    tree = {item.name: _plain(getattr(record, item.name)) for item in fields(record) if item.name != "heat"}
    return tree | {"heat": {"codes": codes, "scale": scale, "like": record.heat.new_empty(0)}}


def record_of(tree: Tree) -> Record:
    """The Record of a tree, its maps decoded.

    Raises:
        ValueError: for maps that are not those of the scores.
    """
    known = {item.name for item in fields(Record)}
    values = {name: _restored(value) for name, value in tree.items() if name in known}
    heat = tree["heat"]
    values["heat"] = decode(CodedMaps(heat["codes"], heat["scale"])).to(heat["like"].dtype)
    values["moment"] = Moment(**tree["moment"])
    values["predictions"] = Predictions(**tree["predictions"])
    record = Record(**values)
    if record.heat.shape[:2] != record.score.shape or len(record.predictions.labels) != len(record.score):
        raise ValueError(f"maps {tuple(record.heat.shape)} are not those of scores {tuple(record.score.shape)}")
    return record


def _plain(value: Any) -> Any:
    """Dataclasses as dicts of their fields; what a user named never becomes a key."""
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return _named(value)
    return value


def _named(values: Mapping[str, Any]) -> Tree:
    return {"names": list(values), "values": list(values.values())}


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and list(value) == ["names", "values"]:
        return dict(zip(_words(value["names"]), value["values"], strict=True))
    if isinstance(value, list):
        return _words(value)
    return value


def _words(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(word, str) for word in values):
        raise ValueError("names are no list of strings")
    return tuple(values)
