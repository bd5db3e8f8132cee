"""The pictures of one look: the sheet and the filmstrip. b batch, t targets, u v map."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam import render, words
from lightning_cam.batch import FixedBatch
from lightning_cam.heat import extent, scaled
from lightning_cam.history import History
from lightning_cam.render.style import Style
from lightning_cam.schedule import Moment
from lightning_cam.seen import Look


@dataclass(frozen=True)
class Subject:
    """What the pictures are of, in words."""

    layer: str
    method: str
    target: str


def draw(
    batch: FixedBatch, look: Look, heat: Float[Tensor, "b t u v"], subject: Subject, moment: Moment, album: "Album"
) -> dict[str, render.Picture]:
    """The sheet under the suffix "", and during a fit the filmstrip under "/filmstrip"."""
    style, history, flat, t = album.style, album.history, heat.flatten(0, 1), heat.shape[1]
    history.add(moment.short, flat, *torch.stack([flat.amin(), flat.amax()]).tolist())
    run = history.lowest, history.highest
    base = render.to_rgb(batch.images, style.normalization or batch.normalization).repeat_interleave(t, 0)
    unit = scaled(flat, *extent(flat, style.unit, style.scale, run))
    about = words.description(batch, subject.layer, subject.method, look, subject.target, style)
    head = f"{subject.method} at {subject.layer}"
    under = f"{moment.title} · step {moment.step} · target: {subject.target}"
    sheet = render.sheet(base, unit, words.captions(batch, look, heat), (head, under), style, columns=t if t > 1 else None)

    def overlays() -> dict[str, Any]:
        drawn = render.to_host(render.blend(base, render.shown(unit, (base.shape[-2], base.shape[-1])), style))
        return dict(zip(batch.names if t == 1 else [f"{n}_{i}" for n in batch.names for i in range(t)], drawn, strict=True))

    pictures = {"": render.Picture(render.to_host(sheet), about, style.encoding, overlays)}
    if moment.fitting:
        chosen = history.spread(album.columns)
        heats = [history.heats[i].to(flat) for i in chosen]
        units = torch.stack([scaled(one, *extent(one, style.unit, style.scale, run)) for one in heats])
        titles = [history.titles[i] for i in chosen]
        under = f"by epochs trained, up to {moment.title}"
        strip = render.filmstrip(base, units, words.rows(batch, t), titles, (head, under), style)
        pictures["/filmstrip"] = render.Picture(render.to_host(strip), about, style.encoding)
    return pictures


@dataclass(frozen=True)
class Album:
    """How pictures are drawn, and the run's maps so far, to which drawing adds."""

    style: Style
    columns: int
    history: History
