"""Real model families with random weights: the default layer is the one an expert names, and its map is what the head reads.

The reference is one forward with a plain hook on the layer, nothing cut off, and autograd from the logit to what it stored.
"""

import functools
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from compare import close_and_alive as close
from families import made, plain
from torch import nn
from torchvision import models
from torchvision.models import MaxVit, SwinTransformer, VisionTransformer, detection, segmentation, video
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from vits import TwoTowers, photos

from lightning_cam import explain

SIZE = (64, 96)


def tv(name, **options):
    return functools.partial(getattr(models, name), weights=None, num_classes=5, **options)


def by_timm(name, **options):
    return functools.partial(timm.create_model, name, num_classes=5, **options)


small_vit = functools.partial(
    VisionTransformer, image_size=64, patch_size=16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
)
small_swin = functools.partial(
    SwinTransformer, [4, 4], 16, [1, 1, 2], [2, 2, 4], [4, 4], num_classes=5, stochastic_depth_prob=0.0
)
small_swin_v2 = functools.partial(small_swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)
small_maxvit = functools.partial(
    MaxVit, (64, 64), 16, 2, [16, 32], [1, 1], 8, 0.0, num_classes=5
)  # as maxvit_t: stem, blocks, a head that pools
timm_vit = functools.partial(by_timm, "vit_tiny_patch16_224", depth=3)

# family: how it is made, the default layer, the module that reads the map, and how: its mean, itself, its mean on a grid
POOLED = {
    "resnet": (tv("resnet18"), "layer4", "fc", "mean"),
    "resnext": (tv("resnext50_32x4d"), "layer4", "fc", "mean"),
    "vgg": (tv("vgg11_bn"), "features", "classifier", 7),
    "alexnet": (tv("alexnet"), "features", "classifier", 6),
    "squeezenet": (tv("squeezenet1_1"), "features", "classifier", "itself"),
    "densenet, whose ReLU rewrites the layer": (tv("densenet121"), "features", "classifier", "mean"),
    "googlenet": (tv("googlenet", init_weights=False), "inception5b", "fc", "mean"),
    "inception v3": (tv("inception_v3", init_weights=False), "Mixed_7c", "fc", "mean"),
    "mobilenet v2": (tv("mobilenet_v2"), "features", "classifier", "mean"),
    "mobilenet v3": (tv("mobilenet_v3_small"), "features", "classifier", "mean"),
    "shufflenet": (tv("shufflenet_v2_x0_5"), "conv5", "fc", "mean"),
    "mnasnet": (tv("mnasnet0_5"), "layers", "classifier", "mean"),
    "efficientnet": (tv("efficientnet_b0"), "features", "classifier", "mean"),
    "efficientnet v2": (tv("efficientnet_v2_s"), "features", "classifier", "mean"),
    "convnext": (tv("convnext_tiny"), "features", "classifier", "mean"),
    "regnet": (tv("regnet_y_400mf"), "trunk_output", "fc", "mean"),
    "maxvit": (small_maxvit, "blocks.1", "classifier", "itself"),
    "swin": (small_swin, "permute", "head", "mean"),
    "swin v2": (small_swin_v2, "permute", "head", "mean"),
    "timm swin": (by_timm("swin_tiny_patch4_window7_224", img_size=SIZE, depths=(1, 1, 1, 1)), "norm", "head.fc", "mean"),
    "timm swin v2": (by_timm("swinv2_tiny_window8_256", img_size=64, depths=(1, 1, 1, 1)), "norm", "head.fc", "mean"),
    "timm resnet": (by_timm("resnet18"), "layer4", "fc", "mean"),
    "timm convnext": (by_timm("convnext_atto"), "stages", "head.norm", "mean"),
    "timm efficientnet": (by_timm("efficientnet_b0"), "bn2", "classifier", "mean"),
    "timm mobilenet v3": (by_timm("mobilenetv3_small_100"), "blocks", "conv_head", "mean"),
    "timm vit, mean": (timm_vit(img_size=SIZE, global_pool="avg"), "blocks", "fc_norm", "mean"),
    "timm vit, mean, registers": (timm_vit(img_size=SIZE, global_pool="avg", reg_tokens=4), "blocks", "fc_norm", "mean"),
    "timm vit, mean, no class token": (
        timm_vit(img_size=SIZE, global_pool="avg", class_token=False),
        "blocks",
        "fc_norm",
        "mean",
    ),
    "timm beit": (by_timm("beit_base_patch16_224", img_size=SIZE, depth=2), "blocks.1", "fc_norm", "mean"),
}
SQUARE = {"maxvit", "timm swin v2"}

