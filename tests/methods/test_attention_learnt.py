"""A transformer that learnt where its evidence is: attention methods find the patch of the class asked for, not the other."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.vision_transformer import VisionTransformer

from lightning_cam import explain

pytestmark = pytest.mark.slow  # two transformers are trained

PATCH, GRID, CLASSES = 8, 6, 4
ANYWHERE = ["attention_relevance", "le_grad"]  # follow what the class token gathered in any block
# of two blocks the first gave the class token all it needs here, so the last attention, which these are about, tells little
IN_THE_LAST = ["grad_eclip", "grad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise", "recipro_cam"]
CASES = [*((1, method) for method in ANYWHERE + IN_THE_LAST), *((2, method) for method in ANYWHERE)]


def scenes(n, generator):
    """Noise with the marks of two classes, each in a patch of its own; which classes, and where [n 2]."""
    marks = torch.randn(CLASSES, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(11))
    patches = 0.3 * torch.randn(n, GRID * GRID, 3, PATCH, PATCH, generator=generator)
    order = torch.rand(n, CLASSES, generator=generator).argsort(1)[:, :2]
    places = torch.rand(n, GRID * GRID, generator=generator).argsort(1)[:, :2]
    for k in range(2):
        patches[torch.arange(n), places[:, k]] += marks[order[:, k]]
    rows = patches.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 4, 2, 5)
    return rows.flatten(4, 5).flatten(2, 3), order, places


@cache
def learnt(blocks):
    """A transformer trained to tell which two marks there are, and scenes with their marks and places."""
    torch.manual_seed(0)
    net = VisionTransformer(PATCH * GRID, PATCH, blocks, 2, 32, 64, num_classes=CLASSES)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(250):
        x, order, _ = scenes(64, generator)
        loss = F.binary_cross_entropy_with_logits(net(x), torch.zeros(64, CLASSES).scatter(1, order, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    x, order, places = scenes(200, generator)
    told = (net(x) > 0).float()
    assert (told == torch.zeros(200, CLASSES).scatter(1, order, 1)).float().mean() > 0.98
    return net, x[:64], order[:64], places[:64]


def shares(net, x, classes, method):
    """The share of a map's positive energy in each patch."""
    heat = explain(net, x, method=method, target=classes).heat.relu().flatten(1)
    return heat / heat.sum(1, keepdim=True)


@pytest.mark.parametrize(("blocks", "method"), CASES)
def test_the_heat_is_on_the_patch_of_the_class_asked_for(blocks, method):
    net, x, order, places = learnt(blocks)
    for asked in (0, 1):
        share = shares(net, x, order[:, asked], method)
        own, other = (share.gather(1, places[:, k, None]).mean().item() for k in (asked, 1 - asked))
        print(f"{method:22} own {own:.2f}, other {other:.2f}, chance {1 / GRID**2:.2f}")
        assert own > 0.1
        assert own > 4 * other


@pytest.mark.parametrize("blocks", [1, 2])
def test_rollout_finds_both_patches_and_cannot_tell_them_apart(blocks):
    net, x, order, places = learnt(blocks)
    first, second = (shares(net, x, order[:, asked], "attention_rollout") for asked in (0, 1))
    assert torch.equal(first, second)
    assert first.gather(1, places).mean() > 3 / GRID**2


def test_noise_finds_nothing():
    net, x, order, places = learnt(1)
    own = shares(net, x, order[:, 0], "random_cam").gather(1, places[:, :1]).mean()
    assert abs(own - 1 / GRID**2) < 0.01
