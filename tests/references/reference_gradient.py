"""Slow references for the methods of one forward and its gradients: one image, one channel, one place at a time."""

import math

import numpy as np
import torch
from reference import Case, replicates
from torch import Tensor


def places(a: Tensor) -> list[tuple[int, ...]]:
    """Every place of a map, whatever its sides."""
    return list(np.ndindex(*a.shape[1:]))


def each(case: Case, images: Tensor, classes: list[int], one) -> Tensor:
    """A map of every image alone, given its activation and the gradient there."""
    found = []
    for image, c in zip(images, classes, strict=True):
        a = case.activation(image)
        found.append(one(a, case.gradient(a, c)))
    return torch.stack(found)


@replicates("hires_cam")
def hires_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Draelos & Carin: sum_f dy/dA^f * A^f, element by element."""

    def one(a, g):
        heat = torch.zeros_like(a[0])
        for k in range(len(a)):
            for p in places(a):
                heat[p] += float(g[k][p]) * float(a[k][p])
        return heat

    return each(case, images, classes, one)


@replicates("grad_cam_elementwise")
def grad_cam_elementwise(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """pytorch-grad-cam, after Pillai & Pirsiavash: each product rectified before channels are summed."""

    def one(a, g):
        heat = torch.zeros_like(a[0])
        for k in range(len(a)):
            for p in places(a):
                heat[p] += max(float(g[k][p]) * float(a[k][p]), 0.0)
        return heat

    return each(case, images, classes, one)


@replicates("layer_cam")
def layer_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Jiang et al.: w_ij^k = ReLU(g_ij^k); sum_k w_ij^k A_ij^k."""

    def one(a, g):
        heat = torch.zeros_like(a[0])
        for k in range(len(a)):
            for p in places(a):
                heat[p] += max(float(g[k][p]), 0.0) * float(a[k][p])
        return heat

    return each(case, images, classes, one)


@replicates("x_grad_cam")
def x_grad_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Fu et al.: w_k = sum_ij (A_ij^k / sum_ij A_ij^k) g_ij^k; a dead channel adds nothing."""

    def one(a, g):
        heat = torch.zeros_like(a[0])
        for k in range(len(a)):
            total = math.fsum(float(a[k][p]) for p in places(a))
            if total == 0.0:
                continue
            w = math.fsum(float(a[k][p]) / total * float(g[k][p]) for p in places(a))
            heat += w * a[k]
        return heat

    return each(case, images, classes, one)


def alpha(a: Tensor, g: Tensor, p: tuple[int, ...]) -> float:
    """Chattopadhay et al., eq. 19, of one channel and place, as printed."""
    second, third = float(g[p]) ** 2, float(g[p]) ** 3
    below = 2 * second + math.fsum(float(x) for x in a.flatten()) * third
    return second / below if below != 0.0 else 0.0


@replicates("grad_cam_pp")
def grad_cam_pp(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Chattopadhay et al., eq. 7: w_k = sum_ij alpha_ij ReLU(g_ij)."""

    def one(a, g):
        heat = torch.zeros_like(a[0])
        for k in range(len(a)):
            heat += sum(alpha(a[k], g[k], p) * max(float(g[k][p]), 0.0) for p in places(a)) * a[k]
        return heat

    return each(case, images, classes, one)


