"""Tiny float64 nets, one for each kind of head; each comes with its cut by hand, for the references."""

import torch
from reference import Case
from torch import Tensor, nn


class Net(nn.Module):
    """A trunk of two convolutions, named ``features``, and any head."""

    def __init__(self, head: nn.Module, seed: int = 0, channels: int = 6, **conv: object) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1, **conv), nn.ReLU(), nn.Conv2d(5, channels, 3, 2, 1, **conv), nn.ReLU()
        )
        self.head = head
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def case(self) -> Case:
        w = next((m.weight.detach().flatten(1) for m in self.head.modules() if isinstance(m, nn.Linear | nn.Conv2d)), None)
        return Case(self.features, self.head, w)


def gap_linear(seed: int = 0, k: int = 4) -> Net:
    torch.manual_seed(seed + 100)
    return Net(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, k)), seed)


def conv_head(seed: int = 0, k: int = 4) -> Net:
    """As in SqueezeNet: dropout, 1x1 convolution, ReLU, global average pooling."""
    torch.manual_seed(seed + 100)
    conv = nn.Conv2d(6, k, 1)
    nn.init.constant_(conv.bias, 0.2)
    return Net(nn.Sequential(nn.Dropout(), conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), seed)


def gap_mlp(seed: int = 0, k: int = 4) -> Net:
    torch.manual_seed(seed + 100)
    return Net(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.Hardswish(), nn.Linear(8, k)), seed)


def flatten_linear(seed: int = 0, k: int = 4) -> Net:
    """As in VGG: the gradient varies over space. For inputs of 8 x 10."""
    torch.manual_seed(seed + 100)
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(6 * 4 * 5, 8), nn.ReLU(), nn.Linear(8, k)), seed)


def max_pool(seed: int = 0, k: int = 4) -> Net:
    torch.manual_seed(seed + 100)
    return Net(nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, k)), seed)


ZOO = {net.__name__: net for net in (gap_linear, conv_head, gap_mlp, flatten_linear, max_pool)}


class InPlace(nn.Module):
    """As in DenseNet: an in-place ReLU overwrites what the layer returned."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Conv2d(3, 6, 3, 2, 1)
        self.classifier = nn.Linear(6, 4)
        self.inplace = inplace
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.relu(self.features(x), inplace=self.inplace).mean((2, 3)))


def images(b: int = 3, seed: int = 7) -> Tensor:
    return torch.randn(b, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
