"""How much of the evidence is on the map: the numbers by hand, what is undefined, and where it is told. b batch, p tokens."""

import warnings
from dataclasses import replace

import pytest
import torch
from nets import STRICT
from plain import plain_net, watcher
from torch import nn
from vits import ViT, photos, timm_vit, torchvision_vit
from zoo import gap_linear, images

from lightning_cam import explain, metrics
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.capture.summary.evidence import known_shares
from lightning_cam.figures.captions import captions
from lightning_cam.metrics.evidence import token_share
from lightning_cam.model.layout import Layout
from lightning_cam.registry import METRICS
from lightning_cam.targets import find

pytestmark = STRICT


def measured(net, x, layer, target=1):
    """Both metrics at a layer, and what was seen there."""
    with open_session(net, [layer]) as session:
        seen = Seen(session.forward(x, find(target)), layer)
        heat = torch.zeros_like(seen.activation[:, 0])
        return metrics.on_map(heat, seen), metrics.bias_share(heat, seen), seen


def by_hand(net, x, block, c):
    """Token by token and channel by channel, from what autograd says of the tail behind a block: on map, bias share."""
    shares = []
    for image in x:
        tokens = net.blocks[: block + 1](net.embed(image[None])).detach().requires_grad_()
        score = net.read(net.blocks[block + 1 :](tokens))[0, c]
        (g,) = torch.autograd.grad(score, tokens)
        shown = hidden = total = 0.0
        for n in range(tokens.shape[1]):
            for k in range(tokens.shape[2]):
                term = float(g[0, n, k] * tokens.detach()[0, n, k])
                total += term
                if n < net.prefix.shape[1]:
                    hidden += abs(term)
                else:
                    shown += abs(term)
        rest = abs(float(score.detach()) - total)
        shares.append((shown / (shown + hidden), rest / (shown + hidden + rest)))
    return torch.tensor(shares, dtype=torch.float64).T


@pytest.mark.parametrize(("prefix", "pool"), [(1, "token"), (5, "token"), (2, "mean"), (0, "mean")])
@pytest.mark.parametrize("block", [0, 1])
def test_shares_equal_those_by_hand(prefix, pool, block):
    net, x = ViT(prefix=prefix, pool=pool), photos()
    expected = by_hand(net, x, block, 2)
    shown, bias, seen = measured(net, x, f"blocks.{block}", 2)
    torch.testing.assert_close(torch.stack([shown, bias]), expected, rtol=1e-10, atol=1e-14)
    places, tokens = seen.terms
    assert tokens.shape == (3, 8, prefix)
    assert torch.equal(places, seen.gradient * seen.activation)
    if prefix:
        assert ((shown > 0) & (shown < 1)).all()
    else:
        assert (shown == 1).all()


def test_after_pooling_and_a_linear_head_all_is_on_the_map_but_the_bias():
    net, x = gap_linear(), images()
    weight, bias = net.head[-1].weight.detach()[1], net.head[-1].bias.detach()[1]
    size = (weight[:, None, None] * net.features(x).detach()).abs().sum((1, 2, 3)) / 20
    shown, share, _ = measured(net, x, "features")
    assert (shown == 1).all()
    torch.testing.assert_close(share, bias.abs() / (size + bias.abs()), rtol=1e-10, atol=0)
    with torch.no_grad():
        net.head[-1].bias.zero_()
    assert measured(net, x, "features")[1].abs().max() < 1e-14


def test_without_any_evidence_there_is_no_share():
    net, x = gap_linear(), images()
    nn.init.zeros_(net.head[-1].weight)
    shown, bias, _ = measured(net, x, "features")
    assert shown.isnan().all()
    assert (bias == 1).all()
    nn.init.zeros_(net.head[-1].bias)
    assert measured(net, x, "features")[1].isnan().all()


def test_a_sample_without_the_target_has_no_share():
    classes = torch.tensor([[1, 2], [0, -1], [3, 1]])
    with open_session(ViT(), ["blocks.0"]) as session:
        forward = session.forward(photos(), find(classes))
        second = Seen(forward, "blocks.0", 1)
        for metric in (metrics.on_map, metrics.bias_share):
            assert metric(second.activation[:, 0], second).isnan().tolist() == [False, True, False]


def test_behind_the_last_mixing_nothing_is_on_the_map_and_the_metric_says_so():
    net, x = ViT(), photos()
    shown, _, seen = measured(net, x, "blocks.2")
    assert (shown == 0).all()
    with pytest.raises(ValueError, match="exactly zero on the whole map"):
        _ = seen.gradient


def test_before_a_norm_the_channels_of_a_token_cancel_and_the_share_does_not():
    """Why terms are summed channel by channel: patches reach the score through a norm alone, which no scaling of them moves."""
    shown, _, seen = measured(ViT(), photos(), "blocks.1")
    places, tokens = seen.terms
    assert places.sum(1).abs().max() < 1e-3 * places.abs().sum(1).min()
    by_token = places.sum(1).abs().flatten(1).sum(1) / (places.sum(1).abs().flatten(1).sum(1) + tokens.sum(1).abs().sum(1))
    assert (by_token < 0.01).all()
    assert (shown > 0.1).all()