@replicates("grad_cam_pp_normalized")
def grad_cam_pp_normalized(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """The authors' code: alphas divided by their sum over places."""

    def one(a, g):
        heat = torch.zeros_like(a[0])
        for k in range(len(a)):
            alphas = {p: alpha(a[k], g[k], p) for p in places(a)}
            total = math.fsum(alphas.values())
            if total != 0.0:
                heat += sum(alphas[p] / total * max(float(g[k][p]), 0.0) for p in places(a)) * a[k]
        return heat

    return each(case, images, classes, one)


def first_component(x: Tensor, agree: Tensor) -> Tensor:
    """Projection of a channels x places stack on its first right singular vector, by a full SVD, with a settled sign."""
    rows = x.flatten(1).T.numpy()
    _, _, directions = np.linalg.svd(rows, full_matrices=True)
    heat = torch.from_numpy(rows @ directions[0]).reshape(x.shape[1:])
    return heat if float((heat * agree).sum()) >= 0 else -heat


def centred(x: Tensor) -> Tensor:
    return torch.stack([channel - channel.mean() for channel in x])


@replicates("eigen_cam")
def eigen_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Muhammad & Yeasin: A = U S V^T, map A v_1."""
    return each(case, images, classes, lambda a, g: first_component(a, a.mean(0)))


@replicates("eigen_grad_cam")
def eigen_grad_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    return each(case, images, classes, lambda a, g: first_component(centred(g * a), (g * a).sum(0)))


@replicates("seg_eigen_cam")
def seg_eigen_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Chung & Ying, eq. 10: |g| A; eq. 13: turned over where |min| exceeds |max|."""

    def one(a, g):
        heat = first_component(centred(g.abs() * a), a.sum(0))
        return -heat if abs(float(heat.min())) > abs(float(heat.max())) else heat

    return each(case, images, classes, one)


@replicates("kpca_cam")
def kpca_cam(case: Case, images: Tensor, classes: list[int], kernel: str = "sigmoid", gamma: float | None = None) -> Tensor:
    """Kernel PCA written out: kernel matrix pair by pair, doubly centred with 1_N, first eigenvector."""

    def one(a, g):
        rows = centred(a).flatten(1).T.numpy()
        n, width = len(rows), 1 / rows.shape[1] if gamma is None else gamma
        k = np.empty((n, n))
        for i in range(n):
            for j in range(n):
                dot, distance = float(rows[i] @ rows[j]), float(((rows[i] - rows[j]) ** 2).sum())
                k[i, j] = {"sigmoid": math.tanh(width * dot + 1), "rbf": math.exp(-width * distance), "linear": dot}[kernel]
        ones = np.full((n, n), 1 / n)
        values, vectors = np.linalg.eig(k - ones @ k - k @ ones + ones @ k @ ones)
        first = int(np.argmax(values.real))
        u = vectors[:, first].real / np.linalg.norm(vectors[:, first].real)
        heat = torch.from_numpy(math.sqrt(values[first].real) * u).reshape(a.shape[1:])
        return heat if float((heat * a.mean(0)).sum()) >= 0 else -heat

    return each(case, images, classes, one)


@replicates("fem")
def fem(case: Case, images: Tensor, classes: list[int], sigmas: float = 2.0) -> Tensor:
    """Fuad et al.: binary maps by the k-sigma rule, weighted by each channel's mean."""

    def one(a, g):
        heat = torch.zeros_like(a[0])
        for k in range(len(a)):
            values = [float(a[k][p]) for p in places(a)]
            mean = math.fsum(values) / len(values)
            spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
            for p in places(a):
                heat[p] += mean if float(a[k][p]) > mean + sigmas * spread else 0.0
        return heat

    return each(case, images, classes, one)


@replicates("shapley_cam")
def shapley_cam(case: Case, images: Tensor, classes: list[int]) -> Tensor:
    """Cai: w_k = mean(g - H A / 2), with the whole Hessian written down."""
    maps = []
    for image, c in zip(images, classes, strict=True):
        a = case.activation(image)
        hessian = torch.autograd.functional.hessian(lambda x, c=c: case.tail(x[None])[0, c], a)
        n = a.numel()
        bend = (hessian.reshape(n, n) @ a.flatten()).reshape(a.shape)
        g = case.gradient(a, c)
        heat = torch.zeros_like(a[0])
        for k in range(len(a)):
            heat += float((g[k] - bend[k] / 2).mean()) * a[k]
        maps.append(heat)
    return torch.stack(maps)
