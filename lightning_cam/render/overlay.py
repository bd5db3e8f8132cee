"""Heat over an image, on the device. b batch, c channels, k bands shown, s sides, h w image, u v map."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from lightning_cam.heat import resize
from lightning_cam.render.colormap import colour
from lightning_cam.render.style import Style

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_DARK = 2  # percent of a band's values
_BRIGHT = 98


def to_rgb(
    images: Shaped[Tensor, "b c *s"],
    normalization: Normalization | None,
    bands: Sequence[int] | None = None,
) -> UInt8[Tensor, "b 3 *s"]:
    """The model's input as RGB: normalisation undone if known, values clipped to [0, 1], channels made three.

    One channel is shown grey, three and four by their first three, any other number by its mean. uint8 is shown as it is.
    Of bands, other values than uint8 are stretched, where no normalisation is known or they lie outside [0, 1] without it.

    Args:
        images: the model's input.
        normalization: mean and standard deviation, a value a channel.
        bands: the channels shown as red, green and blue, or the one shown grey; by default as above.

    Raises:
        ValueError: if the normalisation has another number of channels than the image, or the image not all of the bands.

    Example:
        >>> to_rgb(torch.tensor([[[[0.0, 0.2, 7.0]]]]), None)[0, :, 0].tolist()
        [[0, 51, 255], [0, 51, 255], [0, 51, 255]]
        >>> to_rgb(torch.arange(505.0).reshape(1, 5, 1, 101), None, [4])[0, 0, 0, [0, 2, 50, 98, 100]].tolist()
        [0, 0, 128, 255, 255]
    """
    chosen = select_bands(images, bands)
    if images.dtype != torch.uint8:
        values = select_bands(denormalized(images, normalization), bands)
        if bands is not None and (normalization is None or looks_normalized(values)):
            values = stretched(values)
        chosen = (values.nan_to_num(0).clamp(0, 1) * 255).round()
    if chosen.shape[1] in (3, 4):
        return chosen[:, :3].to(torch.uint8)
    mean = chosen.float().mean(1, keepdim=True).round()
    return mean.expand(-1, 3, *chosen.shape[2:]).to(torch.uint8)


def select_bands(images: Shaped[Tensor, "b c *s"], bands: Sequence[int] | None) -> Shaped[Tensor, "b k *s"]:
    """The channels named, in this order; all where none is.

    Raises:
        ValueError: for a channel that the images do not have.
    """
    if bands is None:
        return images
    channels = images.shape[1]
    if max(bands) >= channels:
        there = [min(band, channels - 1) for band in bands]
        raise ValueError(
            f"Style(bands={list(bands)}): the images have {channels} channels, 0 to {channels - 1}; "
            f"choose from these, such as Style(bands={there})."
        )
    return images[:, list(bands)]


def stretched(bands: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """Each band of each image scaled linearly, so that its 2nd percentile is 0 and its 98th 1; values beyond lie outside.

    Percentiles are interpolated between neighbours, as NumPy's are by default, over the values that are finite. A band in
    which both are the same is scaled from its smallest value to its largest; a constant one is 0.

    Example:
        >>> stretched(torch.arange(101.0).reshape(1, 1, 101))[0, 0, [2, 50, 98]].tolist()
        [0.0, 0.5, 1.0]
    """
    flat = bands.flatten(2)
    # behind all others
    ordered = flat.where(flat.isfinite(), torch.nan).sort(2).values
    count = flat.isfinite().sum(2, keepdim=True)
    low = _percentile(ordered, count, _DARK)
    high = _percentile(ordered, count, _BRIGHT)
    # where few pixels are all there is, they are shown
    apart = high > low
    low = low.where(apart, _percentile(ordered, count, 0))
    high = high.where(apart, _percentile(ordered, count, 100))
    span = high - low
    return ((flat - low) / span.where(span > 0, 1)).reshape(bands.shape)


def _percentile(ordered: Float[Tensor, "b k n"], count: Int[Tensor, "b k 1"], percent: int) -> Float[Tensor, "b k 1"]:
    """A percentile of the first ``count`` of values in order."""
    # in whole numbers: a float32 cannot count the places of a large image
    hundredths = (count - 1).clamp(min=0) * percent
    below = hundredths // 100
    above = torch.minimum(below + 1, (count - 1).clamp(min=0))
    weight = (hundredths % 100).to(ordered.dtype) / 100
    return torch.lerp(ordered.gather(2, below), ordered.gather(2, above), weight)


def denormalized(images: Shaped[Tensor, "b c *s"], normalization: Normalization | None) -> Float[Tensor, "b c *s"]:
    """The model's input as numbers, normalisation undone if known.

    Raises:
        ValueError: if the normalisation has another number of channels than the image.
    """
    images = images.detach().float()
    if normalization is None:
        return images
    ones = [1] * (images.ndim - 2)
    mean = images.new_tensor(normalization[0]).reshape(-1, *ones)
    std = images.new_tensor(normalization[1]).reshape(-1, *ones)
    if len(mean) not in (1, images.shape[1]):
        raise ValueError(f"The normalisation has {len(mean)} channels and the image {images.shape[1]}.")
    return images * std + mean


def looks_normalized(images: Shaped[Tensor, "b c *s"]) -> bool:
    """Whether pixels lie so far outside [0, 1] that a normalisation must have been applied; signals may lie anywhere."""
    if images.ndim <= 3 or not images.is_floating_point():
        return False
    return bool((images.amin() < -0.01) | (images.amax() > 1.01))


def display_advice(images: Shaped[Tensor, "b c *s"]) -> str:
    """The line to write where images lie outside [0, 1] and nothing says why."""
    channels = images.shape[1]
    if channels <= 4:
        return "Style(mean=..., std=...)"
    return f"Style(bands=[3, 2, 1]) to show three of the {channels} channels, stretched, or Style(mean=..., std=...)"


def fit(pictures: UInt8[Tensor, "b 3 h w"], tile: int) -> UInt8[Tensor, "b 3 y x"]:
    """Resize so that the longer side is ``tile`` pixels; smoothed when it shrinks.

    Example:
        >>> fit(torch.zeros(1, 3, 40, 80, dtype=torch.uint8), 160).shape
        torch.Size([1, 3, 80, 160])
    """
    h, w = pictures.shape[-2:]
    longer = max(h, w)
    # the shorter side of a thin strip is not to vanish
    size = max(1, round(h * tile / longer)), max(1, round(w * tile / longer))
    if size == (h, w):
        return pictures
    # without smoothing, fine patterns turn into coarse ones that are not in the picture
    resized = F.interpolate(pictures.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return _to_uint8(resized)


def blend(pictures: UInt8[Tensor, "*b 3 h w"], normalized: Float[Tensor, "*b h w"], style: Style) -> UInt8[Tensor, "*b 3 h w"]:
    """Lay coloured heat over pictures: by weights, or by an opacity that grows with the heat.

    Signed heat lies on the picture in grey, since two colours of heat are not told from those of a picture. There opacity
    grows with |value|, and the colour with its root, so that weak evidence is seen to be for or against.
    """
    if style.weights is not None:
        return add_weighted(pictures, colour(normalized, style.colours), *style.weights)
    if style.norm == "symmetric":
        value = 2 * normalized - 1
        root = value.sign() * value.abs().sqrt()
        hot = colour((root + 1) / 2, style.colours)
        return _over(grey(pictures), hot, style.opacity * value.abs())
    return _over(pictures, colour(normalized, style.colours), style.opacity * normalized)


def grey(pictures: UInt8[Tensor, "*b 3 h w"]) -> UInt8[Tensor, "*b 3 h w"]:
    """Pictures without colour, of the same luma (ITU-R BT.601)."""
    luma = pictures.float().movedim(-3, -1) @ torch.tensor(_LUMA, device=pictures.device)
    return _to_uint8(luma)[..., None, :, :].expand(pictures.shape)


def add_weighted(
    first: UInt8[Tensor, "*b 3 h w"], second: UInt8[Tensor, "*b 3 h w"], alpha: float, beta: float
) -> UInt8[Tensor, "*b 3 h w"]:
    """``first * alpha + second * beta``, rounded and saturated to uint8 as ``cv2.addWeighted`` does.

    Example:
        >>> black, white = torch.zeros(3, 1, 1, dtype=torch.uint8), torch.full((3, 1, 1), 255, dtype=torch.uint8)
        >>> add_weighted(black, white, 0.5, 0.4).flatten().tolist()
        [102, 102, 102]
    """
    return _to_uint8(first.float() * alpha + second.float() * beta)


def shown(normalized: Float[Tensor, "..."], size: Sequence[int]) -> Float[Tensor, "..."]:
    """Values in [0, 1] at the picture's size."""
    return resize(normalized, size).clamp(0, 1)


def _over(
    pictures: UInt8[Tensor, "*b 3 h w"], hot: UInt8[Tensor, "*b 3 h w"], opacity: Float[Tensor, "*b h w"]
) -> UInt8[Tensor, "*b 3 h w"]:
    opaque = opacity[..., None, :, :]
    return _to_uint8(pictures * (1 - opaque) + hot * opaque)


def _to_uint8(values: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Rounded and saturated."""
    return values.round().clamp(0, 255).to(torch.uint8)