def test_the_floor_is_the_places_share_of_the_tokens():
    facts = METRICS.find("on_map").facts
    cost = "1 backward, shared with the methods that read a gradient"
    assert facts == {"range": (0.0, 1.0), "floor": token_share, "cost": cost}
    assert METRICS.find("bias_share").facts == {"range": (0.0, 1.0), "cost": cost}
    _, _, seen = measured(ViT(prefix=2), photos(), "blocks.0")
    assert token_share(seen).tolist() == [6 / 8] * 3
    _, _, seen = measured(gap_linear(), images(), "features")
    assert token_share(seen).tolist() == [1.0] * 3


def test_tokens_without_a_place_are_read_in_every_order():
    tokens = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    expected = tokens[:, :1].movedim(1, 2)
    assert torch.equal(Layout(0, 2, (2, 2), 1).to_extra(tokens), expected)
    assert torch.equal(Layout(1, 2, (2, 2), 1).to_extra(tokens.transpose(0, 1)), expected)
    behind = torch.cat([expected, tokens[:, 4:].movedim(1, 2)], 2)
    assert torch.equal(Layout(0, 2, (1, 3), 1, 1).to_extra(tokens), behind)
    assert torch.equal(Layout(1, 2, (1, 3), 1, 1).to_extra(tokens.transpose(0, 1)), behind)
    assert torch.equal(Layout(0, 2, (2, 2), 0, 1).to_extra(tokens), tokens[:, 4:].movedim(1, 2))
    assert Layout(0, 2, (1, 5), 0).to_extra(tokens).shape == (2, 3, 0)
    assert Layout(0, 1, (5, 3)).to_extra(torch.zeros(2, 4, 5, 3)).shape == (2, 4, 0)


# where it is told


def captioned(net, x, **options):
    return explain(net, x, **options)._captions(["a", "b", "c"])


def test_a_caption_tells_the_share_where_tokens_precede_the_map_and_a_gradient_was_taken():
    net, x = ViT(), photos()
    shown = measured(net, x, "blocks.0", 2)[0]
    found = explain(net, x, layer="blocks.0", target=2)
    torch.testing.assert_close(found.on_map, shown)
    positive = (found.heat.flatten(1).amax(1) > 0).tolist()
    assert positive == [True, False, True]
    told = [c.under.partition(", on map ")[2] for c in captioned(net, x, layer="blocks.0", target=2)]
    assert told == [f"{100 * share:.0f}%" * told_of for share, told_of in zip(shown.tolist(), positive, strict=True)]
    several = explain(net, x, layer="blocks.0", target={"top_k": {"k": 2}})
    assert several.on_map.shape == (3, 2)
    for method in ("activation_mean", "attention_rollout", "recipro_cam"):
        assert explain(net, x, layer="blocks.0", method=method, target=2).on_map is None
    assert explain(net, x, layer=["blocks.0", "blocks.1"], fuse="mean", target=2).on_map is None
    assert explain(ViT(prefix=0, pool="mean"), x, layer="blocks.0").on_map is None
    assert explain(gap_linear(), images(), layer="features").on_map is None
    assert not any("on map" in c.under for c in captioned(net, x, layer="blocks.0", method="activation_mean"))


def test_no_share_is_told_beside_a_map_without_evidence(tmp_path):
    net, x = ViT(), photos()
    found = explain(net, x, layer="blocks.0", target=2)
    against = replace(found, heat=-1 - found.heat.abs())
    assert not any("on map" in c.under for c in against._captions(["a", "b", "c"]))
    signed = against._captions(["a", "b", "c"], "symmetric")
    assert all(f", on map {100 * share:.0f}%" in c.under for c, share in zip(signed, found.on_map.tolist(), strict=True))
    empty = replace(found, heat=0 * found.heat)
    assert not any("on map" in c.under for c in empty._captions(["a", "b", "c"], "symmetric"))
    watching = watched(net, x.sigmoid(), tmp_path, "grad_cam")
    (record,) = watching.look(0)
    record = replace(record, strength=-record.strength.abs(), against=1 + record.against.abs())
    assert [c.under.partition(" · ")[0] for c in captions(watching.batch, record)] == ["no evidence"] * 3
    assert not any("on map" in c.under for c in captions(watching.batch, record))
    assert all(" · on map " in c.under for c in captions(watching.batch, record, "symmetric"))


def test_the_share_is_that_of_both_signs_whatever_the_map_shows():
    net, x = ViT(), photos()
    share, _, seen = measured(net, x, "blocks.0", 2)
    heat = seen.gradient.abs().sum(1)
    assert torch.equal(metrics.on_map(-heat, seen), share) and torch.equal(metrics.on_map(heat, seen), share)