TOKENS = {
    "torchvision vit": (small_vit, "encoder.layers.encoder_layer_2.ln_1", 1, (64, 64)),
    "timm vit": (timm_vit(img_size=SIZE), "blocks.2.norm1", 1, SIZE),
    "timm vit, registers": (timm_vit(img_size=SIZE, reg_tokens=4), "blocks.2.norm1", 5, SIZE),
    "timm vit, any size": (timm_vit(dynamic_img_size=True), "blocks.2.norm1", 1, (48, 80)),
    "timm vit, any size, padded": (timm_vit(dynamic_img_size=True, dynamic_img_pad=True), "blocks.2.norm1", 1, (50, 75)),
    "deit, distilled": (by_timm("deit_tiny_distilled_patch16_224", img_size=SIZE, depth=3), "blocks.2.norm1", 2, SIZE),
    "timm vit, pooled by attention": (timm_vit(img_size=SIZE, global_pool="map", class_token=False), "norm", 0, SIZE),
}


@pytest.mark.parametrize("family", POOLED)
def test_the_map_is_what_the_head_reads(family):
    make, layer, reader, how = POOLED[family]
    net, x = made(make), torch.rand(2, 3, *((64, 64) if family in SQUARE else (96, 128) if family == "inception v3" else SIZE))
    found = explain(net, x, target=1)
    assert found.layer == layer

    a, g, read = plain(net, "blocks.2" if family.startswith("timm vit") else layer, x, 1, reader)
    u, v = found.heat.shape[1:]
    if a.ndim == 3:
        a, g = (t[:, t.shape[1] - u * v :].mT.unflatten(2, (u, v)) for t in (a, g))
    elif a.shape[1:3] == (u, v):
        a, g = a.movedim(3, 1), g.movedim(3, 1)
    close(found.heat, (g.mean((2, 3), keepdim=True) * a).sum(1))
    pooled = a if how == "itself" else a.mean((2, 3)) if how == "mean" else F.adaptive_avg_pool2d(a, how)
    close(read.detach().flatten(1), pooled.flatten(1))
    if how == "mean":  # whatever follows a mean, its gradient is the same everywhere: Grad-CAM is HiResCAM
        close(found.heat, (g * a).sum(1))


@pytest.mark.parametrize("family", TOKENS)
def test_the_map_is_the_patches_where_the_score_still_depends_on_them(family):
    make, layer, prefix, size = TOKENS[family]
    net, x = made(make), torch.rand(2, 3, *size)
    found = explain(net, x, target=1)
    assert found.layer == layer
    grid = tuple(-(-side // 16) for side in size)
    assert found.heat.shape[1:] == grid
    a, g, _ = plain(net, layer, x, 1)
    assert a.shape[1] == prefix + grid[0] * grid[1]
    a, g = a[:, prefix:], g[:, prefix:]
    close(found.heat, (g.mean(1, keepdim=True) * a).sum(2).unflatten(1, grid))


def test_places_of_tokens_are_places_of_the_picture():
    """Only what a patch shows can change its own row before any attention."""
    net, x = made(timm_vit(img_size=SIZE)), torch.rand(1, 3, *SIZE)
    changed = x.clone()
    changed[:, :, 16:32, 64:80] += 1  # row 1, column 4 of 4 x 6
    mean = {"layer": "blocks.0.norm1", "method": "activation_mean"}
    moved = (explain(net, x, **mean).heat - explain(net, changed, **mean).heat)[0] != 0
    assert moved.nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize(
    ("make", "layer", "shape"),
    [
        (segmentation.deeplabv3_mobilenet_v3_large, "backbone.16", (4, 6)),
        (segmentation.fcn_resnet50, "backbone.layer4", (8, 12)),
        (segmentation.lraspp_mobilenet_v3_large, "backbone.16", (4, 6)),
    ],
)
def test_segmentation_is_explained_at_the_last_map_of_its_backbone(make, layer, shape):
    aux = {} if make is segmentation.lraspp_mobilenet_v3_large else {"aux_loss": True}
    net, x = made(functools.partial(make, weights=None, weights_backbone=None, num_classes=4, **aux)), torch.rand(2, 3, *SIZE)
    left = torch.zeros(*SIZE, dtype=torch.bool)
    left[:, : SIZE[1] // 2] = True
    found = explain(net, x, target=lambda output, label: output[:, 1, left].sum(1))
    assert found.layer == layer
    assert found.heat.shape[1:] == shape
    by_region = explain(net, x, target={"segment": {"class_id": 1, "region": left}})
    close(found.heat, by_region.heat)
    logits = net(x)["out"]
    close(found.score, logits[:, 1, left].sum(1).detach(), 1e-5)


class UNet(nn.Module):
    """Down, and up again beside what came down; ``nested`` as in MONAI, each level around the next."""

    def __init__(self, nested):
        super().__init__()
        if nested:
            self.model = nn.Sequential(
                nn.Conv2d(3, 4, 3, 2, 1), Beside(Level(4, 8, Level(8, 16))), nn.ConvTranspose2d(8, 5, 2, 2)
            )
        else:
            self.inc, self.down1, self.down2 = nn.Conv2d(3, 4, 3, 1, 1), self.half(4, 8), self.half(8, 16)
            self.up2, self.up1, self.outc = self.twice(16, 8), self.twice(16, 4), nn.Conv2d(8, 5, 1)

    @staticmethod
    def half(into, out):
        return nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(into, out, 3, 1, 1), nn.ReLU())

    @staticmethod
    def twice(into, out):
        return nn.Sequential(nn.ConvTranspose2d(into, out, 2, 2), nn.ReLU())

    def forward(self, x):
        if hasattr(self, "model"):
            return self.model(x)
        a = self.inc(x)
        b = self.down1(a)
        b = torch.cat([b, self.up2(self.down2(b))], 1)
        return self.outc(torch.cat([a, self.up1(b)], 1))


class Beside(nn.Module):
    def __init__(self, submodule):
        super().__init__()
        self.submodule = submodule

    def forward(self, x):
        return torch.cat([x, self.submodule(x)], 1)


def Level(into, out, within=None):
    middle = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1), nn.ReLU()) if within is None else Beside(within)
    wide = out if within is None else 2 * out
    return nn.Sequential(nn.Conv2d(into, out, 3, 2, 1), nn.ReLU(), middle, nn.ConvTranspose2d(wide, into, 2, 2))


