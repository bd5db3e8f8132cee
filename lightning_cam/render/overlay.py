"""Heat over an image, on the device. b batch, c channels, h w image, u v map."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from lightning_cam.heat import resize
from lightning_cam.render.colormap import colour
from lightning_cam.render.style import Style

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_rgb(images: Shaped[Tensor, "b c *s"], normalization: Normalization | None) -> UInt8[Tensor, "b 3 *s"]:
    """The model's input as RGB: normalisation undone if known, values clipped to [0, 1], channels made three.

    One channel is shown grey, three and four by their first three, any other number by its mean. uint8 is shown as it is.

    Raises:
        ValueError: if the normalisation has another number of channels than the image.

    Example:
        >>> to_rgb(torch.tensor([[[[0.0, 0.2, 7.0]]]]), None)[0, :, 0].tolist()
        [[0, 51, 255], [0, 51, 255], [0, 51, 255]]
    """
    if images.dtype != torch.uint8:
        values = denormalized(images, normalization).nan_to_num(0).clamp(0, 1)
        images = (values * 255).round()
    if images.shape[1] in (3, 4):
        return images[:, :3].to(torch.uint8)
    mean = images.float().mean(1, keepdim=True).round()
    return mean.expand(-1, 3, *images.shape[2:]).to(torch.uint8)


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
