"""Tokens behind the patches (YOLOS, registers at the end): maps are of the patches, wherever these stand in the row.

A transformer knows no order of its tokens, so moving the registers from before the patches to behind them changes no map. The
reference of the map is the formula on tokens sliced by hand.
"""

import pytest
import torch
from compare import close_and_alive as close
from families import made
from reference_targets import corners, followed, surest
from torch import nn
from torch.overrides import TorchFunctionMode
from vits import ViT, photos

from lightning_cam import explain
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.capture.summary.evidence import share_on_map
from lightning_cam.model.layout import Layout
from lightning_cam.model.trace import record_calls
from lightning_cam.targets import find

GRID, CELLS = (2, 3), 6
ATTENTIVE = ["attention_rollout", "attention_relevance", "le_grad", "grad_eclip"]
ADDED = ["grad_cam", "hires_cam", "activation_mean", "eigen_cam", "full_grad"]
REPLAYED = ["score_cam", "ablation_cam", "recipro_cam", "token_ablation"]


def joined(how, before, patches, behind):
    if how == "cat":
        return torch.cat((before, patches, behind), dim=1)
    if how == "hstack":
        return torch.hstack((before, patches, behind))
    if how == "concat":
        return torch.concat(tensors=(before, patches, behind), dim=-2)
    if how == "nested":
        return torch.cat([torch.cat([before, patches], 1), behind], 1)
    rows = torch.cat([part.transpose(0, 1) for part in (before, patches, behind)])
    return rows.transpose(0, 1)


class Behind(ViT):
    """The same tokens, of which all extra ones but the first are put behind the patches."""

    def __init__(self, how="cat", **options):
        super().__init__(**options)
        self.how = how

    def embed(self, x):
        extra = (self.prefix + self.place[:, :-CELLS]).expand(len(x), -1, -1)
        patches = self.patch(x).flatten(2).mT + self.place[:, -CELLS:]
        return joined(self.how, extra[:, :1], patches, extra[:, 1:])

    def read(self, tokens):
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if self.pool == "token" else tokens[:, 1 : 1 + CELLS].mean(1))


def pair(**options):
    return ViT(prefix=4, **options), Behind(prefix=4, **options)


@pytest.mark.parametrize(
    ("method", "pool"),
    [(method, "token") for method in (*ADDED, *ATTENTIVE, *REPLAYED)]
    + [(method, "mean") for method in ("grad_cam", "attention_rollout", "le_grad", "token_ablation")],
)
def test_registers_behind_the_patches_change_no_map(method, pool):
    before, behind = pair(pool=pool)
    x = photos()
    expected = explain(before, x, layer="blocks.0", method=method, target=1).heat
    close(explain(behind, x, layer="blocks.0", method=method, target=1).heat, expected, 1e-10)


