"""Slow references, written from the papers: one image, one channel, one place at a time; gradients by autograd on the tail.

Each is bound to the method it replicates by the decorator, so a method without a reference is noticed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

REFERENCES: dict[str, Callable[..., Tensor]] = {}


def replicates(name: str) -> Callable[[Any], Any]:
    def bind(reference: Any) -> Any:
        REFERENCES[name] = reference
        return reference

    return bind


class Case:
    """A model cut at a layer by hand: ``tail`` is what follows it, ``w`` the class weights, if any."""

    def __init__(self, trunk: Any, tail: Any, w: Tensor | None = None) -> None:
        self.trunk, self.tail, self.w = trunk, tail, w

    def activation(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self.trunk(image[None])[0]

    def gradient(self, a: Tensor, c: int) -> Tensor:
        a = a.clone().requires_grad_()
        return torch.autograd.grad(self.tail(a[None])[0, c], a)[0]


@replicates("activation_mean")
def activation_mean(case: Case, images: Tensor, classes: list[int], channels: range | None = None) -> Tensor:
    """After LaFAM: the average over channels of the rectified activation."""
    maps = []
    for image in images:
        a = case.activation(image)
        chosen = list(channels) if channels is not None else list(range(len(a)))
        heat = torch.zeros(a.shape[1:], dtype=a.dtype)
        for k in chosen:
            for u in range(a.shape[1]):
                for v in range(a.shape[2]):
                    heat[u, v] += max(float(a[k, u, v]), 0.0) / len(chosen)
        maps.append(heat)
    return torch.stack(maps)


@replicates("cam")
def cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Zhou et al., eq. 2: M_c(x, y) = sum_k w_k^c f_k(x, y)."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        a = case.activation(image)
        heat = torch.zeros(a.shape[1:], dtype=a.dtype)
        for k in range(len(a)):
            for u in range(a.shape[1]):
                for v in range(a.shape[2]):
                    heat[u, v] += float(case.w[c, k]) * float(a[k, u, v])
        maps.append(heat)
    return torch.stack(maps)


@replicates("grad_cam")
def grad_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Selvaraju et al., eq. 1: alpha_k = 1/Z sum_ij dy/dA_ij^k; eq. 2 without its ReLU: sum_k alpha_k A^k."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        a = case.activation(image)
        g = case.gradient(a, c)
        heat = torch.zeros(a.shape[1:], dtype=a.dtype)
        for k in range(len(a)):
            alpha = 0.0
            for u in range(a.shape[1]):
                for v in range(a.shape[2]):
                    alpha += float(g[k, u, v]) / (a.shape[1] * a.shape[2])
            heat += alpha * a[k]
        maps.append(heat)
    return torch.stack(maps)
