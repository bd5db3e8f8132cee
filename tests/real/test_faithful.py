"""On real nets and photographs: what a map calls important is important, and maps follow the weights.

``pytest tests/real/test_faithful.py -s`` prints the table.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from photographs import NEEDS_DATA, cropped, picture, table

from lightning_cam import explain, methods
from lightning_cam.heat import resize
from lightning_cam.registry import METHODS

pytestmark = [NEEDS_DATA, pytest.mark.slow]
TRANSFORMER = {"attention_rollout", "attention_relevance", "le_grad", "grad_eclip"}  # see methods/test_attention_learnt.py
SPECS = {
    **{name: name for name in methods.names() if name not in {*TRANSFORMER, "random_cam"}},
    **{name: {name: {"method": "grad_cam"}} for name in METHODS.wrappers()},
    "ss_cam": {"ss_cam": {"n": 2}},
    "is_cam": {"is_cam": {"n": 2}},
}
DEAR = {
    "score_cam",
    "ss_cam",
    "is_cam",
    "occlusion",
    "rise",
}  # hundreds of forwards a sample: two smaller pictures instead of six


@pytest.fixture(scope="module")
def photographs():
    rows = table("imagenet40/labels.csv")[::7]
    images = torch.stack([cropped(picture(f"imagenet40/{row['file']}")) for row in rows])
    return images, torch.tensor([int(row["class_index"]) for row in rows])


def dropped(net, images, labels, heat, share=0.2):
    """By how much the class's logit falls when the hottest share of the pixels becomes the mean colour, averaged.

    A map by pixels is first averaged over cells of a sixteenth of the image, so that every method deletes regions.
    """
    side = images.shape[-1]
    if heat.shape[-1] == side:
        heat = F.avg_pool2d(heat.relu()[:, None], side // 16)[:, 0]
    flat = resize(heat, (side, side)).flatten(1)
    hottest = flat.argsort(1, descending=True)[:, : int(share * flat.shape[1])]
    keep = torch.ones_like(flat).scatter(1, hottest, 0).reshape(-1, 1, side, side)
    with torch.no_grad():
        before, after = net(images).gather(1, labels[:, None]), net(images * keep).gather(1, labels[:, None])
    return float((before - after).mean())


@pytest.mark.parametrize("kind", ["squeezenet", "mobilenet"])
@pytest.mark.parametrize("method", SPECS)
def test_deleting_the_hottest_pixels_costs_more_than_deleting_random_ones(kind, method, nets, photographs):
    images, labels = photographs
    net = nets[kind].eval()
    if method in DEAR:
        images, labels = F.interpolate(images[1:3], (128, 128), mode="bilinear", antialias=True), labels[1:3]
    fall = dropped(net, images, labels, explain(net, images, method=SPECS[method], target=labels).heat)
    noise = [explain(net, images, method={"random_cam": {"seed": seed}}, target=labels).heat for seed in range(5)]
    random = [dropped(net, images, labels, heat) for heat in noise]
    print(f"{kind:11}{method:26}{fall:6.2f}, random {min(random):.2f} to {max(random):.2f}, {len(images)} pictures")
    assert fall > max(random)


def rank_correlation(a, b):
    a, b = (one.flatten(1).argsort(1).argsort(1).double() for one in (a, b))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return float(((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()).mean())


def test_maps_change_as_layers_are_drawn_anew_from_the_top(nets, photographs):
    """Adebayo et al. 2018: an explanation that does not follow the weights explains something else.

    LayerCAM is printed only: rectified gradients of any head nearly give the activation mean (.94 and .72 here).
    """
    images, labels = photographs
    net = copy.deepcopy(nets["mobilenet"]).eval()
    first = {name: explain(net, images, method=name, target=labels).heat for name in ("grad_cam", "hires_cam", "layer_cam")}
    torch.manual_seed(0)
    net.classifier[1].reset_parameters()
    head = {name: rank_correlation(first[name], explain(net, images, method=name, target=labels).heat) for name in first}
    for block in net.features[-4:]:
        for module in block.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    deep = {name: rank_correlation(first[name], explain(net, images, method=name, target=labels).heat) for name in first}
    print("\nrank correlation with the trained map: head anew", head, "four blocks anew", deep)
    for name in ("grad_cam", "hires_cam"):
        assert abs(head[name]) < 0.6
        assert abs(deep[name]) < 0.35