def test_no_backward_is_run_for_it(monkeypatch):
    backwards = []
    grad = torch.autograd.grad

    def counted(*args, **options):
        backwards.append(1)
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    net, x = ViT(), photos()
    explain(net, x, layer="blocks.0", method="activation_mean", target=2)
    assert not backwards
    with open_session(net, ["blocks.0", "blocks.1"]) as session:
        forward = session.forward(x, find(2))
        assert known_shares(forward, "blocks.0") is None
        _ = Seen(forward, "blocks.1").gradient
        assert len(backwards) == 1
        assert known_shares(forward, "blocks.0").shape == (3, 1)
        assert len(backwards) == 1


def watched(net, x, folder, method, **options):
    return watcher(net.float(), folder, x.float(), "blocks.0", method=method, target=2, **options)


@pytest.mark.parametrize("methods", [["grad_cam", "attention_rollout"], ["attention_rollout", "grad_cam"]])
def test_every_record_of_a_look_that_takes_a_gradient_has_the_share(tmp_path, methods):
    net, x = ViT(), photos().sigmoid()
    shown = measured(net, x, "blocks.0", 2)[0]
    watching = watched(net, x, tmp_path, methods)
    for record in watching.look(0):
        torch.testing.assert_close(record.on_map[:, 0].double(), shown, rtol=1e-4, atol=0)
        told = [caption.under for caption in captions(watching.batch, record)]
        assert all(f" · on map {100 * share:.0f}% · " in under for share, under in zip(shown.tolist(), told, strict=True))


def test_a_look_without_a_gradient_has_it_only_as_a_metric(tmp_path):
    net, x = ViT(), photos().sigmoid()
    assert watched(net, x, tmp_path, "activation_mean").look(0)[0].on_map is None
    (record,) = watched(net, x, tmp_path, "activation_mean", metrics=["on_map", "bias_share"]).look(0)
    assert torch.equal(record.on_map, record.values["on_map"])
    assert record.values["bias_share"].isfinite().all()


def test_maps_fused_or_of_the_image_or_without_such_tokens_have_none(tmp_path):
    net, x = ViT().float(), photos().sigmoid().float()
    fused = watcher(net, tmp_path, x, ["blocks.0", "blocks.1"], fuse="mean", target=2)
    assert fused.look(0)[0].on_map is None
    shown = watcher(net, tmp_path, x, "blocks.0", method=["grad_cam", {"rise": {"n": 4}}, "occlusion"], target=2).look(0)
    assert [record.on_map is None for record in shown] == [False, True, True]
    assert watcher(plain_net(), tmp_path).look(0)[0].on_map is None


class Gathered(nn.Module):
    """Reads nearly nothing but the class token; ``more`` says how much of the patches it reads besides."""

    def __init__(self, more=0.01):
        super().__init__()
        self.net, self.more = ViT(depth=1), more

    def forward(self, x):
        tokens = self.net.blocks(self.net.embed(x))
        return self.net.head(tokens[:, 0] + self.more * tokens[:, 1:].mean(1))


def gathered(tmp_path, **options):
    return watcher(
        Gathered(options.pop("more", 0.01)).float(), tmp_path, photos().sigmoid().float(), "net.blocks", target=2, **options
    )


def test_little_evidence_on_the_map_is_one_warning_a_run(tmp_path):
    watching = gathered(tmp_path, method=["grad_cam", "hires_cam"])
    with pytest.warns(UserWarning) as given:
        (record, _) = watching.look(0)
    share = float(record.on_map.mean())
    assert share < 0.3
    (warning,) = (str(each.message) for each in given)
    assert warning.startswith(
        f"Watcher: at the layer 'net.blocks' only {share:.0%} of the evidence (sum |gradient * activation|)"
    )
    assert "class and register tokens" in warning and "2505.05892" in warning and "At an earlier layer" in warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watching.model.more = 0.02  # as training moves the share from look to look
        (later, _) = watching.look(1)
        assert share < float(later.on_map.mean()) < 0.3
        gathered(tmp_path, more=3.0).look(0)  # enough of it
        gathered(tmp_path, method="activation_mean").look(0)  # nobody took the gradient


def test_the_advice_of_the_warning_holds(tmp_path):
    """At an earlier layer more is at the patches, and attention_relevance runs where the warning names it."""
    net, x = timm_vit(32, depth=4).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    early, late = (measured(net, x, f"blocks.{i}")[0].mean() for i in (0, 2))
    assert early > late
    assert explain(net, x, layer="blocks.0", method="attention_relevance", target=1).heat.any()


@pytest.mark.parametrize(("net", "layer"), [(torchvision_vit(), "encoder.layers.encoder_layer_0"), (timm_vit(), "blocks.0")])
def test_transformers_of_libraries_have_it_too(net, layer):
    shown = explain(net.eval(), torch.randn(2, 3, 32, 32), layer=layer, target=1).on_map
    assert ((shown > 0) & (shown < 1)).all()
