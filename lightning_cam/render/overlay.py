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


def to_rgb(images: Shaped[Tensor, "b c *s"], normalization: Normalization | None) -> UInt8[Tensor, "b 3 *s"]:
    """The model's input as RGB: normalisation undone if known, values clipped to [0, 1], channels made three.

    One channel is shown grey, three and four by their first three, any other number by its mean. uint8 is shown as it is.

    Raises:
        ValueError: if the normalisation has another number of channels than the image.
    """
    if images.dtype != torch.uint8:
        images = (denormalized(images, normalization).nan_to_num(0).clamp(0, 1) * 255).round()
    c = images.shape[1]
    rgb = images[:, :3] if c in (3, 4) else images.float().mean(1, keepdim=True).round().expand(-1, 3, *images.shape[2:])
    return rgb.to(torch.uint8)


def denormalized(images: Shaped[Tensor, "b c *s"], normalization: Normalization | None) -> Float[Tensor, "b c *s"]:
    """The model's input as numbers, normalisation undone if known."""
    images = images.detach().float()
    if normalization is None:
        return images
    mean, std = (images.new_tensor(v).reshape(-1, *(1,) * (images.ndim - 2)) for v in normalization)
    if len(mean) not in (1, images.shape[1]):
        raise ValueError(f"The normalisation has {len(mean)} channels and the image {images.shape[1]}.")
    return images * std + mean


def looks_normalized(images: Shaped[Tensor, "b c *s"]) -> bool:
    """Whether pixels lie so far outside [0, 1] that a normalisation must have been applied; signals may lie anywhere."""
    return images.ndim > 3 and images.is_floating_point() and bool((images.amin() < -0.01) | (images.amax() > 1.01))


def fit(pictures: UInt8[Tensor, "b 3 h w"], tile: int) -> UInt8[Tensor, "b 3 y x"]:
    """Resize so that the longer side is ``tile`` pixels; smoothed when it shrinks."""
    h, w = pictures.shape[-2:]
    size = max(1, round(h * tile / max(h, w))), max(1, round(w * tile / max(h, w)))
    if size == (h, w):
        return pictures
    resized = F.interpolate(pictures.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def blend(pictures: UInt8[Tensor, "*b 3 h w"], unit: Float[Tensor, "*b h w"], style: Style) -> UInt8[Tensor, "*b 3 h w"]:
    """Lay coloured heat over pictures: by weights, or by an opacity that grows with the heat.

    Signed heat lies on the picture in grey, since two colours of heat are not told from those of a picture. There opacity
    grows with |value|, and the colour with its root, so that weak evidence is seen to be for or against.
    """
    if style.weights is not None:
        return add_weighted(pictures, colour(unit, style.colours), *style.weights)
    if style.norm == "symmetric":
        value = 2 * unit - 1
        hot = colour((value.sign() * value.abs().sqrt() + 1) / 2, style.colours)
        return _over(grey(pictures), hot, style.opacity * value.abs())
    return _over(pictures, colour(unit, style.colours), style.opacity * unit)


def grey(pictures: UInt8[Tensor, "*b 3 h w"]) -> UInt8[Tensor, "*b 3 h w"]:
    """Pictures without colour, of the same luma (ITU-R BT.601)."""
    luma = pictures.float().movedim(-3, -1) @ torch.tensor([0.299, 0.587, 0.114], device=pictures.device)
    return luma.round().clamp(0, 255).to(torch.uint8)[..., None, :, :].expand(pictures.shape)


def _over(
    pictures: UInt8[Tensor, "*b 3 h w"], hot: UInt8[Tensor, "*b 3 h w"], opacity: Float[Tensor, "*b h w"]
) -> UInt8[Tensor, "*b 3 h w"]:
    opaque = opacity[..., None, :, :]
    return (pictures * (1 - opaque) + hot * opaque).round().clamp(0, 255).to(torch.uint8)


def add_weighted(
    first: UInt8[Tensor, "*b 3 h w"], second: UInt8[Tensor, "*b 3 h w"], alpha: float, beta: float
) -> UInt8[Tensor, "*b 3 h w"]:
    """``first * alpha + second * beta``, rounded and saturated to uint8 as ``cv2.addWeighted`` does."""
    return (first.float() * alpha + second.float() * beta).round().clamp(0, 255).to(torch.uint8)


def shown(unit: Float[Tensor, "..."], size: Sequence[int]) -> Float[Tensor, "..."]:
    """Values in [0, 1] at the picture's size."""
    return resize(unit, size).clamp(0, 1)
