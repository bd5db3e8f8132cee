"""How far the score is from what reaches a layer, with the biases behind it. b batch."""

from contextlib import nullcontext

import torch
from reference_libra import detached_functions
from torch import Tensor, nn

from lightning_cam.capture.session import open_session
from lightning_cam.targets import find

ADDED = ("bias", "cls_token", "class_token", "dist_token", "pos_embed", "pos_embedding")


def lively(net: nn.Module) -> nn.Module:
    """In float64, with biases and weights of norms that matter, and heads that are not zero."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            spread = 0.3 if parameter.ndim < 2 else 0.5
            parameter.add_(spread * torch.randn_like(parameter))
    return net.double().eval()


def cut(net: nn.Module, x: Tensor, layer: str, balanced: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What reaches a layer, the share of the biases behind it, and the logit of class 0, all [b], written by hand.

    The layer is the image itself where it is empty. Gradients are autograd's, by the layer and by every bias, token and
    position behind it, of functions as they are or with what LibraGrad holds constant detached.
    """
    kept: dict[str, Tensor] = {}

    def leaf(*hooked: object) -> Tensor:
        output = hooked[-1] if layer else hooked[-1][0]
        kept["a"] = output.detach().requires_grad_()
        return kept["a"].clone()

    module = net.get_submodule(layer)
    hook = module.register_forward_hook(leaf) if layer else module.register_forward_pre_hook(leaf)
    shares = []
    added = [parameter for name, parameter in net.named_parameters() if name.endswith(ADDED)]
    try:
        with detached_functions() if balanced else nullcontext():
            for image in x:  # a bias serves all images, its share is one image's own
                score = net(image[None])[0, 0]
                gradients = torch.autograd.grad(score, [kept["a"], *added], allow_unused=True)
                reached = (kept["a"].detach() * gradients[0]).sum()
                of_biases = [(b.detach() * g).sum() for b, g in zip(added, gradients[1:], strict=True) if g is not None]
                shares.append(torch.stack([reached, sum(of_biases, torch.zeros_like(score)), score.detach()]))
    finally:
        hook.remove()
    return tuple(torch.stack(shares).detach().unbind(1))


def reached(net: nn.Module, x: Tensor, layer: str, balanced: bool) -> Tensor:
    """``sum A dS/dA`` [b] as the package has it, at a layer, or the image where it is empty."""
    with open_session(net, [layer] if layer else [], x) as session:
        forward = session.forward(x, find(0))
        if balanced:
            forward = forward.balanced
        if layer:
            a, g = forward.outputs[layer].output.detach(), forward.gradient(layer, 0)
        else:
            a = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(forward.rerun(image=a)[:, 0].sum(), a)
        return (a.detach() * g).flatten(1).sum(1)


def unbiased(net: nn.Module) -> nn.Module:
    """The same with nothing added: no biases, tokens, positions or running means."""
    lively(net)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if any(word in name for word in (*ADDED, "token", "position", "class_embedding")):
                parameter.zero_()
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
    return net


def error_at_image(net: nn.Module, x: Tensor, balanced: bool, **options: object) -> Tensor:
    """How far ``sum x dS/dx`` is from the score of class 0, as a share of it, [b]."""
    with open_session(net, [], x, **options) as session:
        forward = session.forward(x, find(0))
        if balanced:
            forward = forward.balanced
        leaf = x.clone().requires_grad_()
        score = forward.rerun(image=leaf)[:, 0]
        (g,) = torch.autograd.grad(score.sum(), leaf)
    return ((x * g).flatten(1).sum(1) - score.detach()).abs() / score.detach().abs()
