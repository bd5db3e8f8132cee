"""A method, a metric and a target of one's own: each is a function.

python examples/03_own_method.py
"""

import torch
from torch import Tensor
from torchvision.models import resnet18

from lightning_cam import Seen, explain, methods


@methods.register
def strongest_channel(seen: Seen, *, rank: int = 0) -> Tensor:
    """The channel with the rank-th largest mean activation, of each sample; [b u v]."""
    a = seen.activation
    channel = a.mean((2, 3)).argsort(1, descending=True)[:, rank]
    return a[torch.arange(len(a)), channel]


def margin(logits: Tensor, label: Tensor | None) -> Tensor:
    """By how much the best class leads; [b]."""
    best, runner_up = logits.topk(2).values.unbind(1)
    return best - runner_up


torch.manual_seed(0)
model = resnet18(weights=None)
images = torch.rand(2, 3, 64, 64)
print(methods.names())
print(explain(model, images, method={"strongest_channel": {"rank": 1}}).heat.shape)
print(explain(model, images, method="grad_cam", target=margin).score)
