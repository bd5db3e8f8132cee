"""How much of the evidence at a layer lies where a map can show it. b batch, t targets."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen


def share_on_map(seen: Seen) -> Float[Tensor, "b"]:
    """``sum |g A|`` over the places of the map, over that of all tokens; NaN where nothing has a gradient."""
    places, tokens = seen.terms
    shown = places.abs().flatten(1).sum(1)
    hidden = tokens.abs().flatten(1).sum(1)
    return shown / (shown + hidden)  # 0 / 0 is NaN


def known_shares(forward: Forward, layer: str) -> Float[Tensor, "b t"] | None:
    """The share of each score's evidence that is on the map, where it can be told without a backward of its own.

    None at a layer without tokens beside the map, where it would be 1, and where nobody has asked for the gradient.
    """
    if not forward.outputs[layer].layout.extra or not forward.has_gradient(layer):
        return None
    positions = range(forward.target_scores.score.shape[1])
    return torch.stack([share_on_map(Seen(forward, layer, position)) for position in positions], 1)
