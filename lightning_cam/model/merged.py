"""The weights of a linear layer or convolution as they act: with its adapters, as if these were merged into it.

k outputs, c inputs, r rank of an adapter.
"""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from lightning_cam.model.wrapped import active_adapters, kinds, unwrapped, wrapped

_LORA = {"Linear", "Conv1d", "Conv2d", "Conv3d"}  # of peft's LoRA layers those whose forward is known


def merged_weight(module: nn.Module) -> Shaped[Tensor, "k c ..."]:
    """The weight by which a layer acts, detached: W, and under LoRA W + sum of s B A over the adapters that are active.

    Under DoRA it is m / |W + s B A| (W + s B A), row by row. What is parametrized or weight-normed has its weight at hand.

    Source: LoRA, Hu et al. 2021, eq. 3, arXiv 2106.09685; DoRA, Liu et al. 2024, eq. 5, arXiv 2402.09353.

    Raises:
        ValueError: if the weight is packed by a quantisation, or an adapter is none of these.
    """
    inner = wrapped(module)
    if inner is None:
        return _plain_weight(module)
    weight = merged_weight(inner[1])
    for adapter in _adapters(module):
        weight = _adapted(weight, module, adapter)
    return weight


def merged_bias(module: nn.Module) -> Shaped[Tensor, "k"] | None:
    """The bias by which a layer acts, detached; an adapter with a bias of its own adds it. None where there is none.

    Raises:
        ValueError: if an adapter is no LoRA.
    """
    inner = wrapped(module)
    if inner is None:
        bias = getattr(module, "bias", None)
        return bias.detach() if isinstance(bias, Tensor) else None
    bias = merged_bias(inner[1])
    for adapter in _adapters(module):
        lora: Any = module
        own = lora.lora_B[adapter].bias
        if own is not None:
            added: Tensor = lora.scaling[adapter] * own.detach()
            bias = added if bias is None else bias + added
    return bias


def _plain_weight(module: Any) -> Tensor:
    weight = getattr(module, "weight", None)
    outputs = getattr(module, "out_features", getattr(module, "out_channels", None))
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim > 1 and len(weight) == outputs:
        return weight.detach()
    kind = type(module).__name__
    if not isinstance(weight, Tensor):
        raise ValueError(f"A {kind} has no weights that can be read.")
    raise ValueError(
        f"The weights of this {kind} cannot be read: they are packed or sharded, {tuple(weight.shape)} of {weight.dtype} for "
        f"{outputs} outputs. Leave the classifier as it is when quantising, llm_int8_skip_modules=[...] in Hugging Face's "
        "BitsAndBytesConfig."
    )


def _adapters(module: Any) -> list[str]:
    """The adapters that act in a layer; none in a wrapper of another kind."""
    if "BaseTunerLayer" not in kinds(module):
        return []
    adapters = active_adapters(module)
    if "LoraLayer" in kinds(module):
        adapters = [adapter for adapter in adapters if adapter in module.lora_A]
    for adapter in adapters:
        variant = getattr(module, "lora_variant", {}).get(adapter)
        plain = variant is None or type(variant).__name__.startswith("Dora")
        if "LoraLayer" not in kinds(module) or type(module).__name__ not in _LORA or not plain:
            kind = type(module if plain else variant)
            raise ValueError(
                f"The weights under the adapter {adapter!r} cannot be read: {kind.__module__}.{kind.__name__} is neither LoRA "
                "nor DoRA. Merge a copy of the model first, copy.deepcopy(model).merge_and_unload(), and look at that."
            )
    return adapters


def _adapted(weight: Tensor, lora: Any, adapter: str) -> Tensor:
    a: Tensor = lora.lora_A[adapter].weight.detach()
    b: Tensor = lora.lora_B[adapter].weight.detach()
    if getattr(unwrapped(lora), "groups", 1) > 1:
        raise ValueError(f"The weights under the adapter {adapter!r} cannot be read: its convolution has groups.")
    # half precision is too coarse for a sum of small numbers
    exact = torch.promote_types(torch.promote_types(weight.dtype, a.dtype), torch.float32)
    added: Tensor = lora.scaling[adapter] * (b.to(exact).flatten(1) @ a.to(exact).flatten(1)).reshape(weight.shape)
    if adapter not in lora.lora_magnitude_vector:
        return weight.to(exact) + added
    # the norm is that of the layer's own weight with this adapter alone, whichever else acts
    rows = (_plain_weight(unwrapped(lora)).to(exact) + added).flatten(1)
    magnitude: Tensor = lora.lora_magnitude_vector[adapter].weight.detach().to(exact).flatten()
    share = (magnitude / rows.norm(dim=1)).reshape(-1, *[1] * (weight.ndim - 1))
    merged: Tensor = share * (weight.to(exact) + added)
    return merged
