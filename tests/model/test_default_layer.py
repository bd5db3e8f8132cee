"""The layer watched when none is named, and the layer that is named: no part of an attention passes for a picture."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.video import r3d_18

from lightning_cam import explain
from lightning_cam.model.default_layer import find_default_layer
from lightning_cam.model.layout import Layout, infer_layout, is_split_tokens
from lightning_cam.model.names import find_layer
from lightning_cam.model.trace import record_calls

WIDTH, HEADS = 12, 3


class Attend(nn.Module):
    """Self-attention that norms its queries and keys: ``heads`` [b h n d], ``last`` [b n h d], or ``rows`` [b n c]."""

    def __init__(self, normed="heads", how="fused", before=False):
        super().__init__()
        self.normed, self.how = normed, how
        self.norm = nn.LayerNorm(WIDTH) if before else nn.Identity()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        size = WIDTH if normed == "rows" else WIDTH // HEADS
        self.q_norm, self.k_norm, self.v_norm = (nn.LayerNorm(size) for _ in range(3))
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x):
        x = self.norm(x)
        q, k, v = (self.split(*part) for part in ((self.q, self.q_norm, x), (self.k, self.k_norm, x), (self.v, self.v_norm, x)))
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "written":
            y = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        else:
            y = self.softmax(q @ k.mT / q.shape[-1] ** 0.5) @ v
        return self.proj(y.transpose(1, 2).flatten(2))

    def split(self, linear, norm, x):
        if self.normed == "rows":
            return norm(linear(x)).unflatten(2, (HEADS, -1)).transpose(1, 2)
        rows = linear(x).unflatten(2, (HEADS, -1))
        return norm(rows).transpose(1, 2) if self.normed == "last" else norm(rows.transpose(1, 2))


class Block(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(WIDTH), Attend(**options), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Flat(Attend):
    """A block that calls attention itself."""

    def __init__(self, **options):
        super().__init__(**options, before=True)
        self.norm2, self.mlp = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = x + super().forward(x)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches of 16, a class token that is read, or the patches' mean."""

    def __init__(self, block=Block, token=True, **options):
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, WIDTH, 16, 16), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.Sequential(*(block(**options) for _ in range(2)))
        self.norm, self.head, self.read = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5), token

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        if not self.read:
            return self.head(self.norm(self.blocks(x)).mean(1))
        return self.head(self.norm(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1)))[:, 0])


def default(net, x):
    return find_default_layer(net.eval(), x, net)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 128), (32, 64)])