@pytest.mark.parametrize(("nested", "layer"), [(False, "down2"), (True, "model.1.submodule.2.submodule.2")])
def test_a_u_net_is_explained_at_its_bottleneck(nested, layer):
    net, x = made(functools.partial(UNet, nested)), torch.rand(2, 3, *SIZE)
    found = explain(net, x, target="segment")
    assert found.layer == layer
    assert found.heat.any()


class Around(nn.Module):
    """A module around another, as a LightningModule is."""

    def __init__(self, net):
        super().__init__()
        self.model = net

    def forward(self, x):
        return self.model(x)


def test_a_segmentation_is_explained_at_the_same_layer_inside_of_another_module():
    """Also where its inner parts return maps as coarse as the backbone's, and its own output is a map too."""
    net, x = made(FeaturePyramid), torch.rand(2, 3, *SIZE)
    assert explain(net, x, target="segment").layer == "encoder"
    assert explain(Around(net), x, target="segment").layer == "model.encoder"
    assert explain(Around(Around(net)), x, target="segment").layer == "model.model.encoder"


class FeaturePyramid(nn.Module):
    """A backbone, and a decoder that first makes its last map over."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(UNet.half(3, 8), UNet.half(8, 16))
        self.decoder = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), UNet.twice(8, 8), UNet.twice(8, 5))

    def forward(self, x):
        return self.decoder(self.encoder(x))


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet10t", "layer4"), ("resnet14t", "layer4"), ("mobilenetv3_small_050", "blocks"), ("efficientnet_lite0", "bn2")],
)
def test_a_trunk_without_classifier_is_explained_at_its_last_map(name, layer):
    """Its last convolution may have as many channels as the embedding, and is no classifier of these."""
    net, x = made(functools.partial(timm.create_model, name, num_classes=0)), torch.rand(2, 3, *SIZE)
    assert explain(net, x, target="projection").layer == layer


@pytest.mark.slow
@pytest.mark.parametrize("make", [detection.fasterrcnn_resnet50_fpn, detection.retinanet_resnet50_fpn])
def test_a_detector_is_explained_at_the_last_map_of_its_backbone(make):
    torch.manual_seed(0)
    thresholds = dict(box_score_thresh=0.0) if make is detection.fasterrcnn_resnet50_fpn else dict(score_thresh=0.0)
    net = make(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96, **thresholds).eval()
    x = torch.rand(2, 3, *SIZE)
    found = explain(net, x, target="detection")
    assert found.layer == "backbone.body.layer4"
    assert found.heat.shape == (2, 2, 3)
    assert found.heat.any()
    best = [one["scores"].argmax() for one in found.logits]
    expected = torch.stack([one["scores"][i] + 1 for one, i in zip(found.logits, best, strict=True)])  # 1: it overlaps itself
    close(found.score, expected.detach(), 1e-5)
    own = explain(net, x, target=lambda found, label: torch.stack([one["scores"].max() for one in found]))
    assert own.layer == found.layer
    assert own.heat.any()
    with pytest.raises(ValueError, match=r"the model gave detections\. Explain a box with target='detection'"):
        explain(net, x)


@pytest.mark.slow
def test_a_detector_without_any_detection_has_the_same_default_layer_and_no_map():
    net = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, box_score_thresh=0.99).eval()
    found = explain(net, torch.rand(1, 3, *SIZE), target="detection")
    assert found.layer == "backbone.body.16"
    assert found.score.isnan().all() and found.heat.isnan().all()


@pytest.mark.parametrize("make", [video.r3d_18, video.mc3_18, video.r2plus1d_18])
def test_video_is_explained_over_time_and_place(make):
    net, x = made(functools.partial(make, weights=None, num_classes=5)), torch.rand(1, 3, 8, 32, 48)
    found = explain(net, x, target=1)
    assert found.layer == "layer4"
    a, g, read = plain(net, "layer4", x, 1, "fc")
    assert found.heat.shape[1:] == a.shape[2:]
    close(found.heat, (g * a).sum(1))
    close(read.detach(), a.mean((2, 3, 4)))
    close(explain(net, x[0], target=1).heat, found.heat, 1e-6)


@pytest.mark.parametrize(("sides", "size"), [(1, (40,)), (2, (12, 16)), (3, (8, 12, 16))])
def test_signals_pictures_and_volumes_are_told_by_the_first_convolution(sides, size):
    conv, pool = (getattr(nn, f"{kind}{sides}d") for kind in ("Conv", "AdaptiveAvgPool"))
    net = nn.Sequential(conv(2, 4, 3, 2, 1), nn.ReLU(), conv(4, 6, 3, 2, 1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(6, 3))
    x = torch.rand(2, 2, *size)
    found = explain(net, x, target=1)
    assert found.layer == "3"
    a, g, _ = plain(net, "3", x, 1)
    close(found.heat, (g * a).sum(1))
    close(explain(net, x[0], target=1).heat, found.heat[:1], 1e-6)
    with pytest.raises(ValueError, match=r"explain takes images \[b c "):
        explain(net, torch.rand(2, 2, *size, 4, 4))


class Inner(nn.Module):
    """As Hugging Face's: an object with ``.logits``."""

    def __init__(self):
        super().__init__()
        self.vit = made(timm_vit(img_size=SIZE))

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.vit(pixel_values), hidden_states=None)


