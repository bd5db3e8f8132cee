"""Looks with heat where it is planned to be, for the alarm. b batch."""

import torch
from nets import BOXES, Net, cam, loader, trainer
from run_records import made_batch, made_record

from lightning_cam.record import Moment
from lightning_cam.training.look import LookResult

SIDE = 8


def left_half(b, of=0.5):
    """A mask of the left part of images of eight pixels a side."""
    mask = torch.zeros(b, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, : int(of * SIDE)] = True
    return mask


def heat_of(mask, shares):
    """Maps [b t h w] with these shares [b t] of their heat inside a mask, and evidence against that must not count."""
    inside, outside = mask[:, None].double(), (~mask)[:, None].double()
    shares = torch.as_tensor(shares, dtype=torch.float64)[:, :, None, None]
    heat = shares * inside / inside.sum((2, 3), keepdim=True) + (1 - shares) * outside / outside.sum((2, 3), keepdim=True)
    corner = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    corner[:2] = True
    return (2 * heat).where(~corner, -5.0)


def look(shares, step=1, regions=None, names=None, tag="layer/method", **moment):
    """A look at which each sample has this share of its heat in the left half, which is the region ``tag``."""
    rows = [share if isinstance(share, list) else [share] for share in shares]
    b = len(rows)
    regions = {"tag": left_half(b)} if regions is None else regions
    heat = heat_of(left_half(b), rows)
    when = Moment(step, f"epoch {step}", str(step), **{"baseline": step == 0} | moment)
    record = made_record(b, len(rows[0]), full=False, heat=heat, name=tag, moment=when)
    names = tuple(f"{i}.png" for i in range(b)) if names is None else names
    return LookResult(when, made_batch(b, SIDE, regions=regions, names=names), [record], [])


class Planned:
    """A method whose maps have at each look the planned share of their heat outside the objects; the last one stays."""

    __name__ = "planned"

    def __init__(self, *outside):
        self.outside, self.calls = outside, 0

    def __call__(self, seen):
        share = self.outside[min(self.calls, len(self.outside) - 1)]
        self.calls += 1
        mask = seen.regions["object"].float()
        inside = (1 - share) * mask / mask.sum((1, 2), keepdim=True)
        return inside + share * (1 - mask) / (1 - mask).sum((1, 2), keepdim=True)


def watched(*outside, **options):
    """A callback whose looks are planned, the baseline's first."""
    return cam(method=Planned(*outside), **{"batch": BOXES, "metrics": [], **options})


def fit(folder, callbacks, val=True, **options):
    """Train on samples with boxes; the Trainer."""
    run = trainer(folder, callbacks, **options)
    run.fit(Net(), loader(24, size=4, form="dict"), loader(form="dict") if val else None)
    return run
