"""Records made up of random numbers, with everything in them that a Record can hold; and whether two are the same."""

from dataclasses import fields

import torch
from torch import Tensor

from lightning_cam.data.batch import FixedBatch
from lightning_cam.record import Moment, Predictions, Record

HOSTILE = [
    "../../etc/passwd",
    "a/b\\c",
    "..",
    "",
    "line\nbreak\r\ttab",
    "nul\0inside",
    "Ünï 猫 🐈",
    "\udcff undecodable",
    "<script>alert('x')</script>",
    '{"array": 0}',
    "array",
    "names",
    "x" * 10_000,
]


def made_record(b=3, t=2, sides=(4, 5), step=7, name="layer/method", dtype=torch.float32, full=True, **changes):
    """A Record of random values; the optional ones too, unless not ``full``."""
    heat = torch.randn(b, t, *sides, dtype=dtype)
    absent = torch.rand(b, t) < 0.3
    heat = heat.where(~absent.reshape(b, t, *[1] * len(sides)), torch.nan) if full else heat
    options = dict(
        absent=absent,
        values={"energy_inside": torch.rand(b, t), "drift": torch.full((b, t), torch.nan)},
        changed_in_place=True,
        note="of 2 labels, the first",
        on_map=torch.rand(b, t),
        lost=torch.rand(b, t) < 0.5,
        target_names=("a cat", "a dog")[:t],
    )
    made = dict(
        moment=Moment(step, f"epoch {step}", str(step), baseline=step == 0),
        tag=name,
        layer=name.rpartition("/")[0],
        title=f"the layer {name}",
        method=name.rpartition("/")[2],
        heat=heat,
        score=torch.randn(b, t, dtype=dtype),
        absent=None,
        strength=torch.rand(b, t),
        against=torch.rand(b, t),
        predictions=Predictions(
            classes=torch.randint(-1, 1000, (b, t)),
            probability=torch.rand(b, t),
            predicted=torch.randint(-1, 1000, (b,)),
            predicted_probability=torch.rand(b),
            labels=torch.randint(-1, 1000, (b,)),
        ),
    )
    return Record(**made | (options if full else {}) | changes)


def made_batch(b=3, side=16, **changes):
    """Samples to go with it."""
    mask = torch.zeros(b, side, side, dtype=torch.bool)
    mask[:, 3:9, 2:7] = True
    made = dict(
        images=torch.rand(b, 3, side, side),
        labels=torch.arange(b),
        regions={"object": mask, "tag": ~mask},
        names=tuple(f"#{i}" for i in range(b)),
        classes=("cat", "dog"),
        origin="validation set, indices 0, 1, 2",
    )
    return FixedBatch(**made | changes)


def identical(one, other):
    """Whether two values are the same, tensors bit for bit and with their type; NaN is NaN."""
    if isinstance(one, Tensor):
        same_kind = isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return same_kind and torch.equal(one.nan_to_num(-7), other.nan_to_num(-7)) and torch.equal(one.isnan(), other.isnan())
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(value, other[name]) for name, value in one.items())
    if isinstance(one, Predictions):
        return identical(vars(one), vars(other))
    return type(one) is type(other) and one == other


def differing(one, other, bits=16):
    """The fields in which two Records differ, maps beyond what so many bits leave of them."""
    names = [item.name for item in fields(Record) if item.name != "heat"]
    found = [name for name in names if not identical(getattr(one, name), getattr(other, name))]
    return found + ([] if close(one.heat.cpu(), other.heat, bits) else ["heat"])


def close(heat, other, bits):
    """Whether maps are within half a step of each other, of the type and shape, and NaN at the same places."""
    if heat.dtype != other.dtype or heat.shape != other.shape or not torch.equal(heat.isnan(), other.isnan()):
        return False
    heat, other = (maps.double().flatten(2).nan_to_num(0) for maps in (heat, other))
    half = heat.abs().amax(2, keepdim=True) / {8: 252, 16: 65532}[bits]
    return bool(((heat - other).abs() <= half * (1 + 1e-5) + heat.abs() * 2**-22).all())