def test_an_object_with_logits_is_explained():
    net, x = Inner(), torch.rand(2, 3, *SIZE)
    found = explain(net, x, target=1)
    assert found.layer == "vit.blocks.2.norm1"
    close(found.heat, explain(net.vit, x, target=1).heat, 1e-6)


def test_the_image_tower_of_two_is_chosen():
    net, x = TwoTowers(), photos()
    found = explain(net, x, target=lambda output, label: output["image"] @ output["text"][1], output=lambda output: output)
    assert found.layer == "visual.blocks.2.norm1"
    assert found.heat.shape == (3, 2, 3)
    similar = explain(net, x, target=1, output=lambda output: output["image"] @ output["text"].T)
    close(found.heat, similar.heat, 1e-12)


class Unfolded(nn.Module):
    """Patches cut without a convolution, so that only the picture's sides tell the grid."""

    def __init__(self, prefix):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(3 * 16 * 16, 8), nn.LayerNorm(8), nn.Linear(8, 5)
        self.prefix = nn.Parameter(torch.rand(1, prefix, 8))

    def forward(self, x):
        patches = self.embed(F.unfold(x, 16, stride=16).mT)
        tokens = self.block(torch.cat([self.prefix.expand(len(x), -1, -1), patches], 1))
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (64, 64)])
def test_a_grid_of_tokens_has_the_pictures_own_aspect(size, prefix):
    net, x = made(functools.partial(Unfolded, prefix)), torch.rand(1, 3, *size)
    found = explain(net, x, layer="block", method="activation_mean").heat
    assert found.shape[1:] == (size[0] // 16, size[1] // 16)
    changed = x.clone()
    changed[:, :, 16:32, 48:64] += 1
    moved = explain(net, changed, layer="block", method="activation_mean").heat != found
    assert moved[0].nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("method", ["grad_cam", "guided_grad_cam", "full_grad", "recipro_cam", "x_grad_cam"])
def test_channels_last_in_memory_changes_nothing(method):
    net, x = made(tv("mobilenet_v2")), torch.rand(2, 3, *SIZE)
    found = explain(net, x, target=1, method=method).heat
    last = made(tv("mobilenet_v2")).to(memory_format=torch.channels_last)
    close(explain(last, x.contiguous(memory_format=torch.channels_last), target=1, method=method).heat, found)


def test_swin_is_read_alike_before_and_behind_its_permute():
    """torchvision's blocks hand on [b h w c]; behind them stands [b c h w]."""
    net, x = made(small_swin), torch.rand(2, 3, *SIZE)
    assert net.features(x).shape[1:3] == net.permute(net.norm(net.features(x))).shape[2:]
    for method in ("grad_cam", "hires_cam", "recipro_cam"):
        close(*(explain(net, x, layer=layer, target=1, method=method).heat for layer in ("norm", "permute")))
