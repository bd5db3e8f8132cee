"""What cannot be shown is refused, and the message names what can."""

import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, resnet18
from vits import ViT, photos, timm_vit, torchvision_vit
from zoo import gap_linear, images

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.targets import find

ATTENTION = ["attention_rollout", "attention_relevance", "le_grad", "grad_eclip"]


@pytest.mark.parametrize(
    ("make", "layer", "better"),
    [
        (torchvision_vit, "encoder.ln", "encoder.layers.encoder_layer_1.ln_1"),
        (torchvision_vit, "encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_1.ln_1"),
        (timm_vit, "blocks.1", "blocks.1.norm1"),
        (timm_vit, "blocks.1.norm2", "blocks.1.norm1"),
        (timm_vit, "norm", "blocks.1.norm1"),
    ],
)
def test_a_class_token_behind_the_last_attention_is_told_with_the_layer_to_use(make, layer, better):
    net, x = make(), torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match=f"exactly zero on the whole map.*only the class token.*'{better}'"):
        explain(net, x, layer=layer)
    found = explain(net, x, layer=better)
    assert found.heat.any()
    assert explain(net, x).layer == better
    assert explain(net, x, layer=layer, method="activation_mean").heat.any()  # no gradient is needed


@pytest.mark.parametrize("how", ["written", "flat"])
def test_the_layer_to_use_is_named_also_where_attention_is_written_out(how):
    with pytest.raises(ValueError, match=r"exactly zero.*'blocks.2.norm1'"):
        explain(ViT(how=how), photos(), layer="norm")


def test_a_layer_that_feeds_nothing_into_the_target_is_told():
    class Side(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.side = gap_linear(), nn.Conv2d(3, 4, 1).double()

        def forward(self, x):
            return self.net(x), self.side(x).mean((2, 3))

    with pytest.raises(ValueError, match=r"'side' does not feed the explained score.*Layers with a map: .*net.features"):
        explain(Side(), images(), layer="side", output=0)
    assert explain(Side(), images(), layer="side", output=1).heat.any()


def test_a_map_of_one_cell_is_refused_and_the_default_is_the_last_of_more():
    torch.manual_seed(0)
    net, x = resnet18(weights=None, num_classes=4), torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"'layer4' returned shape \(1, 512, 1, 1\).*more than one cell.*layer3 256x2x2"):
        explain(net, x, layer="layer4")
    assert explain(net, x).layer == "layer3"
    with pytest.raises(ValueError, match="No module of this model returns a spatial map"):
        explain(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 2)), torch.rand(1, 3, 8, 8))


class Hidden(nn.Module):
    """Attention by a formula of its own, as behind a kernel."""

    def forward(self, x):
        e = (x @ x.mT / 4).exp()
        return x + e / e.sum(-1, keepdim=True) @ x


def hidden():
    net = ViT(prefix=0, pool="mean")
    net.blocks = nn.Sequential(Hidden().double())
    return net, photos(), r"No attention was seen.*fused_attn=False.*attn_implementation.*grad_cam"


def convolutional():
    return gap_linear(), images(), "No attention was seen.*the model has none"


def windowed():
    torch.manual_seed(0)
    net = SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5)
    return net, torch.rand(2, 3, 64, 64), r"'features.1.0.attn' is within windows.*\(32, 2, 16, 16\).*\[b heads n n\].*grad_cam"


class Beside(nn.Module):
    """Puts the mean over the tokens beside what was pooled of them."""

    def __init__(self, net):
        super().__init__()
        net.norm.register_forward_hook(self.keep)

    def keep(self, module, args, tokens):
        self.tokens = tokens

    def forward(self, pooled):
        return pooled + self.tokens.mean(1)


def cross():
    net = timm_vit(global_pool="map", class_token=False)
    net.fc_norm = Beside(net)
    return (
        net,
        torch.rand(2, 3, 32, 32),
        r"'attn_pool' is from some tokens to others.*\(2, 3, 1, 4\).*Write method=\"grad_cam\"",
    )


@pytest.mark.parametrize("method", ATTENTION)
@pytest.mark.parametrize("case", [hidden, convolutional, windowed, cross])
def test_attention_that_cannot_be_read_is_refused_and_grad_cam_still_works(case, method):
    net, x, message = case()
    with pytest.raises(ValueError, match=message):
        explain(net, x, method=method)
    assert explain(net, x).heat.any()


def test_grad_eclip_needs_one_token_and_its_queries():
    with pytest.raises(ValueError, match=r'the score reads 6. Write method="attention_relevance"'):
        explain(ViT(prefix=0, pool="mean"), photos(), method="grad_eclip")
    assert explain(ViT(prefix=0, pool="mean"), photos(), method="attention_relevance").heat.any()
    with pytest.raises(ValueError, match=r"written out by hand, as in 'blocks.2.attn'.*fused_attn=True.*attention_relevance"):
        explain(ViT(how="written"), photos(), method="grad_eclip")
    assert explain(ViT(how="written"), photos(), method="attention_relevance").heat.any()


