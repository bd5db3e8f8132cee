"""Models that are not called as ``forward(images)``, in double precision, with the batch they come with. b batch, h w image."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

B, H, W, K = 4, 8, 6, 3


def images(seed=0, b=B, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(b, channels, H, W, generator=generator, dtype=torch.float64)


X, SECOND, PLACE = images(0), images(1), images(2).flatten(1)[:, :2]
LABELS = torch.tensor([2, 0, 1, 1])


def trunk():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, 2, 1), nn.ReLU())


class Plain(nn.Module):
    """What every other model here is inside."""

    def __init__(self, more=0):
        super().__init__()
        self.trunk, self.head = trunk(), nn.Linear(5 + more, K)

    def pooled(self, x):
        return self.trunk(x).mean((2, 3))

    def forward(self, x):
        return self.head(self.pooled(x))


class Located(Plain):
    """An image and what is known of it."""

    def __init__(self):
        super().__init__(2)

    def forward(self, image, place, scale=1.0):
        return self.head(torch.cat([self.pooled(image), place * scale], 1))


class Siamese(Plain):
    """Two images; what changed between them."""

    def forward(self, before, after):
        return self.head(self.pooled(after) - self.pooled(before))


class Whole(Plain):
    """The whole batch, a dict."""

    def forward(self, batch):
        return super().forward(batch["image"])


class WholeTuple(Plain):
    def forward(self, batch):
        x, place, _ = batch
        return super().forward(x) + place.sum(1, keepdim=True)


class Gathering(nn.Module):
    """The batch by its names, as a module around a model of Hugging Face's often has it."""

    def __init__(self, inner):
        super().__init__()
        self.model = inner

    def forward(self, **batch):
        return self.model(**batch)


class WithLogits(Plain):
    """Its output is an object, and it makes a loss where there are labels."""

    def forward(self, pixel_values, labels=None):
        logits = super().forward(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


class Empty(nn.Module):
    """Takes nothing."""

    def forward(self):
        return 0


class WithoutForward(L.LightningModule):
    """As lightly-train's pretraining methods, or RF-DETR's module."""

    def __init__(self):
        super().__init__()
        self.loss, self.net = nn.CrossEntropyLoss(), Plain()


class WithBackend(WithoutForward):
    """As lightly-train's fine-tuning: forward gives labels and probabilities, another method the logits."""

    def forward_backend(self, x):
        return self.net(x)

    def forward(self, x):
        p = self.forward_backend(x).softmax(1)
        return p.argmax(1), p


class Distilled(L.LightningModule):
    """A student and its teacher, of which forward runs the student alone."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = Plain(), Plain()

    def forward(self, x):
        return self.student(x)


class TwoTowers(nn.Module):
    """Images and prompts, in the order of Hugging Face's CLIP."""

    def __init__(self):
        super().__init__()
        self.vision, self.text = Plain(), nn.Embedding(10, K)

    def forward(self, input_ids=None, pixel_values=None, labels=None):
        if input_ids is None:
            raise ValueError("You have to specify input_ids")
        return {"logits_per_image": self.vision(pixel_values) @ self.text(input_ids).mean(1).T}


class Video(nn.Module):
    """Frames as Hugging Face gives them, [b t c h w]."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 5, 3, padding=1), nn.Linear(5, K)

    def forward(self, pixel_values):
        return self.head(self.conv(pixel_values.movedim(2, 1)).relu().mean((2, 3, 4)))


class Packed(nn.Module):
    """Patches of 2 x 2 in rows, [b n c*p*p], as SigLIP 2's NaFlex."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(12, 8), nn.Linear(12, 12), nn.Linear(8, K)

    def forward(self, patches):
        tokens = self.embed(patches)
        return self.head(self.mix(tokens.mT).mT.tanh().mean(1))


def packed(x):
    return F.unfold(x, 2, stride=2).mT.contiguous()


Nested = namedtuple("Nested", ["tensors", "mask"])


@dataclass
class Item:
    image: Tensor
    place: Tensor


def grad_cam_of(layer, run, score):
    """Grad-CAM by the formula, with hooks and gradients of its own: sum_k mean(dS/dA_k) A_k."""
    kept = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        with torch.enable_grad():
            total = score(run()).sum()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(total, kept[-1])
    a = kept[-1].detach()
    maps = torch.zeros(len(a), *a.shape[2:], dtype=a.dtype)
    for i in range(len(a)):
        for k in range(a.shape[1]):
            maps[i] += gradient[i, k].mean() * a[i, k]
    return maps


def of_labels(logits):
    return logits[torch.arange(len(LABELS)), LABELS]
