"""One map from the maps of several layers. l layers, b batch, t targets, m map, f the finest map.

Units of maps differ from layer to layer, so each is first resized to the finest and divided by its own maximum, its negative
part left out: what is fused is the share of the layer's strongest evidence, and what comes out is in [0, 1] and has no unit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.heat import resize, share_of_maximum
from lightning_cam.registry import Entry, Registry

FUSIONS: Registry[Callable[..., Any]] = Registry("fusion")
names = FUSIONS.names
register = FUSIONS.register  # as a decorator: [l b *f] of shares -> [b *f]


@FUSIONS.register
def mean(shares: Float[Tensor, "l b *f"]) -> Float[Tensor, "b *f"]:
    """``mean_l M_l``: every layer counts alike."""
    return shares.mean(0)


@FUSIONS.register
def max(shares: Float[Tensor, "l b *f"]) -> Float[Tensor, "b *f"]:
    """``max_l M_l``: what any layer shows."""
    return shares.amax(0)


@FUSIONS.register
def tanh_max(shares: Float[Tensor, "l b *f"], *, gamma: float = 2.0) -> Float[Tensor, "b *f"]:
    """``max_l tanh(gamma M_l)``: what any layer shows, weak evidence lifted; at most tanh(gamma).

    Source: LayerCAM (Jiang et al. 2021, IEEE TIP, eq. 9), which lifts the shallow layers only; here all are lifted, as in
    torch-cam.

    Args:
        shares: the layers' maps, each scaled to its own maximum.
        gamma: how much weak evidence is lifted.
    """
    return torch.tanh(gamma * shares).amax(0)


@FUSIONS.register
def product(shares: Float[Tensor, "l b *f"]) -> Float[Tensor, "b *f"]:
    """``prod_l M_l``: what all layers show; 0 wherever one shows nothing.

    Source: after RefineCAM (Domeniconi et al. 2026, arXiv 2605.14641), a product of per-layer maps.
    """
    return shares.prod(0)


def fused(heats: Sequence[Float[Tensor, "b t *_"]], fusion: Entry[Any]) -> Float[Tensor, "b t *f"]:
    """The maps of several layers as one, at the size of the finest; a map without positive evidence counts as 0."""
    grids = sorted((heat.shape[2:] for heat in heats), key=lambda grid: grid.numel())
    finest = grids[-1]
    large = torch.stack([resize(heat, finest) for heat in heats])
    shares = share_of_maximum(large.flatten(0, 2)).reshape(large.shape)
    heat: Tensor = fusion.function(shares.flatten(1, 2)).unflatten(0, shares.shape[1:3])
    return heat


def find_fusion(spec: Any, layers: Sequence[Any]) -> Entry[Any] | None:
    """The fusion of these layers, None where none is wanted.

    Raises:
        ValueError: for a fusion nobody knows, or of fewer than two layers.
    """
    if spec is None:
        return None
    fusion = FUSIONS.find(spec)
    if len(layers) < 2:
        raise ValueError(f"fuse={fusion.label!r} makes one map of several layers; name two or more with layer=[...].")
    return fusion