def test_le_grad_needs_a_block_for_each_attention():
    net = ViT()
    net.blocks = nn.Sequential(net.blocks[0], net.blocks[0])
    with pytest.raises(
        ValueError, match=r"le_grad.*'blocks.0.attn' is in no block of its own.*Write method=\"attention_relevance\""
    ):
        explain(net, photos(), method="le_grad")
    assert explain(net, photos(), method="attention_relevance").heat.any()


def test_a_detached_score_and_a_random_model_are_told():
    for method in ("attention_relevance", "le_grad", "grad_eclip"):
        with pytest.raises(ValueError, match=r'detached. Write method="attention_rollout"'):
            explain(ViT(), photos(), method=method, target=lambda logits, label: logits[:, 0].detach())

    class Noisy(ViT):
        def forward(self, x):
            return super().forward(x) + torch.rand(())

    assert explain(ViT(), photos(), method="attention_rollout", target=lambda logits, label: logits[:, 0].detach()).heat.any()
    with pytest.raises(RuntimeError, match="other scores in a second forward"):
        explain(Noisy(), photos(), method="attention_rollout")


class Again(nn.Module):
    """One ReLU for three places."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1).double() for i, o in ((3, 4), (4, 5), (5, 6)))
        self.relu, self.head = nn.ReLU(), nn.Linear(6, 4).double()

    def forward(self, x):
        return self.head(self.relu(self.c(self.relu(self.b(self.relu(self.a(x)))))).mean((2, 3)))


def test_calls_of_one_layer_are_told_apart():
    net, x = Again(), images()
    outs = [net.a(x).relu()]
    outs.append(net.b(outs[-1]).relu())
    outs.append(net.c(outs[-1]).relu())
    for i, a in enumerate(outs):
        (g,) = torch.autograd.grad(net(x)[:, 2].sum() * 0 + tail(net, a := a.detach().requires_grad_(), i)[:, 2].sum(), a)
        found = explain(net, x, layer=f"relu#{i}", target=2)
        assert found.layer == f"relu#{i}"
        assert torch.allclose(found.heat, (g.mean((2, 3), keepdim=True) * a).sum(1).detach(), rtol=1e-10, atol=1e-14)
    last = explain(net, x, layer="relu", target=2)
    assert last.layer == "relu#2"
    assert torch.equal(last.heat, found.heat)
    assert explain(net, x, target=2).layer == "relu#2"
    assert torch.allclose(explain(net, x, layer="relu#2", method="cam", target=2).heat / 80, found.heat, rtol=1e-10, atol=1e-14)
    with pytest.raises(ValueError, match=r"'relu' is called 3 times: name #0 to #2, not 'relu#3'"):
        explain(net, x, layer="relu#3")
    with pytest.raises(ValueError, match=r"no layer 'rela'. Did you mean 'relu'"):
        explain(net, x, layer="rela#1")


def tail(net, a, i):
    for conv in (net.b, net.c)[i:]:
        a = conv(a).relu()
    return net.head(a.mean((2, 3)))


def test_several_calls_of_one_layer_share_a_look_and_are_changed_apart():
    net, x = Again(), images()
    names = ["relu#0", "relu", "relu#1"]
    with open_session(net, names) as session:
        look = session.forward(x, find(2))
        for name in names:
            seen = Seen(look, name)
            assert torch.allclose(seen.rescore(1, activation=seen.activation[1:2]), seen.score[1:2], rtol=1e-12)
            assert not torch.allclose(seen.rescore(1, activation=seen.activation[1:2] * 2), seen.score[1:2])
        assert [Seen(look, name).activation.shape[1] for name in names] == [4, 6, 5]


def test_layers_that_return_no_map_in_whatever_they_return_are_refused():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Again()

        def forward(self, x):
            return {"logits": self.net(x), "loss": None}

    net, x = nn.ModuleDict({"pair": Pair(), "vit": torchvision_vit()}), images()
    with pytest.raises(
        ValueError, match=r"'pair' returned a dict of logits, loss; expected a map.*Layers with a map: pair.net.c"
    ):
        explain(net, x, layer="pair", forward=lambda model, images, batch: model["pair"](images))
    name = "encoder.layers.encoder_layer_1.self_attention"
    with pytest.raises(
        ValueError, match=rf"'{name}\[1\]' returned at \[1\] a NoneType; expected a map.*Layers with a map: encoder"
    ):
        explain(torchvision_vit(), torch.rand(2, 3, 32, 32), layer=f"{name}[1]")
    with pytest.raises(
        ValueError, match=r"returned a tuple of Tensor\[2, 17, 8\], NoneType, which has no \[2\]; expected a map"
    ):
        explain(torchvision_vit(), torch.rand(2, 3, 32, 32), layer=f"{name}[2]")
