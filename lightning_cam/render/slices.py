"""Which slices of a volume, or frames of a video, are shown. b volumes, d depth or time, h w slice, s slices, m map."""

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_cam.heat import resize
from lightning_cam.render.style import Style
from lightning_cam.render.text import FAINT, PAPER, font_size, to_tensor
from lightning_cam.render.typesetting import typeset, write


def energy(normalized: Float[Tensor, "b m u v"], depth: int, neutral: float) -> Float[Tensor, "b d"]:
    """How much heat, of either sign, each slice of the image holds."""
    return resize((normalized - neutral).abs().sum((2, 3)), [depth])


def spread(energy: Float[Tensor, "b d"], count: int) -> Int[Tensor, "b s"]:
    """Slices that each stand for an equal share of the heat, in order; evenly spread where there is none.

    The i-th of s is where the running sum of the heat passes (i + 1/2) / s of it.

    Example:
        >>> spread(torch.tensor([[0.0, 1.0, 0.0, 1.0, 2.0]]), 2).tolist()
        [[1, 4]]
    """
    b, d = energy.shape
    s = min(count, d)
    weight = energy.where(energy.sum(1, keepdim=True) > 0, 1.0)
    wanted = (torch.arange(s, device=energy.device) + 0.5) / s
    passed = torch.searchsorted(weight.cumsum(1) / weight.sum(1, keepdim=True), wanted.expand(b, -1).contiguous())
    first, *others = passed.clamp(max=d - 1).unbind(1)
    apart = [first]
    for index in others:
        # no slice twice, so that one of much heat is shown with those behind it
        apart.append(torch.maximum(index, apart[-1] + 1))
    # which may reach beyond the last slice
    return torch.minimum(torch.stack(apart, 1), torch.arange(d - s, d, device=energy.device))


def take(volumes: Shaped[Tensor, "b *c d h w"], index: Int[Tensor, "b s"]) -> Shaped[Tensor, "b s *c h w"]:
    """The slices at these depths, each picture by itself."""
    front = volumes.movedim(-3, 1)
    sample = torch.arange(len(index), device=index.device)[:, None]
    return front[sample, index]


def tags(index: Int[Tensor, "b s"], depth: int, width: int, style: Style) -> UInt8[Tensor, "b 3 y x"]:
    """A strip above each row of slices that says which they are, as "12/32", counted from 1."""
    size = font_size(style)
    strips = []
    for row in index.cpu().tolist():
        canvas = Image.new("RGB", (width, round(1.5 * size)), PAPER)
        draw = ImageDraw.Draw(canvas)
        for i, number in enumerate(row):
            centre = round((i + 0.5) * width / len(row))
            tag = typeset(f"{number + 1}/{depth}", size, style.font)
            write(draw, (centre, canvas.height // 2), tag, FAINT, "mm")
        strips.append(to_tensor(canvas))
    return torch.stack(strips).to(index.device)
