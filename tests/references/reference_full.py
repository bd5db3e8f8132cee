"""Slow references for methods that run the model anew: paths, full gradients, guided backpropagation."""

import torch
from reference import Case, replicates
from torch import Tensor, nn


@replicates("integrated_grad_cam")
def integrated_grad_cam(
    case: Case, images: Tensor, classes: list[int], baseline: float | Tensor = 0.0, steps: int = 20
) -> Tensor:
    """Sattarzadeh et al.: Grad-CAM's weights along the path of images, times the rise of each channel."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        start = torch.zeros_like(image) + baseline
        rise = case.activation(image) - case.activation(start)
        heat = torch.zeros_like(rise[0])
        for i in range(steps):
            here = case.activation(start + (2 * i + 1) / (2 * steps) * (image - start))
            g = case.gradient(here, c)
            for k in range(len(rise)):
                heat += float(g[k].mean()) * rise[k] / steps
        maps.append(heat)
    return torch.stack(maps)


@replicates("integrated_gradients")
def integrated_gradients(
    case: Case, images: Tensor, classes: list[int], baseline: float | Tensor = 0.0, steps: int = 50
) -> Tensor:
    """Sundararajan et al., eq. 1, from the activation of a baseline image to the image's own."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        a, start = case.activation(image), case.activation(torch.zeros_like(image) + baseline)
        heat = torch.zeros_like(a[0])
        for i in range(steps):
            g = case.gradient(start + (2 * i + 1) / (2 * steps) * (a - start), c)
            for k in range(len(a)):
                heat += (a[k] - start[k]) * g[k] / steps
        maps.append(heat)
    return torch.stack(maps)


def psi(terms: Tensor) -> Tensor:
    size = terms.abs()
    low, high = float(size.min()), float(size.max())
    return (size - low) / (high - low) if high > low else torch.zeros_like(size)


def up(heat: Tensor, sides: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres, pixel by pixel."""
    out = torch.zeros(sides, dtype=heat.dtype)
    for y in range(sides[0]):
        for x in range(sides[1]):
            v = min(max((y + 0.5) * heat.shape[0] / sides[0] - 0.5, 0.0), heat.shape[0] - 1.0)
            u = min(max((x + 0.5) * heat.shape[1] / sides[1] - 0.5, 0.0), heat.shape[1] - 1.0)
            v0, u0 = int(v), int(u)
            v1, u1 = min(v0 + 1, heat.shape[0] - 1), min(u0 + 1, heat.shape[1] - 1)
            top = float(heat[v0, u0]) * (1 - u + u0) + float(heat[v0, u1]) * (u - u0)
            bottom = float(heat[v1, u0]) * (1 - u + u0) + float(heat[v1, u1]) * (u - u0)
            out[y, x] = top * (1 - v + v0) + bottom * (v - v0)
    return out


@replicates("full_grad")
def full_grad(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Srinivas & Fleuret: biases made variables, their gradients at each place by adding a map of zeros to each output."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        x, extra = image[None].clone().requires_grad_(), []

        def run(x, part, extra=extra):
            for module in part:
                if isinstance(module, nn.Sequential):
                    x = run(x, module)
                    continue
                x = module(x)
                if getattr(module, "bias", None) is not None:
                    extra.append((module, torch.zeros_like(x).requires_grad_()))
                    x = x + extra[-1][1]
            return x

        score = run(x, [*case.trunk, *case.tail])[0, c]
        score.backward(inputs=[x, *(zeros for _, zeros in extra)])
        heat = psi(image * x.grad[0]).sum(0)
        for module, zeros in extra:
            if zeros.ndim == 4 and zeros[0, 0].numel() > 1:
                b = module.bias.detach()
                if isinstance(module, nn.BatchNorm2d):
                    b = b - module.weight.detach() * module.running_mean / torch.sqrt(module.running_var + module.eps)
                for channel in psi(b[:, None, None] * zeros.grad[0]):
                    heat = heat + up(channel, heat.shape)
        maps.append(heat)
    return torch.stack(maps)


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x > 0) * (g > 0)


@replicates("guided_grad_cam")
def guided_grad_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Selvaraju et al.: guided backpropagation times the upsampled Grad-CAM."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        x = image[None].clone().requires_grad_()
        z = x
        for module in [*case.trunk, *case.tail]:
            z = _GuidedReLU.apply(z) if isinstance(module, nn.ReLU) else module(z)
        (g,) = torch.autograd.grad(z[0, c], x)
        a = case.activation(image)
        by = case.gradient(a, c)
        cam = sum(float(by[k].mean()) * a[k] for k in range(len(a)))
        gate = up(cam.clamp(min=0), image.shape[1:])
        maps.append(sum(g[0, k] * gate for k in range(len(image))))
    return torch.stack(maps)