@pytest.mark.parametrize("how", ["cat", "hstack", "concat", "nested", "sequence first"])
@pytest.mark.parametrize("b", [1, 3])
def test_the_map_is_the_formula_on_tokens_sliced_by_hand(how, b):
    net, x = Behind(how, prefix=4), photos(b)
    found = explain(net, x, target=1)
    assert found.layer == "blocks.2.norm1"
    stored = {}
    handle = net.blocks[2].norm1.register_forward_hook(lambda module, args, output: stored.update(map=output))
    score = net(x)[:, 1].sum()
    handle.remove()
    (g,) = torch.autograd.grad(score, stored["map"])
    heat = torch.zeros(b, *GRID, dtype=torch.float64)
    for i in range(b):
        weights = sum(g[i, 1 + place] for place in range(CELLS)) / CELLS
        for place in range(CELLS):
            heat[i, place // GRID[1], place % GRID[1]] = weights @ stored["map"][i, 1 + place].detach()
    close(found.heat, heat, 1e-10)


def test_evidence_at_tokens_behind_the_patches_is_not_on_the_map():
    shares = []
    for net in pair():
        with open_session(net, ["blocks.0"]) as session:
            seen = Seen(session.forward(photos(), find(1)), "blocks.0")
            shares.append(share_on_map(seen))
            assert seen.terms[1].shape[2] == 4
    assert shares[0].min() > 0
    assert shares[0].max() < 0.9
    close(shares[1], shares[0], 1e-10)


class Learnt(nn.Module):
    """Class token, patches, detection tokens, as parameters; patches cut by a convolution or a linear layer."""

    def __init__(self, count, cut="convolution"):
        super().__init__()
        self.cut = cut
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.linear = nn.Linear(192, 8)
        self.token, self.queries = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, count, 8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def embed(self, x):
        if self.cut == "convolution":
            return self.patch(x).flatten(2).mT
        return self.linear(nn.functional.unfold(x, 8, stride=8).mT)

    def forward(self, x):
        b = len(x)
        parts = [self.token.expand(b, -1, -1), self.embed(x), self.queries.expand(b, -1, -1)]
        return self.head(self.norm(torch.cat(parts, 1))[:, -1])


def layouts(net, x):
    with record_calls(net, x.shape) as calls:
        net(x)
    return {call.name: call.layout for call in calls}


@pytest.mark.parametrize("cut", ["convolution", "linear"])
@pytest.mark.parametrize("count", [3, 16, 40, 100])
@pytest.mark.parametrize("b", [1, 2])
def test_any_number_of_learnt_tokens_is_told_also_as_many_as_patches(count, cut, b):
    """At 32 x 32 there are 16 patches; with a 100 behind them there are 117 tokens, 9 more than of any smaller grid."""
    expected = Layout(0, 2, (4, 4), 1, count)
    assert layouts(Learnt(count, cut), torch.rand(b, 3, 32, 32))["norm"] == expected


def test_tokens_cut_by_no_convolution_and_copied_are_told_by_what_may_be_patches():
    class Copied(Learnt):
        def forward(self, x):
            return self.head(self.norm(torch.cat([self.embed(x), self.queries.repeat(len(x), 1, 1)], 1)).mean(1))

    assert layouts(Copied(3, "linear"), torch.rand(2, 3, 32, 32))["norm"] == Layout(0, 2, (4, 4), 0, 3)
    assert layouts(Copied(3, "convolution"), torch.rand(2, 3, 32, 32))["norm"] == Layout(0, 2, (4, 4), 0, 3)


def test_what_is_no_row_of_tokens_is_left_alone():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.out = nn.Conv2d(3, 8, 8, 8), nn.Identity()

        def forward(self, x):
            maps = self.patch(x)
            rows = maps.flatten(2).mT
            torch.cat([maps, maps], 1)  # of four sides
            torch.cat([rows[:1], rows[:1]], 0)  # of another batch
            torch.cat([rows, rows], 1)  # two that may be the patches
            torch.cat([rows, rows], 2)  # channels
            torch.cat([rows.new_zeros(0), rows[0, :, 0]])
            return self.out(rows)

    x = torch.rand(2, 3, 32, 32)
    with record_calls(Other(), x.shape) as calls:
        calls[:] = []
        Other()(x)
    assert calls.rows == {}
    assert layouts(Other(), x)["out"] == Layout(0, 2, (4, 4), 0)


def test_torchs_own_transformer_gives_the_same_bits_while_calls_are_recorded():
    """It has a faster way without gradient, of other rounding, which a function mode that stays on would bar."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    x = torch.rand(2, 9, 16)
    nets = [nn.Sequential(nn.TransformerEncoder(layer, 2)), nn.Sequential(layer), attention]
    for net in nets:
        given = (x, x, x) if net is attention else (x,)
        options = {"need_weights": False} if net is attention else {}
        with torch.no_grad():
            expected = net.eval()(*given, **options)
            with record_calls(net, (2, 3, 12, 12)):
                output = net(*given, **options)
        assert torch.equal(output[0], expected[0])
        assert torch.overrides._len_torch_function_stack() == 0


def test_a_mode_of_the_models_own_stays_where_it_is():
    class Counting(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            with Counting() as mode:
                x = x.flatten(2).mT
                x = self.attend(x, x, x)[0]
                count = mode.count
                torch.cat([x, x])
                assert mode.count == count + 1
            return x

    x = torch.rand(1, 8, 4, 4)
    net = Own().eval()
    with record_calls(net, x.shape), torch.no_grad():
        net(x)
    assert torch.overrides._len_torch_function_stack() == 0
    with pytest.raises(IndexError), record_calls(net, x.shape):
        net(x[0, 0])
    assert torch.overrides._len_torch_function_stack() == 0


def test_a_zero_gradient_at_tokens_around_the_patches_says_what_to_name():
    net, x = Behind(prefix=4), photos()
    message = r"the score reads only tokens beside the patches, .* Name the layer before the last attention, 'blocks\.2\.norm1'"
    with pytest.raises(ValueError, match=message):
        explain(net, x, layer="blocks.2", target=1)
    assert explain(net, x, layer="blocks.2.norm1", target=1).heat.any()


SIZES = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, patch_size=8, num_labels=3)


def yolos(kind, size, count):
    transformers = pytest.importorskip("transformers")
    config = transformers.YolosConfig(**SIZES, image_size=size, num_detection_tokens=count)

    def make():
        net = getattr(transformers, kind)(config)
        for name, p in net.named_parameters():
            if "token" in name or "position" in name:
                nn.init.normal_(p, std=0.5)
            elif p.ndim > 1:
                nn.init.normal_(p, std=0.3)
        return net

    return made(make).double()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("size", "count"), [((32, 32), 5), ((64, 64), 12), ((64, 64), 100), ((32, 48), 9)])
def test_yolos_is_explained_at_its_patches(size, count):
    """With 100 detection tokens behind 64 patches the row is 165 long, of which 12 x 12 behind 21 others could be read."""
    net, x = yolos("YolosForObjectDetection", size, count), torch.rand(2, 3, *size, dtype=torch.float64)
    found = explain(net, x, target="detection")
    assert found.layer == "vit.encoder.layer.2.layernorm_before"
    u, v = size[0] // 8, size[1] // 8
    heat = torch.zeros(2, u, v, dtype=torch.float64)
    for i, image in enumerate(x):
        stored = {}
        handle = net.get_submodule(found.layer).register_forward_hook(lambda *call, kept=stored: kept.update(map=call[2]))
        output = net(image[None])
        handle.remove()
        logits, boxes = output.logits[0], output.pred_boxes[0]
        query, c = surest(logits, "softmax")
        query = followed(logits, boxes, corners(boxes[query]), c, "softmax")
        (g,) = torch.autograd.grad(logits[query, c], stored["map"])
        patches, slopes = stored["map"].detach()[0, 1 : 1 + u * v], g[0, 1 : 1 + u * v]
        for place in range(u * v):
            heat[i, place // v, place % v] = slopes.mean(0) @ patches[place]
    close(found.heat, heat, 1e-10)


class Probe(nn.Module):
    """A trunk of Hugging Face's whose class token is read by one linear layer."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.trunk(x).last_hidden_state[:, 0])


@pytest.mark.filterwarnings("ignore")
def test_a_trunk_of_yolos_with_a_classifier_is_explained_by_attention_too():
    net, x = Probe(yolos("YolosModel", (32, 32), 7)).double().eval(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    found = explain(net, x, method="attention_rollout")
    net.trunk.set_attn_implementation("eager")
    through = torch.eye(24, dtype=torch.float64)
    for attention in net.trunk(x, output_attentions=True).attentions:
        a = (attention.detach().mean(1) + torch.eye(24)) / 2
        through = (a / a.sum(2, keepdim=True)) @ through
    close(found.heat, through[:, 0, 1:17].unflatten(1, (4, 4)), 1e-10)
