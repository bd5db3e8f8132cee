"""Explanation: the maps of one look, drawn and written. b batch, t targets, n maps, m map (u v for pictures), h w image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from lightning_cam.data.class_names import class_name
from lightning_cam.figures.captions import file_words, plain_captions
from lightning_cam.figures.cards import Cards
from lightning_cam.figures.sheet import sheet
from lightning_cam.heat import Norm, maximum
from lightning_cam.render.picture import FILE_ENDINGS, encode, to_host
from lightning_cam.render.style import Encoding, Style
from lightning_cam.render.text import Caption


@dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of one look, and the numbers that they explain.

    Attributes:
        heat: raw maps at layer resolution, signed where the method is; [b u v], or [b t u v] for several targets; of signals
            and volumes with one or three sides.
        score: the numbers explained, [b] or [b t].
        logits: the model's output, [b k] for a classifier.
        classes: the classes explained, [b] or [b t], where the target is a class.
        layer: the layer's name, or the fusion and the names of its layers.
        method: the method's name.
        images: the input, or the pictures that it stands for.
        on_map: the share of each score's evidence at the layer that is on the map, 0 to 1, [b] or [b t]; None where no class
            or register tokens have the rest, for maps fused of several layers, and with a method that takes no gradient.
        target_names: the targets' own names, such as prompts, where they are of no classes.
        probability: of every class, [b k]: what the model gives if it ends in a softmax or sigmoid, else the softmax of its
            logits, of a single one the sigmoid; None where the output is no logits [b k].
    """

    heat: Float[Tensor, "b ..."]
    score: Float[Tensor, "b ..."]
    logits: Any
    classes: Shaped[Tensor, "b ..."] | None
    layer: str
    method: str
    images: Shaped[Tensor, "n ..."]
    on_map: Float[Tensor, "b ..."] | None = None
    target_names: tuple[str, ...] = ()
    probability: Float[Tensor, "b k"] | None = None

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
        captions = self._captions(self._names(names), cards.style.norm)
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
    def _target_words(self) -> list[str]:
        """The target of each map in words: its class, or its own name; empty where it has neither."""
        own = self.target_names or [""] * self._targets
        words = []
        for i, class_id in enumerate(self._classes):
            target = own[i % self._targets]
            if class_id >= 0:
                target = class_name(class_id, {})
            words.append(target)
        return words

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
            return f"_{file_words(self.target_names or [''] * self._targets)[position % self._targets]}"
        return f"_{self._classes[position]}"

    def _cards(self, style: Style | None, positions: Sequence[int]) -> Cards:
        style = style or Style()
        return Cards.of(self.images, list(positions), len(self._flat), style, style.normalization)

    def _captions(self, names: Sequence[str], norm: Norm = "positive") -> list[Caption]:
        names = [names[i // self._targets] for i in range(len(self._flat))]
        numbers = torch.stack([self.score.flatten().float(), maximum(self._flat).float()], 1)
        on_map = self.on_map
        if on_map is not None:
            drawn = self._flat.abs() if norm == "symmetric" else self._flat
            # beside a map without evidence a share of it would contradict the picture
            on_map = on_map.flatten().where(maximum(drawn) > 0, torch.nan)
        return plain_captions(names, self._target_words, numbers, on_map)

    def _names(self, names: Sequence[str] | None) -> Sequence[str]:
        if not names:
            return [f"{i:03d}" for i in range(len(self.images))]
        if len(names) != len(self.images):
            raise ValueError(f"{len(names)} names were given for {len(self.images)} images.")
        return names
