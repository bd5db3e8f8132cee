"""What is written beside the maps: captions, titles, the description of a picture. b batch, t targets, u v map."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.data.batch import FixedBatch
from lightning_cam.heat import Norm, maximum
from lightning_cam.render.style import Style
from lightning_cam.render.text import Caption


def captions(batch: FixedBatch, look: Forward, heat: Float[Tensor, "b t *m"], norm: Norm = "positive") -> list[Caption]:
    """A caption for each sample and target: class, probability, right or wrong, raw strength. One transfer."""
    b, t = heat.shape[:2]
    strength, against = (maximum(one.flatten(0, 1)).reshape(b, t).float() for one in (heat, -heat))
    if norm != "symmetric":
        against = torch.full_like(strength, torch.nan)
    missing = torch.full_like(strength, torch.nan)
    classes, p, said, said_p, label = missing, missing, missing, missing, missing
    if look.aim.named is not None:
        none = look.aim.named < 0
        classes = look.aim.named.float().masked_fill(none, torch.nan)
    if isinstance(look.output, Tensor) and look.output.ndim == 2 and look.output.shape[1] > 1:
        multi = batch.labels is not None and batch.labels.shape == look.output.shape  # several may be right: none is "said"
        logits = look.output.detach().float()
        probability = logits.sigmoid() if multi else logits.softmax(1)
        best = probability.max(1, keepdim=True)
        if not multi:
            said, said_p = best.indices.float().expand(b, t), best.values.expand(b, t)
        if look.aim.named is not None:
            p = probability.gather(1, look.aim.named.clamp(min=0))
        if batch.labels is not None and batch.labels.ndim == 1 and not batch.labels.is_floating_point():
            label = batch.labels.float()[:, None].expand(b, t)
    rows = torch.stack([classes, p, said, said_p, label, strength, against], -1).flatten(0, 1).cpu().tolist()
    return [_caption(batch, batch.names[i // t] if batch.names else f"sample {i // t}", *row) for i, row in enumerate(rows)]


def _caption(
    batch: FixedBatch, name: str, c: float, p: float, said: float, said_p: float, label: float, *peaks: float
) -> Caption:
    right = None if label != label or said != said else said == label
    line = name if c != c else batch.class_name(int(c)) + (f" {100 * p:.0f}%" if p == p else "")
    if said == said and said != c:
        line += f", said {batch.class_name(int(said))} {100 * said_p:.0f}%"
    strength, against = peaks
    shown = "no evidence" if not strength > 0 else f"peak {strength:.3g}"
    if against == against and max(against, strength) > 0:
        shown = f"for {max(strength, 0):.3g}, against {max(against, 0):.3g}"
    return Caption(line, shown if line == name else f"{shown} · {name}", right)


def rows(batch: FixedBatch, look: Forward) -> list[str]:
    """A short name for each row of a filmstrip: the sample's label, or which of its targets it is, else its own name."""
    t = look.aim.score.shape[1]
    names = list(batch.names) or [f"sample {i}" for i in range(len(batch))]
    if batch.labels is not None and batch.labels.ndim == 1 and not batch.labels.is_floating_point():
        names = [batch.class_name(i) for i in batch.labels.tolist()]
    elif look.aim.absent is not None and look.aim.named is not None:
        return [batch.class_name(c) if c >= 0 else names[i // t] for i, c in enumerate(look.aim.named.flatten().tolist())]
    return [name for name in names for _ in range(t)]


def description(batch: FixedBatch, layer: str, method: str, look: Forward, target: str, style: Style) -> str:
    """What stays the same over a run, in Markdown; TensorBoard keeps the first of a tag."""
    kept = look.kept.get(layer)  # None where several layers are fused
    scale = style.scale if isinstance(style.scale, str) else f"fixed, {style.scale:g} is hottest"
    fill = {"positive": "0 to maximum", "minmax": "minimum to maximum", "symmetric": "against to for, 0 in the middle"}[
        style.norm
    ]
    lines = {
        "layer": f"`{layer}`" + (", after the in-place operation behind it" if kept and kept.rewritten else ""),
        "method": f"`{method}`",
        "target": f"`{target}`",
        "colours": f"{style.colours}, {fill}, scale: {scale}",
        "batch": f"{len(batch)} samples, {batch.origin}",
        "weights": "as in the model at that moment, evaluation mode",
    }
    return "\n".join(["|  |  |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in lines.items())])


def name_target(spec: Any) -> str:
    """A target in a word."""
    if isinstance(spec, Tensor):
        return "classes given"
    if isinstance(spec, dict):
        return ", ".join(f"{name} {options}" for name, options in spec.items())
    return getattr(spec, "__name__", None) or str(spec)
