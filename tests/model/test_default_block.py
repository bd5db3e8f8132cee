"""A default layer is a block, not the branch beside its residual; a bottleneck, not a decoder's pooling; no picture."""

import pytest
import torch
from compare import close_and_alive as close
from families import made
from torch import nn

from lightning_cam import explain
from lightning_cam.model.default_layer import find_default_layer

WIDTH = 8


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, 2)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v)), None


class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))


class Block(nn.Module):
    """As in Hugging Face's Hiera: hands on a tuple."""

    def __init__(self, hand_on=lambda x: (x, None)):
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attend(), Mlp()
        self.hand_on = hand_on

    def forward(self, x):
        x = x + self.attn(self.norm1(x))[0]
        return self.hand_on(x + self.mlp(self.norm2(x)))


class Encoder(nn.Module):
    """Unpacks what its blocks return, and returns an object of several entries itself."""

    def __init__(self, hand_on):
        super().__init__()
        self.layers = nn.ModuleList(Block(hand_on) for _ in range(2))
        self.read = hand_on(0)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            if isinstance(self.read, dict):
                x = x["hidden"]
            elif isinstance(self.read, tuple):
                x = x[0]
        return {"last_hidden_state": x, "hidden_states": None}


class Net(nn.Module):
    def __init__(self, hand_on, pool="mean"):
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.encoder, self.head = nn.Conv2d(3, WIDTH, 8, 8), Encoder(hand_on), nn.Linear(WIDTH, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pool = pool
        self.double().eval()

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        if self.pool == "mean":
            return self.head(self.encoder(x)["last_hidden_state"].mean(1))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.encoder(x)["last_hidden_state"][:, 0])


def images():
    return torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def grad_cam(net, layer, x, take=lambda output: output):
    """By the formula, of tokens on a grid of 4 x 4."""
    stored = {}
    handle = net.get_submodule(layer).register_forward_hook(lambda module, args, output: stored.update(map=take(output)))
    score = net(x)
    score = getattr(score, "logits", score)[:, 1].sum()
    handle.remove()
    (g,) = torch.autograd.grad(score, stored["map"])
    a = stored["map"].detach()
    side = int(a.shape[1] ** 0.5)
    return torch.stack([(a[i] @ g[i].mean(0)).reshape(side, side) for i in range(len(x))])


@pytest.mark.parametrize("hand_on", [lambda x: (x, None), lambda x: {"hidden": x}, lambda x: x])
def test_a_block_is_preferred_to_its_last_part_however_it_hands_its_tokens_on(hand_on):
    net, x = Net(hand_on), images()
    found = explain(net, x, target=1)
    assert found.layer == "encoder.layers.1"

    def take(output):
        if isinstance(output, torch.Tensor):
            return output
        return next(iter(output.values())) if isinstance(output, dict) else output[0]

    close(found.heat, grad_cam(net, found.layer, x, take), 1e-10)