@pytest.mark.parametrize("how", ["fused", "written", "module"])
@pytest.mark.parametrize("normed", ["heads", "last", "rows"])
def test_normed_queries_and_keys_are_not_watched(normed, how, size):
    net, x = ViT(normed=normed, how=how), torch.rand(2, 3, *size)
    assert default(net, x) == "blocks.1.norm1"
    assert explain(net, x).heat.shape[1:] == (size[0] // 16, size[1] // 16)
    assert default(ViT(normed=normed, how=how, token=False), x) == "norm"


@pytest.mark.parametrize("how", ["fused", "module"])
@pytest.mark.parametrize("normed", ["heads", "last", "rows"])
def test_a_norm_before_the_projections_is_watched_wherever_it_stands(normed, how):
    x = torch.rand(1, 3, 64, 64)
    assert default(ViT(Flat, normed=normed, how=how), x) == "blocks.1.norm"

    class Within(Block):
        """As in vit-pytorch: the norm is the attention's own."""

        def __init__(self):
            super().__init__(normed=normed, how=how, before=True)
            self.norm1 = nn.Identity()

    assert default(ViT(Within), x) == "blocks.1.attn.norm"


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("options", "layer"),
    [
        (dict(), "blocks.2.norm1"),
        (dict(reg_tokens=4), "blocks.2.norm1"),
        (dict(scale_attn_norm=True), "blocks.2.norm1"),
        (dict(global_pool="avg"), "blocks"),
        (dict(global_pool="avg", class_token=False), "blocks"),
    ],
)
@pytest.mark.parametrize("size", [64, (64, 96), 128])
def test_timms_transformers_with_normed_queries_and_keys(size, options, layer, fused):
    net = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=5, img_size=size, qk_norm=True, **options)
    for block in net.blocks:
        block.attn.fused_attn = fused
    nn.init.normal_(net.head.weight)
    sides = (size, size) if isinstance(size, int) else size
    found = explain(net, torch.rand(1, 3, *sides))
    assert found.layer == layer
    assert found.heat.shape[1:] == (sides[0] // 16, sides[1] // 16)
    assert found.heat.any()


def test_attention_called_by_the_block_itself_in_timm():
    net = timm.create_model("vit_base_patch16_xp_224", depth=2, img_size=64)
    assert default(net, torch.rand(1, 3, 64, 64)) == "blocks.1.in_norm"


@pytest.mark.parametrize("normed", ["heads", "last"])
def test_queries_and_keys_named_by_the_user_are_refused(normed):
    net, x = ViT(normed=normed).eval(), torch.rand(2, 3, 64, 64)
    for part in ("q_norm", "k_norm", "v_norm"):
        with pytest.raises(
            ValueError, match=rf"'blocks.1.attn.{part}' returned shape \(2, .*expected a map.*Layers with a map: blocks"
        ):
            explain(net, x, layer=f"blocks.1.attn.{part}")


@pytest.mark.parametrize(
    ("shape", "image", "tokens", "split"),
    [
        ((2, 3, 17, 64), (64, 64), (2, 17, 192), True),
        ((2, 3, 17, 64), (64, 64), (2, 17, 576), True),  # queries, keys and values in one
        ((2, 17, 3, 64), (64, 64), (2, 17, 192), True),
        ((2, 5, 17, 17), (64, 64), (2, 17, 192), True),  # probabilities
        ((2, 17, 17, 5), (64, 64), (2, 17, 192), True),
        ((2, 12, 65, 64), (128, 128), (2, 65, 768), True),  # 65 to 64 as an image's sides, but for the class token
        ((2, 1, 24, 4), (64, 96), (2, 24, 12), True),  # keys of fewer heads
        ((2, 6, 16, 64), (64, 64), (2, 16, 192), True),  # heads wider than the model
        ((2, 3, 18, 64), (64, 64), (2, 17, 192), False),  # not as many tokens
        ((2, 5, 17, 64), (64, 64), (2, 17, 192), False),  # not as many channels
        ((2, 3, 256, 256), (256, 256), (2, 256, 768), False),  # what a decoder makes of tokens
        ((2, 64, 8, 8), (128, 128), (2, 64, 256), False),
        ((2, 48, 16, 16), (64, 64), (2, 16, 768), False),
        ((2, 7, 16, 16), (64, 64), (2, 16, 768), False),
    ],
)
def test_tokens_split_over_heads_are_told_from_maps(shape, image, tokens, split):
    layout = infer_layout(tokens, (2, 3, *image), [(image[0] // 16, image[1] // 16)])
    assert layout is not None and layout.prefix is not None
    assert is_split_tokens(shape, (2, 3, *image), tokens, layout) is split


def test_one_cell_is_no_map_wherever_its_channels_are():
    """As in ConvNeXt V2 at the end of small images: [b 1 1 c] is no row of c cells."""
    for image in [(2, 3, 32, 32), (2, 3, 64, 48)]:
        assert infer_layout((2, 1, 1, 64), image) is None
        assert infer_layout((2, 64, 1, 1), image) is None
    assert infer_layout((2, 1, 1, 64), (2, 1, 32, 128)) == Layout(0, 1, (1, 64))
    assert infer_layout((2, 1, 2, 64), (2, 3, 32, 64)) == Layout(0, 3, (1, 2))
    net = timm.create_model("convnextv2_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=5).eval()
    assert explain(net, torch.rand(2, 3, 32, 32)).layer == "stages.3.downsample.0"


def test_maps_are_never_tokens_of_maps():
    assert not is_split_tokens((1, 8, 4, 4), (1, 3, 64, 64), (1, 8, 4, 4), Layout(0, 1, (4, 4)))


class Spectrogram(nn.Module):
    """As in a CRNN: height is pooled away, width hardly."""

    def __init__(self):
        super().__init__()
        pools = (2, (2, 1), (2, 1), (4, 1))
        self.trunk = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(1 if i == 0 else 8, 8, 3, 1, 1), nn.MaxPool2d(p), nn.ReLU()) for i, p in enumerate(pools))
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.trunk(x).mean((2, 3)))


def signals():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv1d(4, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(6, 3),
    )  # fmt: skip


CONVOLUTIONAL = {
    "resnet": (lambda: models.resnet18(num_classes=5), "layer4", lambda side: -(-side // 32)),
    "convnext": (lambda: models.convnext_tiny(num_classes=5), "features", lambda side: side // 32),
    "swin": (
        lambda: SwinTransformer([4, 4], 16, [1, 1, 2], [2, 2, 4], [4, 4], num_classes=5),
        "permute",
        lambda side: -(-(side // 4) // 4),
    ),
}


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64), (33, 97), (64, 192), (32, 96)])
@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_maps_of_any_aspect_are_read(family, size):
    make, layer, cells = CONVOLUTIONAL[family]
    net, x = make(), torch.rand(1, 3, *size)
    assert default(net, x) == layer
    assert explain(net, x, method="activation_mean").heat.shape[1:] == tuple(map(cells, size))


@pytest.mark.parametrize(
    ("make", "shape", "layer", "grid"),
    [
        (Spectrogram, (1, 32, 128), "trunk", (1, 64)),
        (Spectrogram, (1, 64, 40), "trunk", (2, 20)),
        (lambda: r3d_18(num_classes=5), (3, 8, 32, 48), "layer4", (1, 2, 3)),
        (signals, (2, 40), "3", (10,)),
    ],
)
def test_strides_that_differ_volumes_and_signals_are_read(make, shape, layer, grid):
    net, x = make(), torch.rand(1, *shape)
    assert default(net, x) == layer
    assert explain(net, x, method="activation_mean").heat.shape[1:] == grid


@pytest.mark.parametrize("make", [lambda: models.resnet18(num_classes=5), Spectrogram, lambda: models.swin_t(num_classes=5)])
def test_every_map_of_a_network_without_tokens_is_read(make):
    net = make().eval()
    x = torch.rand(1, 1 if isinstance(net, Spectrogram) else 3, 64, 96)
    with record_calls(net, x.shape) as calls, torch.no_grad():
        net(x)
    maps = [call for call in calls if call.shape and len(call.shape) == 4 and max(call.shape[2:]) > 1]
    assert len(maps) > 10
    assert all(call.layout is not None for call in maps)


@pytest.mark.parametrize("size", [64, 128])
def test_transformers_as_they_come(size):
    net = VisionTransformer(image_size=size, patch_size=16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    nn.init.normal_(net.heads.head.weight)
    assert default(net, torch.rand(1, 3, size, size)) == "encoder.layers.encoder_layer_2.ln_1"
    net = timm.create_model("vit_tiny_patch16_224", img_size=size, num_classes=5)
    assert default(net, torch.rand(1, 3, size, size)) == "blocks.11.norm1"


class Trunk(nn.Module):
    """Convolutions, and attention over their places in the model's own forward."""

    def __init__(self, how):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.qkv, self.head, self.how = nn.Linear(8, 24), nn.Linear(8, 5), how

    def forward(self, x):
        x = self.features(self.norm(x)).flatten(2).mT
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.how == "attention":
            x = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "written":
            x = (q @ k.mT).softmax(-1) @ v
        else:
            x = x.mT.softmax(-1).mT * x
        return self.head(x.mean(1)).softmax(-1)


@pytest.mark.parametrize("how", ["attention", "written", "of places"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_network_that_calls_attention_itself_is_no_attention(how, wrapped):
    net = nn.Sequential(Trunk(how)) if wrapped else Trunk(how)
    assert default(net, torch.rand(1, 3, 32, 32)) == ("0.features" if wrapped else "features")


def test_where_an_attention_has_the_only_maps_they_are_watched():
    class Cut(nn.Module):
        def forward(self, x):
            return F.unfold(x, 16, stride=16).mT

    class Pooled(Attend):
        def forward(self, x):
            return super().forward(x).mean(1)

    net = nn.Sequential(Cut(), nn.Linear(768, WIDTH), Pooled("rows"), nn.Linear(WIDTH, 5))
    x = torch.rand(1, 3, 64, 64)
    assert default(net, x) == "0"
    net[0] = nn.Sequential(nn.Unflatten(3, (4, 16)), nn.Flatten(3), nn.Unfold(16, stride=16))
    net.insert(1, nn.Identity())
    net[1].forward = lambda rows: rows.mT
    assert default(net, x) == "3.v_norm"


def test_the_model_is_run_by_what_is_handed_in_on_one_image_that_it_may_change():
    net, x = models.resnet18(num_classes=5).eval(), torch.rand(3, 3, 64, 64)
    given, pixels = [], x.clone()

    def run(images):
        given.append(images.shape)
        images.zero_()
        return {"nested": net(images)}["nested"]

    assert find_default_layer(net, x, run) == "layer4"
    assert given == [(1, 3, 64, 64)]
    assert torch.equal(x, pixels)


class Towers(nn.Module):
    """An image tower, then one of words, whose rows fit a grid of the image's aspect as SigLIP's 64 do."""

    def __init__(self):
        super().__init__()
        self.vision = ViT()
        self.words, self.mix = nn.Embedding(10, WIDTH), nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, 5)

    def forward(self, images):
        images = self.vision(images)
        words = self.mix(self.words(torch.arange(64)[None] % 10))
        return images @ self.project(words.mean(1)).T


def test_the_words_of_a_text_tower_are_no_map_of_the_image():
    assert infer_layout((1, 64, WIDTH), (1, 3, 64, 64), []) is not None
    assert default(Towers(), torch.rand(2, 3, 64, 64)) == "vision.blocks.1.norm1"


def test_an_image_that_is_taken_out_of_the_graph_has_maps_all_the_same():
    net = ViT()
    net.register_forward_pre_hook(lambda module, args: (args[0].detach(),))
    assert default(net, torch.rand(1, 3, 64, 64)) == "blocks.1.norm1"


def test_nothing_is_left_behind_by_the_search_also_after_an_error():
    net, x = ViT().eval(), torch.rand(1, 3, 64, 64)

    def fail(images):
        net(images)
        raise RuntimeError("on purpose")

    default(net, x)
    with pytest.raises(RuntimeError, match="on purpose"):
        find_default_layer(net, x, fail)
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert torch.overrides._len_torch_function_stack() == 0


def test_an_error_that_the_model_catches_itself_does_not_shift_what_is_found():
    class Tries(Block):
        def forward(self, x):
            try:
                self.mlp(x[..., :3])
            except RuntimeError:
                return super().forward(x)

    assert default(ViT(Tries), torch.rand(1, 3, 64, 64)) == "blocks.1.norm1"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [3, ["patch"], None, b"patch"])
def test_a_layer_that_is_no_name_and_no_module_is_told_what_is(wrong):
    accepted = r"its dotted name, `name#i` for one of its calls, `name\[i\]` for a part of its output, or a module of"
    with pytest.raises(TypeError, match=f"A layer is {accepted} the model; got"):
        find_layer(ViT(), wrong)


def test_an_empty_name_is_told_what_is_accepted():
    with pytest.raises(ValueError, match=r"A layer is its dotted name, .* or a module of the model; got an empty name"):
        find_layer(ViT(), "")
    net = ViT()
    assert find_layer(net, net.blocks[1]) == find_layer(net, "blocks.1") == "blocks.1"
    assert find_layer(net, "blocks.1#0") == "blocks.1#0"
