"""Style: how maps are shown. It changes pictures, never maps or numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lightning_cam.heat import Norm, Scale, neutral
from lightning_cam.registry import did_you_mean
from lightning_cam.render import colormap as colormaps

Panel = Literal["image", "heat", "overlay"]
Encoding = Literal["jpeg", "png"]
Order = Literal["batch", "suspect"]

_WEIGHT = 10.0  # beyond it all of a picture is white


@dataclass(frozen=True)
class Style:
    """How maps are shown.

    Args:
        colormap: an OpenCV colour map by name, or ``blue_red``; by default ``inferno``, and ``blue_red`` for signed maps. Both
            are safe for colour-blind eyes; ``jet`` is there too.
        alpha: opacity of the hottest place in an overlay, 0 to 1; colder places let more of the image through.
        image_weight: with ``heat_weight``, instead of ``alpha``: overlay = image * image_weight + colour * heat_weight,
            rounded and saturated as ``cv2.addWeighted`` does.
        heat_weight: see ``image_weight``; each defaults to one less the other.
        panels: what is shown of each sample, from ``image``, ``heat`` and ``overlay``.
        norm: what fills the colours: ``positive`` shows [0, maximum] of the raw map, ``minmax`` its [minimum, maximum],
            ``symmetric`` [-m, m] with m its largest absolute value: evidence against and for, laid over the image in grey.
        scale: whose extremes these are: each map's own (``image``; of a map by pixels without its outermost hundredth), those
            of the batch, of the run so far, or a number, the raw value shown as hottest from the first look to the last.
        mean: with ``std``, the normalisation to undo for showing, a value a channel; by default read from the dataset's
            own Normalize transform, never guessed from pixel values.
        std: see ``mean``.
        bands: the channels of the model's input shown as red, green and blue, counted from 0, as [3, 2, 1] of Sentinel-2's
            thirteen; or one, shown in grey. A known normalisation is undone first. Where none is known, or values then lie
            outside 0 to 1, each band of each image is stretched: its 2nd percentile is 0, its 98th full. Of signals, the
            channels that are drawn. By default three and four channels are shown by their first three, others by their mean.
        slices: how many slices of a volume, or frames of a video, are shown.
        tile: the longer side of a panel on a sheet, in pixels.
        encoding: ``jpeg`` or ``png``.
        font: a font file, which comes before all others; by default Pillow's own, and a font of the system for letters that it
            lacks.
        filmstrip_columns: the looks a filmstrip shows at most, the baseline among them.
        outlines: whether the batch's regions are drawn on the pictures, as thin lines, a colour each; below signals as bars.
        number: a metric, such as ``energy_inside``, whose value each sample's caption tells.
        order: of a sheet's cards: ``batch``, or ``suspect``, which puts first what is right with its heat outside the regions
            (``enrichment`` below 1), then what jumped at this look, each with a word that says so.

    Raises:
        ValueError: for a value that is none of these, naming the nearest.

    Example:
        >>> Style(norm="symmetric").colours
        'blue_red'
        >>> Style(image_weight=0.75).weights
        (0.75, 0.25)
    """

    colormap: str | None = None
    alpha: float | None = None
    image_weight: float | None = None
    heat_weight: float | None = None
    panels: Sequence[Panel] = ("image", "heat", "overlay")
    norm: Norm = "positive"
    scale: Scale | float = "image"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    bands: Sequence[int] | None = None
    slices: int = 4
    tile: int = 160
    encoding: Encoding = "jpeg"
    font: str | None = None
    filmstrip_columns: int = 8
    outlines: bool = True
    number: str | None = None
    order: Order = "batch"

    def __post_init__(self) -> None:
        colormaps.check(self.colours)
        _check_choice("norm", self.norm, get_args(Norm))
        _check_choice("encoding", self.encoding, get_args(Encoding))
        _check_choice("order", self.order, get_args(Order))
        for panel in self.panels:
            _check_choice("panels", panel, get_args(Panel))
        if not self.panels or isinstance(self.panels, str):
            raise ValueError(f"Style(panels={self.panels!r}): expected a list of {', '.join(get_args(Panel))}.")
        if isinstance(self.scale, str):
            _check_choice("scale", self.scale, (*get_args(Scale), "a number"))
        elif not self.scale > 0:
            raise ValueError(f"Style(scale={self.scale!r}): a fixed scale is the raw value shown as hottest, above 0.")
        _in_range("alpha", self.alpha, 1.0, "0 to 1")
        _in_range("image_weight", self.image_weight, _WEIGHT, "0 or more")
        _in_range("heat_weight", self.heat_weight, _WEIGHT, "0 or more")
        if self.alpha is not None and self.weights is not None:
            raise ValueError("Style takes alpha, or image_weight and heat_weight, not both.")
        if (self.mean is None) != (self.std is None):
            raise ValueError("Style(mean=..., std=...) belong together; only one was given.")
        if self.std is not None and not all(s > 0 for s in self.std):
            raise ValueError(f"Style(std={self.std!r}): standard deviations are above 0.")
        if self.bands is not None:
            _check_bands(self.bands)
        if not 1 <= self.slices <= 32:
            raise ValueError(f"Style(slices={self.slices!r}): expected 1 to 32.")
        if not 32 <= self.tile <= 2048:
            raise ValueError(f"Style(tile={self.tile!r}): expected 32 to 2048 pixels.")
        if self.filmstrip_columns < 2:
            raise ValueError(
                f"Style(filmstrip_columns={self.filmstrip_columns}): expected at least 2, the baseline and one more."
            )
        if self.font is not None and not Path(self.font).is_file():
            raise ValueError(f"Style(font={self.font!r}): no such file.")

    @property
    def weights(self) -> tuple[float, float] | None:
        """(image_weight, heat_weight) where the overlay is a weighted sum, else None."""
        image = self.image_weight
        heat = self.heat_weight
        if image is None and heat is None:
            return None
        # a weight that is left out completes the other to 1
        if image is None:
            image = _rest(heat)
        if heat is None:
            heat = _rest(image)
        return image, heat

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std), if given."""
        if self.mean is None or self.std is None:
            return None
        return tuple(self.mean), tuple(self.std)

    @property
    def colours(self) -> str:
        """The colour map's name."""
        if self.colormap:
            return self.colormap
        if self.norm == "symmetric":
            return "blue_red"
        return "inferno"

    @property
    def neutral(self) -> float:
        """What stands for no evidence among values scaled to [0, 1]."""
        return neutral(self.norm)

    @property
    def opacity(self) -> float:
        """Opacity of the hottest place where the overlay is not a weighted sum."""
        if self.alpha is not None:
            return self.alpha
        # two colours on grey bear more than one over a photograph's own
        if self.norm == "symmetric":
            return 0.85
        return 0.7


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"Style({name}={value!r}): expected one of {', '.join(known)}.{did_you_mean(str(value), known)}")


def _check_bands(bands: Sequence[int]) -> None:
    several = isinstance(bands, Sequence) and len(bands) in (1, 3)
    # exactly int: True is no channel
    if not several or not all(type(band) is int and band >= 0 for band in bands):
        raise ValueError(
            f"Style(bands={bands!r}): expected three channels, counted from 0, for red, green and blue, "
            "such as bands=[3, 2, 1], or one for grey, bands=[0]."
        )


def _in_range(name: str, value: float | None, most: float, expected: str) -> None:
    if value is not None and not 0 <= value <= most:
        raise ValueError(f"Style({name}={value!r}): expected {expected}.")


def _rest(weight: float | None) -> float:
    """What is left of 1, nothing beyond it."""
    if weight is None:
        return 1.0
    return max(0.0, 1.0 - weight)