class Both(nn.Module):
    """A residual block that hands its map on beside a pooled branch."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        change = self.branch(x)
        return x + change, change.mean((2, 3))


def test_a_branch_stays_where_only_what_its_block_hands_on_beside_the_map_is_read():
    class Reads(nn.Module):
        def __init__(self, i):
            super().__init__()
            torch.manual_seed(0)
            self.i, self.stem, self.block, self.head = i, nn.Conv2d(3, WIDTH, 8, 8), Both(), nn.Linear(WIDTH, 4)
            self.double().eval()

        def forward(self, x):
            read = self.block(self.stem(x))[self.i]
            return self.head(read if self.i else read.mean((2, 3)))

    assert explain(Reads(0), images(), target=1).layer == "block"
    assert explain(Reads(1), images(), target=1).layer == "block.branch"


def test_a_block_whose_patches_are_not_read_is_none():
    net = Net(lambda x: (x, None), "token")
    assert find_default_layer(net, images(), net) == "encoder.layers.1.norm1"


def test_a_tuple_with_what_a_part_returned_and_nothing_more_is_that_again():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()

        def forward(self, x):
            return self.act(self.conv(x)) * 1, None

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.head = Last(), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.trunk(x)[0].mean((2, 3)))

    net = Holder()
    assert find_default_layer(net, torch.rand(1, 3, 32, 32), net) == "trunk.act"


def test_several_maps_handed_on_are_no_block():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)

        def forward(self, x):
            fine = self.fine(x)
            return self.coarse(fine) + 1, fine + 1

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.head = Pyramid(), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(sum(m.mean((2, 3)) for m in self.trunk(x)))

    net = Holder()
    assert find_default_layer(net, torch.rand(1, 3, 32, 32), net) == "trunk.coarse"


@pytest.mark.filterwarnings("ignore")
def test_hugging_faces_hiera_is_explained_at_its_last_block():
    transformers = pytest.importorskip("transformers")
    sizes = dict(image_size=[64, 64], embed_dim=12, num_heads=[1, 2, 2, 4], depths=[1, 1, 2, 1], num_labels=5)
    net = made(lambda: transformers.HieraForImageClassification(transformers.HieraConfig(**sizes))).double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    found = explain(net, x, target=1)
    assert found.layer == "hiera.encoder.stages.3.layers.0"
    close(found.heat, grad_cam(net, found.layer, x, lambda output: output[0]), 1e-10)


def step(i, o, stride=2):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.ReLU())


class Pooled(nn.Module):
    """As the pyramid of PSPNet and UPerNet: a map pooled to a size of its own, scaled up and put beside it."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(8, 4, 1), nn.ReLU())
        self.out = step(12, 8, 1)

    def forward(self, x):
        return self.out(torch.cat([x, nn.functional.interpolate(self.block(x), x.shape[2:])], 1))


class Attending(nn.Module):
    """As the attention of PAN: maps of one channel, pooled further and further, as weights of the places."""

    def __init__(self):
        super().__init__()
        self.down1 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 1, 3, 1, 1), nn.ReLU())
        self.down2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(1, 1, 3, 1, 1), nn.ReLU())

    def forward(self, x):
        return x * nn.functional.interpolate(self.down2(self.down1(x)), x.shape[2:])


class Segmenter(nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.encoder = nn.Sequential(step(3, 6), step(6, 8))
        self.decoder, self.head = decoder, nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return nn.functional.interpolate(self.head(self.decoder(self.encoder(x))), x.shape[2:])


@pytest.mark.parametrize("decoder", [Pooled, Attending, lambda: step(8, 8, 1)])
@pytest.mark.parametrize("side", [32, 64])
def test_what_a_decoder_pools_is_no_bottleneck_of_a_segmentation(decoder, side):
    net = Segmenter(decoder())
    assert find_default_layer(net, torch.rand(1, 3, side, side), net) == "encoder"


def test_a_bottleneck_behind_a_pooling_of_its_own_is_found():
    """The coarsest map is the pooling's alone; no layer with weights returns one as coarse by itself but the bottleneck."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.pool, self.bottleneck = step(3, 6), nn.MaxPool2d(2), step(6, 8, 1)
            self.up = nn.Conv2d(8, 3, 3, 1, 1)

        def forward(self, x):
            return nn.functional.interpolate(
                self.up(nn.functional.interpolate(self.bottleneck(self.pool(self.down(x))), 16)), 32
            )

    net = Flat()
    assert find_default_layer(net, torch.rand(1, 3, 32, 32), net) == "bottleneck"


class Anomaly(nn.Module):
    """As Fastflow: a score that is read from the map of anomalies."""

    def __init__(self):
        super().__init__()
        self.features, self.generator = nn.Sequential(step(3, 6), step(6, 8)), nn.Conv2d(8, 1, 3, 1, 1)

    def forward(self, x):
        return self.generator(self.features(x)).amax((1, 2, 3))[:, None]


def test_a_map_of_one_channel_is_watched_only_where_there_is_no_other():
    net, x = Anomaly(), torch.rand(1, 3, 32, 32)
    assert find_default_layer(net, x, net) == "features"
    narrow = nn.Sequential(nn.Conv2d(3, 1, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3))
    assert find_default_layer(narrow, x, narrow) == "1"
    net.generator = nn.Conv2d(3, 1, 3, 1, 1)
    net.forward = lambda x: net.generator(x + 0 * net.features(x).detach().mean()).amax((1, 2, 3))[:, None]
    assert find_default_layer(net, x, net) == "generator"
