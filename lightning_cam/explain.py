"""``explain``: one look at a model, without a Trainer. b batch, t targets, u v map, h w image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from lightning_cam import figures, render
from lightning_cam.capture.hooks import watch
from lightning_cam.heat import maximum, rescale, value_range
from lightning_cam.methods.apply import heats
from lightning_cam.methods.fusion import find as find_fusion
from lightning_cam.model.default_layer import find_default_layer
from lightning_cam.model.layout import spatial_dims
from lightning_cam.model.names import find_layer
from lightning_cam.model.output import Output, find_logits
from lightning_cam.no_trace import no_trace
from lightning_cam.registry import METHODS
from lightning_cam.render.style import Style
from lightning_cam.targets.target import find as find_target


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one look showed.

    Attributes:
        heat: raw maps at layer resolution, signed where the method is; [b u v], or [b t u v] for several targets; of signals
            and volumes with one or three sides.
        score: the numbers explained, [b] or [b t].
        logits: the model's output, [b k] for a classifier.
        classes: the classes explained, [b] or [b t], where the target is a class.
        layer: the layer's name, or the fusion and the names of its layers.
        method: the method's name.
        images: the input.
    """

    heat: Float[Tensor, "b ..."]
    score: Float[Tensor, "b ..."]
    logits: Any
    classes: Shaped[Tensor, "b ..."] | None
    layer: str
    method: str
    images: Shaped[Tensor, "n ..."]

    def overlay(self, style: Style | None = None) -> UInt8[Tensor, "..."]:
        """Every map over its image, at the image's size: [b 3 h w], or [b t 3 h w] for several targets.

        Of volumes every slice, [b 3 d h w]; signals as lines of the style's size. An absent target shows no heat.
        """
        drawn = self._drawn(render.overlays, style or Style())
        return drawn.unflatten(0, (-1, self._targets)) if self._several else drawn

    def unit(self, style: Style | None = None) -> Float[Tensor, "*b u v"]:
        """The maps scaled to [0, 1] as the style says; ``run`` means the same as ``batch`` here."""
        style = style or Style()
        flat = self.heat.flatten(0, 1) if self._several else self.heat
        return rescale(flat, *value_range(flat, style.norm, style.scale), style.neutral).reshape(self.heat.shape)

    def sheet(self, style: Style | None = None, names: Sequence[str] | None = None) -> UInt8[Tensor, "3 height width"]:
        """All of it as one picture: a card for each image and target, and the colour scale.

        Args:
            style: how maps are shown.
            names: the images' names; by default their numbers.
        """
        style, t = style or Style(), self._targets
        heat = self.heat.flatten(0, 1) if self._several else self.heat
        told = torch.stack([self.score.flatten().float(), maximum(heat).float(), self._classes.flatten().float()], 1)
        words = []
        for i, (score, strong, c) in enumerate(told.tolist()):
            name = self._names(names)[i // t]
            words.append(render.Caption(name if c < 0 else f"class {c:.0f} · {name}", f"score {score:.3g}, peak {strong:.3g}"))
        cards = self._present
        base = render.displayable(self.images, style.normalization).repeat_interleave(t, 0)[cards]
        unit = self.unit(style).reshape(heat.shape)[cards]
        count = "1 sample" if len(self.images) == 1 else f"{len(self.images)} samples"
        count += f", {t} targets each" if self._several else ""
        columns = t if self._several and len(cards) == len(words) else None
        title = f"{self.method} at {self.layer}", count
        return figures.sheet(base, unit, [words[i] for i in cards], title, style, columns)

    def save(self, folder: str | Path, names: Sequence[str] | None = None, style: Style | None = None) -> list[Path]:
        """Write ``<name>_<method>.jpg`` for each image, ``<name>_<method>_<class>.jpg`` for several targets."""
        style, t = style or Style(), self._targets
        names = self._names(names)
        pixels = render.to_host(self._drawn(render.flat, style))
        classes = self._classes.flatten().tolist()
        ending = "jpg" if style.encoding == "jpeg" else "png"
        Path(folder).mkdir(parents=True, exist_ok=True)
        written = []
        for i in self._present:
            which = f"_{classes[i] if classes[i] >= 0 else i % t}" if self._several else ""
            written.append(Path(folder) / f"{names[i // t]}_{self.method}{which}.{ending}")
            written[-1].write_bytes(render.encode(pixels[i], style.encoding))
        return written

    @property
    def _several(self) -> bool:
        return self.score.ndim == 2

    @property
    def _targets(self) -> int:
        return self.score.shape[1] if self._several else 1

    @property
    def _classes(self) -> Tensor:
        return torch.full_like(self.score, -1).long() if self.classes is None else self.classes

    @property
    def _present(self) -> list[int]:
        """Positions of the maps to show: not those of absent targets, whose score is NaN; all if none has a number."""
        there = ~self.score.flatten().isnan()
        return (there | ~there.any()).nonzero()[:, 0].tolist()

    def _names(self, names: Sequence[str] | None) -> Sequence[str]:
        names = names or [f"{i:03d}" for i in range(len(self.images))]
        if len(names) != len(self.images):
            raise ValueError(f"{len(names)} names were given for {len(self.images)} images.")
        return names

    def _drawn(self, draw: Callable[..., Tensor], style: Style) -> Tensor:
        base = render.displayable(self.images, style.normalization).repeat_interleave(self._targets, 0)
        return draw(base, self.unit(style).reshape(len(base), *self.heat.shape[2 if self._several else 1 :]), style)


def explain(
    model: nn.Module,
    images: Tensor,
    *,
    layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
    method: Any = "grad_cam",
    target: Any = "predicted",
    output: Output = None,
    fuse: Any = None,
) -> Explanation:
    """Look at a model once. The model is left as it was: modes, gradients, buffers, hooks, random states.

    Args:
        model: any module; it is explained in evaluation mode, on the device it is on.
        images: one image [c h w] or a batch [b c h w], prepared as the model expects it; for a model that begins with a
            convolution over one or three dimensions, signals [c l] or [b c l], volumes [c d h w] or [b c d h w].
        layer: dotted name or module, or several to fuse; by default the last module that returns a map.
        method: a name of ``lightning_cam.methods.names()``, with options as ``{name: {option: value}}``, or a callable.
        target: a name of ``lightning_cam.targets.names()`` that needs no labels, such as ``"predicted"``, with options as
            ``{"top_k": {"k": 5}}``; a class for all, classes [b], or [b t] with -1 where a sample has fewer; a callable, or a
            list of these.
        output: where the logits are in the model's output: key, position, attribute or callable.
        fuse: how the maps of several layers become one: a name of ``lightning_cam.fuse.names()`` or a callable.

    Raises:
        ValueError: for anything that names something the model, the layer or a family does not have.

    Example:
        >>> explain(resnet18(), torch.rand(2, 3, 224, 224)).heat.shape
        torch.Size([2, 7, 7])
    """
    how, aimed = METHODS.find(method), find_target(target)
    listed: list[Any] = list(layer) if isinstance(layer, list | tuple) else [] if layer is None else [layer]
    fusion = find_fusion(fuse, listed)
    if len(listed) > 1 and fusion is None:
        raise ValueError(f"{len(listed)} layers give {len(listed)} maps: name one layer, or fuse='mean' to make one of them.")
    sides = spatial_dims(model)
    shape = ("c l", "c h w", "c d h w")[sides - 1]
    if not isinstance(images, Tensor) or images.ndim not in (sides + 1, sides + 2):
        given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"explain takes images [b {shape}] or one image [{shape}] as a tensor; got {given}.")
    with no_trace(model):
        weight = next(model.parameters(), None)
        batch = images if images.ndim == sides + 2 else images[None]
        images = batch.to(batch.device if weight is None else weight.device)
        run = lambda x: find_logits(model(x), output)  # noqa: E731
        names = [find_layer(model, one) for one in listed] or [find_default_layer(model, images, run)]
        with watch(model, names) as look_at:
            look = look_at(images, aimed, output=output)
            (shown,) = heats(look, names, [how], fusion)
    single = look.aim.single
    classes = look.aim.classes
    return Explanation(
        heat=shown.heat[:, 0] if single else shown.heat,
        score=look.aim.score.detach()[:, 0] if single else look.aim.score.detach(),
        logits=look.output.detach() if isinstance(look.output, Tensor) else look.output,
        classes=classes if classes is None or not single else classes[:, 0],
        layer=shown.title,
        method=how.label,
        images=images,
    )
