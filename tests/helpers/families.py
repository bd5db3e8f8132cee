"""Models made the same every time, and what autograd says of them, nothing cut off."""

import torch
from torch import nn


def made(make):
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)  # heads that begin at zero
    return net


def plain(net, layer, x, c, reader=None):
    """What the layer returned, the logit's gradient by it, and what the reader was given."""
    stored = {}
    hooks = [net.get_submodule(layer).register_forward_hook(lambda module, args, output: stored.update(map=output))]
    if reader:
        hooks.append(net.get_submodule(reader).register_forward_pre_hook(lambda module, args: stored.update(read=args[0])))
    logits = net(x)
    for hook in hooks:
        hook.remove()
    (gradient,) = torch.autograd.grad(logits[:, c].sum(), stored["map"])
    return stored["map"].detach(), gradient, stored.get("read")
