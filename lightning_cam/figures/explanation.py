"""The pictures of one look: the sheet and the filmstrip. b batch, t targets, n maps, k of them shown, m map."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam import figures, render
from lightning_cam.capture.forward import Forward
from lightning_cam.data.batch import FixedBatch
from lightning_cam.figures.captions import captions, description, rows
from lightning_cam.heat import rescale, value_range
from lightning_cam.render.style import Style
from lightning_cam.training.history import History
from lightning_cam.training.schedule import Moment


@dataclass(frozen=True)
class Subject:
    """What the pictures are of, in words."""

    layer: str
    method: str
    target: str


def draw(
    batch: FixedBatch, look: Forward, heat: Float[Tensor, "b t *m"], subject: Subject, moment: Moment, album: "Album"
) -> dict[str, render.Picture]:
    """The sheet under the suffix "", and during a fit the filmstrip under "/filmstrip"; absent targets are left out."""
    style, history, flat, t = album.style, album.history, heat.flatten(0, 1), heat.shape[1]
    values = flat if look.aim.absent is None else flat[~look.aim.absent.flatten()]
    history.add(moment.short, flat, *(torch.stack([values.amin(), values.amax()]).tolist() if len(values) else (0.0, 0.0)))
    run = history.lowest, history.highest
    cards = list(range(len(flat))) if look.aim.absent is None else (~look.aim.absent).flatten().nonzero()[:, 0].tolist()
    if not cards:
        return {}
    base = render.displayable(batch.images, style.normalization or batch.normalization).repeat_interleave(t, 0)[cards]

    def unit(maps: Float[Tensor, "n *m"]) -> Float[Tensor, "k *m"]:
        return rescale(maps, *value_range(maps, style.norm, style.scale, run), style.neutral)[cards]

    about = description(batch, subject.layer, subject.method, look, subject.target, style)
    head = f"{subject.method} at {subject.layer}"
    under = f"{moment.title} · step {moment.step} · target: {subject.target}"
    lines = captions(batch, look, heat, style.norm)
    columns = t if t > 1 and look.aim.absent is None else None
    sheet = figures.sheet(base, unit(flat), [lines[i] for i in cards], (head, under), style, columns=columns)

    def overlays() -> dict[str, Any]:
        names = batch.names if t == 1 else [f"{n}_{i}" for n in batch.names for i in range(t)]
        return dict(zip([names[i] for i in cards], render.to_host(render.flat(base, unit(flat), style)), strict=True))

    pictures = {"": render.Picture(render.to_host(sheet), about, style.encoding, overlays)}
    if moment.fitting:
        chosen = history.spread(album.style.filmstrip_columns)
        units = torch.stack([unit(history.heats[i].to(flat)) for i in chosen])
        titles = [history.titles[i] for i in chosen]
        under = f"by epochs trained, up to {moment.title}"
        names = rows(batch, look)
        strip = figures.filmstrip(base, units, [names[i] for i in cards], titles, (head, under), style)
        pictures["/filmstrip"] = render.Picture(render.to_host(strip), about, style.encoding)
    return pictures


@dataclass(frozen=True)
class Album:
    """How pictures are drawn, and the run's maps so far, to which drawing adds."""

    style: Style
    history: History
