"""``explain``: one look at a model, without a run. b batch, t targets, m map (u v for pictures), h w image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from lightning.fabric.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_cam.capture.session import open_session
from lightning_cam.data.batch import Batch
from lightning_cam.data.class_names import class_name
from lightning_cam.data.loader import load_samples
from lightning_cam.figures.cards import Cards
from lightning_cam.figures.sheet import sheet
from lightning_cam.heat import maximum
from lightning_cam.methods.apply import map_plans
from lightning_cam.methods.fusion import find_fusion
from lightning_cam.model.call import ForwardOption, ModelCall, check_forward
from lightning_cam.model.output import Output
from lightning_cam.registry import METHODS
from lightning_cam.render.picture import FILE_ENDINGS, encode, to_host
from lightning_cam.render.style import Encoding, Style
from lightning_cam.render.text import Caption
from lightning_cam.targets.adapters import find


@dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of one look, and the numbers that they explain.

    Attributes:
        heat: raw maps at layer resolution, signed where the method is; [b u v], or [b t u v] for several targets; of signals
            and volumes with one or three sides.
        score: the numbers explained, [b] or [b t].
        logits: the model's output, [b k] for a classifier; where that is probabilities, the logits explained.
        classes: the classes explained, [b] or [b t], where the target is a class.
        layer: the layer's name, or the fusion and the names of its layers.
        method: the method's name.
        images: the input, or the pictures that it stands for.
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
        cards = self._cards(style, range(len(self._flat)))
        drawn = cards.overlays(self._flat)
        if self._several:
            drawn = drawn.reshape(-1, self._targets, *drawn.shape[1:])
        return drawn

    def normalized(self, style: Style | None = None) -> Float[Tensor, "*b u v"]:
        """The maps scaled to [0, 1] as the style says; the scale ``run`` means the same as ``batch`` here."""
        cards = self._cards(style, range(len(self._flat)))
        return cards.normalized(self._flat).reshape(self.heat.shape)

    def sheet(self, style: Style | None = None, names: Sequence[str] | None = None) -> UInt8[Tensor, "3 height width"]:
        """All of it as one picture: a card for each image and target, and the colour scale.

        Args:
            style: how maps are shown.
            names: the images' names; by default their numbers.

        Raises:
            ValueError: for another number of names than of images.
        """
        cards = self._cards(style, self._present)
        captions = self._captions(self._names(names))
        count = "1 sample" if len(self.images) == 1 else f"{len(self.images)} samples"
        columns = None
        if self._several:
            count += f", {self._targets} targets each"
            # a row a sample only where no card is left out, or a column would mix targets
            if len(self._present) == len(captions):
                columns = self._targets
        title = f"{self.method} at {self.layer}", count
        words = [captions[i] for i in self._present]
        return sheet(cards.base, cards.normalized(self._flat), words, title, cards.style, columns)

    def save_sheet(self, path: str | Path, style: Style | None = None, names: Sequence[str] | None = None) -> Path:
        """Write the sheet as one picture; ``.png`` as PNG, else as JPEG."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding: Encoding = "jpeg"
        if path.suffix.lower() == ".png":
            encoding = "png"
        path.write_bytes(encode(to_host(self.sheet(style, names)), encoding))
        return path

    def save(self, folder: str | Path, names: Sequence[str] | None = None, style: Style | None = None) -> list[Path]:
        """Write ``<name>_<method>.jpg`` for each image, ``<name>_<method>_<class>.jpg`` for several targets.

        Raises:
            ValueError: for another number of names than of images.
        """
        names = self._names(names)
        cards = self._cards(style, range(len(self._flat)))
        pixels = to_host(cards.pictures(self._flat))
        encoding = cards.style.encoding
        Path(folder).mkdir(parents=True, exist_ok=True)
        paths = []
        for i in self._present:
            name = f"{names[i // self._targets]}_{self.method}{self._target_suffix(i)}"
            path = Path(folder) / f"{name}.{FILE_ENDINGS[encoding]}"
            path.write_bytes(encode(pixels[i], encoding))
            paths.append(path)
        return paths

    @property
    def _several(self) -> bool:
        return self.score.ndim == 2

    @property
    def _targets(self) -> int:
        return self.score.shape[1] if self._several else 1

    @property
    def _flat(self) -> Float[Tensor, "n *m"]:
        return self.heat.flatten(0, 1) if self._several else self.heat

    @property
    def _classes(self) -> list[int]:
        """The class of each map, -1 where there is none."""
        if self.classes is None:
            return [-1] * self.score.numel()
        classes: list[int] = self.classes.flatten().tolist()
        return classes

    @property
    def _present(self) -> list[int]:
        """Positions of the maps to show: not those of absent targets, whose score is NaN; all if none has a number."""
        present = ~self.score.flatten().isnan()
        positions: list[int] = (present | ~present.any()).nonzero()[:, 0].tolist()
        return positions

    def _target_suffix(self, position: int) -> str:
        if not self._several:
            return ""
        if self._classes[position] < 0:
            return f"_{position % self._targets}"
        return f"_{self._classes[position]}"

    def _cards(self, style: Style | None, positions: Sequence[int]) -> Cards:
        style = style or Style()
        return Cards.of(self.images, list(positions), len(self._flat), style, style.normalization)

    def _captions(self, names: Sequence[str]) -> list[Caption]:
        numbers = torch.stack([self.score.flatten().float(), maximum(self._flat).float()], 1).tolist()
        captions = []
        for i, (class_id, (score, strength)) in enumerate(zip(self._classes, numbers, strict=True)):
            line = names[i // self._targets]
            if class_id >= 0:
                line = f"{class_name(class_id, {})} · {line}"
            captions.append(Caption(line, f"score {score:.3g}, peak {strength:.3g}"))
        return captions

    def _names(self, names: Sequence[str] | None) -> Sequence[str]:
        if not names:
            return [f"{i:03d}" for i in range(len(self.images))]
        if len(names) != len(self.images):
            raise ValueError(f"{len(names)} names were given for {len(self.images)} images.")
        return names


def explain(
    model: nn.Module,
    images: Tensor | Batch,
    *,
    layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
    method: Any = "grad_cam",
    target: Any = "predicted",
    forward: ForwardOption = None,
    batch: Any = None,
    output: Output = None,
    fuse: str | dict[str, Any] | Callable[..., Any] | None = None,
) -> Explanation:
    """Look at a model once. The model is left as it was: modes, gradients, buffers, hooks, random states.

    Args:
        model: any module; it is explained in evaluation mode, on the device it is on.
        images: one image [c h w] or a batch [b c h w], prepared as the model expects it; for a model that begins with a
            convolution over one or three dimensions, signals [c l] or [b c l], volumes [c d h w] or [b c d h w]. Or a ``Batch``
            handed in, ``Batch(samples=batch, image=..., picture=...)``, which says what of it is shown.
        layer: dotted name or module, or several to fuse; by default the last module that returns a map.
        method: a name of ``lightning_cam.methods.names()``, with options as ``{name: {option: value}}``, or a callable.
        target: a name of ``lightning_cam.targets.names()`` that needs no labels, such as ``"predicted"``, with options as
            ``{"top_k": {"k": 5}}``; a class for all, classes [b], or [b t] with -1 where a sample has fewer; a callable, or a
            list of these.
        forward: how the model is run: by default on the images, and on what else its ``forward`` asks for by name, out of
            ``batch``; a method's name; or a callable ``(model, images, batch) -> output``.
        batch: what else belongs to the images, such as ``{"place": place}``.
        output: where the logits are in the model's output: key, position, attribute or callable.
        fuse: how the maps of several layers become one: a name of ``lightning_cam.fuse.names()`` or a callable.

    Raises:
        ValueError: for anything that names something the model, the layer or a family does not have.

    Example:
        >>> explain(resnet18(), torch.rand(2, 3, 224, 224)).heat.shape
        torch.Size([2, 7, 7])
    """
    entry = METHODS.find(method)
    chosen_target = find(target)
    layers = _listed(layer)
    fusion = find_fusion(fuse, layers)
    if len(layers) > 1 and fusion is None:
        raise ValueError(f"{len(layers)} layers give {len(layers)} maps: name one layer, or fuse='mean' to make one of them.")
    samples = load_samples(model, images, batch)
    call = ModelCall(check_forward(forward), samples.inputs, samples.picture)
    with open_session(model, layers, samples.images, output=output, call=call) as session:
        result = session.forward(samples.images, chosen_target)
        # a single method, and several layers are fused, so there is a single plan
        (plan,) = map_plans(session.layers, [entry], fusion)
        heat = plan.heat(result)
        title = plan.title(result)
        for text in result.in_words():
            rank_zero_info(f"explain: {text}")
    choice = result.target_scores.choice
    # a graph held by the result would hold the model's activations too
    score = result.target_scores.score.detach()
    classes = None
    if choice.logit:
        classes = choice.classes
    if choice.single:
        heat = heat[:, 0]
        score = score[:, 0]
    if choice.single and classes is not None:
        classes = classes[:, 0]
    return Explanation(heat, score, result.logits, classes, title, entry.label, samples.pictures)


def _listed(layer: Any) -> list[str | nn.Module]:
    if layer is None:
        return []
    if isinstance(layer, list | tuple):
        return list(layer)
    return [layer]
