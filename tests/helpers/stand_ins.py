"""What peft and the like put around layers, by the names and attributes of theirs, without the packages. r rank."""

from typing import Any

import torch
from torch import Tensor, nn


class Levels(nn.Module):
    """A wrapper that runs what it wraps, whatever it is given."""

    at = "module"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        setattr(self, self.at, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.at)(*args, **kwargs)


class DistributedDataParallel(Levels):
    pass


class FullyShardedDataParallel(Levels):
    at = "_fsdp_wrapped_module"


class BaseTuner(Levels):
    at = "model"


class LoraModel(BaseTuner):
    pass


class PeftModel(Levels):
    at = "base_model"


def as_peft(net: nn.Module) -> PeftModel:
    return PeftModel(LoraModel(net))


class BaseTunerLayer:
    """The state of adapters in a layer; the last two are what the base class of peft has as properties."""

    def begin(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        self.merged_adapters: list[str] = []
        self.active_adapters: list[str] = []
        self.disable_adapters = False

    @property
    def weight(self) -> Any:
        return self.base_layer.weight

    @property
    def bias(self) -> Any:
        return self.base_layer.bias


class LoraLayer(BaseTunerLayer):
    pass


class DoraLinearVariant:
    pass


class Magnitude(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(rows) + 0.5)


class Linear(nn.Module, LoraLayer):
    """As peft's ``lora.Linear``, over a 1x1 convolution as its ``lora.Conv2d``: adapters add to what the layer returns."""

    def __init__(self, base_layer: nn.Module, adapters: dict[str, int], bias: bool = False, dora: bool = False) -> None:
        super().__init__()
        self.begin(base_layer)
        self.lora_A, self.lora_B, self.lora_magnitude_vector = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.lora_variant: dict[str, Any] = {}
        k, c = base_layer.weight.shape[:2]
        for i, (name, rank) in enumerate(adapters.items()):
            if isinstance(base_layer, nn.Conv2d):
                self.lora_A[name], self.lora_B[name] = nn.Conv2d(c, rank, 1, bias=False), nn.Conv2d(rank, k, 1, bias=bias)
            else:
                self.lora_A[name], self.lora_B[name] = nn.Linear(c, rank, bias=False), nn.Linear(rank, k, bias=bias)
            self.scaling[name] = 0.5 + i
            self.active_adapters.append(name)
            if dora:
                self.lora_variant[name], self.lora_magnitude_vector[name] = DoraLinearVariant(), Magnitude(k)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        if self.disable_adapters or self.merged_adapters:
            return y
        for name in self.active_adapters:
            if name not in self.lora_A:
                continue
            a, b, s = self.lora_A[name], self.lora_B[name], self.scaling[name]
            if name in self.lora_variant:
                y = self.dora(name, y, s * b(a(x)))
            else:
                y = y + s * b(a(x))
        return y

    def dora(self, name: str, y: Tensor, added: Tensor) -> Tensor:
        w = self.base_layer.weight + self.scaling[name] * self.lora_B[name].weight @ self.lora_A[name].weight
        share = self.lora_magnitude_vector[name].weight / torch.stack([row.norm() for row in w])
        return y + (share - 1) * (y - self.base_layer.bias) + share * added


class Conv2d(Linear):
    pass


class SVDLinear(Linear):
    """As peft's AdaLoRA: a LoRA layer of another formula."""


class AuxiliaryTrainingWrapper(nn.Module):
    pass


class ModulesToSaveWrapper(AuxiliaryTrainingWrapper):
    """As peft's: a copy for each adapter beside the original, of which one runs."""

    def __init__(self, original: nn.Module, copies: dict[str, nn.Module]) -> None:
        super().__init__()
        self.original_module, self.modules_to_save = original, nn.ModuleDict(copies)
        self.active_adapters, self.disable_adapters = list(copies)[:1], False

    def forward(self, x: Tensor) -> Tensor:
        if self.disable_adapters or not self.active_adapters:
            return self.original_module(x)
        return self.modules_to_save[self.active_adapters[0]](x)


class Linear4bit(nn.Linear):
    """As bitsandbytes': the weight is packed, two numbers a byte in one column."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, dtype=layer.weight.dtype)
        self.bias = layer.bias
        self.hidden = layer.weight.detach()
        self.weight = nn.Parameter(torch.zeros(self.hidden.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.hidden, self.bias)
