"""The share of the drift that each part accounts for: who was trained has it, all sum to the drift, exact where it is known."""

import pytest
import torch
from parts import adapted, distance, jolt, looking, maps_of, shared
from reference_shapley import by_orders
from test_baseline import state
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import gap_linear, images

from lightning_cam.change.baseline import BaselineWeights
from lightning_cam.change.groups import Parts
from lightning_cam.change.parts import drift_by_parts

CAM = dict(layers=["features"], methods=["cam"])
TAG = "features/cam"


class Deep(nn.Module):
    """Five stages, of which each can be trained by itself, with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stages = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(c, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU()) for c in (3, 6, 6, 6))
        )
        self.head = nn.Linear(6, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


def pointwise() -> nn.Module:
    """A net of convolutions that the stand-ins of peft's layers can adapt."""
    net = gap_linear()
    net.features[0], net.features[2] = nn.Conv2d(3, 5, 1).double(), nn.Conv2d(5, 6, 1).double()
    return net


STAGES = {f"stage {i}": f"stages.{i}" for i in range(4)} | {"head": "head"}
LOOK = dict(layers=["stages.3", "stages.2"], methods=["grad_cam", "hires_cam"])


def added(shares):
    return sum(shares.values())


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_shares_sum_to_the_drift_for_every_layer_and_method(dtype, slack):
    net = Deep().to(dtype)
    x = images().to(dtype)
    shares, drift, looks = shared(net, x, STAGES, lambda: jolt(net), target=[0, 2], **LOOK)
    assert looks == 2**5 - 2
    assert set(shares) == {f"{layer}/{method}" for layer in LOOK["layers"] for method in LOOK["methods"]}
    for tag, parts in shares.items():
        assert list(parts) == list(STAGES) and parts["head"].shape == (3, 2)
        assert all(share.dtype == dtype for share in parts.values())
        torch.testing.assert_close(added(parts), drift[tag], rtol=0, atol=slack)
        assert all((share.abs() > 1e-5).any() for share in parts.values())


def test_the_shares_are_those_of_nets_that_are_mixed_by_hand():
    net, x, names = Deep().double(), images(), list(STAGES)
    then, before = {name: tensor.clone() for name, tensor in net.state_dict().items()}, maps_of(net, x, **LOOK)
    shares, drift, _ = shared(net, x, STAGES, lambda: jolt(net), **LOOK)
    now = net.state_dict()
    values = {tag: {0: torch.zeros(3, 1, dtype=torch.float64)} for tag in shares}
    for today in range(1, 32):
        mixed = Deep().double()
        fresh = [STAGES[name] for i, name in enumerate(names) if today >> i & 1]
        of_today = lambda name: any(name.startswith(f"{stage}.") for stage in fresh)  # noqa: B023, E731
        mixed.load_state_dict({name: now[name] if of_today(name) else then[name] for name in now})
        for tag, heat in maps_of(mixed, x, **LOOK).items():
            values[tag][today] = distance(heat, before[tag])
    for tag in shares:
        torch.testing.assert_close(values[tag][31], drift[tag], rtol=0, atol=0)
        for name, slow in zip(names, by_orders(values[tag], 5), strict=True):
            torch.testing.assert_close(shares[tag][name], slow, rtol=0, atol=1e-12)


def test_a_linear_probe_gives_the_head_everything_and_the_trunk_exactly_nothing():
    net = gap_linear()
    groups = {"stem": "features.0", "features": "features", "head": "head"}
    shares, drift, looks = shared(net, images(), groups, lambda: jolt(net.head), **CAM)
    assert looks == 0  # nothing is looked at again for it
    zero = torch.zeros(3, 1, dtype=torch.float64)
    assert torch.equal(shares[TAG]["stem"], zero) and torch.equal(shares[TAG]["features"], zero)
    torch.testing.assert_close(shares[TAG]["head"], drift[TAG], rtol=1e-15, atol=0)
    assert (drift[TAG] > 1e-3).all()


@pytest.mark.parametrize("trained", range(5))
def test_training_of_one_part_gives_it_everything(trained):
    net = Deep().double()
    part = list(STAGES)[trained]
    shares, drift, looks = shared(net, images(), STAGES, lambda: jolt(net.get_submodule(STAGES[part])), **LOOK)
    assert looks == 0
    for tag, values in shares.items():
        torch.testing.assert_close(values[part], drift[tag], rtol=1e-14, atol=0)
        assert not any(share.any() for name, share in values.items() if name != part)


def test_parts_in_which_nothing_changed_cost_nothing():
    net = Deep().double()
    train = lambda: (jolt(net.stages[1]), jolt(net.head))  # noqa: E731
    shares, drift, looks = shared(net, images(), STAGES, train, **LOOK)
    assert looks == 2
    for tag, values in shares.items():
        torch.testing.assert_close(values["stage 1"] + values["head"], drift[tag], rtol=0, atol=1e-15)
        assert not any(values[f"stage {i}"].any() for i in (0, 2, 3))


def test_where_nothing_changed_all_shares_are_nothing():
    net = Deep()
    shares, drift, looks = shared(net, images().float(), STAGES, lambda: None, **LOOK)
    assert looks == 0 and not any(share.any() for parts in shares.values() for share in parts.values())
    assert not any(values.any() for values in drift.values())


@pytest.mark.parametrize("block", ["features.0", "features.2", "head.3"])
def test_lora_on_a_block_gives_that_part_everything(block):
    net = adapted(pointwise(), block)
    groups = {"first": "features.0", "second": "features.2", "head": "head"}
    (part,) = (name for name, pattern in groups.items() if block.startswith(pattern))

    def train():
        layer = net.get_submodule(block)
        jolt(layer.lora_A)
        jolt(layer.lora_B, 2)

    shares, drift, looks = shared(net, images(), groups, train, layers=["features"])
    values = shares["features/grad_cam"]
    assert looks == 0 and (drift["features/grad_cam"] > 1e-4).all()
    torch.testing.assert_close(values[part], drift["features/grad_cam"], rtol=1e-14, atol=0)
    assert not any(share.any() for name, share in values.items() if name != part)


def test_the_adapters_off_are_the_net_with_b_of_zero():
    net, x = adapted(pointwise(), "features.2"), images()
    baseline = BaselineWeights.of(net, Parts({"adapters": "*lora_*", "head": "head"}))
    jolt(net)
    with looking(net, x, ["features"]) as (_, maps):
        with baseline.changes(net).put_back(["adapters"]):
            off = maps()
        for up in net.features[2].lora_B.values():
            nn.init.zeros_(up.weight)
        torch.testing.assert_close(off, maps(), rtol=0, atol=0)


def test_on_a_pooled_linear_head_the_shares_are_those_of_crossed_activations_and_weights():
    net, x = gap_linear(), images()
    a0, w0 = net.features(x).detach(), net.head[3].weight.detach().clone()
    shares, drift, looks = shared(net, x, {"head": "head", "features": "features"}, lambda: jolt(net), target=2, **CAM)
    a1, w1 = net.features(x).detach(), net.head[3].weight.detach()
    assert looks == 2

    def cam(activation, weight):
        return torch.einsum("c,bchw->bhw", weight[2], activation)[:, None]

    then = cam(a0, w0)
    both, features, head = (distance(cam(*crossed), then) for crossed in ((a1, w1), (a1, w0), (a0, w1)))
    torch.testing.assert_close(drift[TAG], both, rtol=0, atol=1e-10)
    torch.testing.assert_close(shares[TAG]["features"], (features + both - head) / 2, rtol=0, atol=1e-10)
    torch.testing.assert_close(shares[TAG]["head"], (head + both - features) / 2, rtol=0, atol=1e-10)
    assert (shares[TAG]["features"] > 1e-4).all() and (shares[TAG]["head"].abs() > 1e-4).all()


def test_a_share_may_be_negative():
    net, x = gap_linear(), images()

    def train():
        with torch.no_grad():
            net.features[2].weight[0].mul_(8)
            net.features[2].bias[0].mul_(8)
            net.head[3].weight[:, 0].div_(7)  # the head makes up for most of it

    shares, drift, _ = shared(net, x, {"head": "head"}, train, **CAM)
    assert (shares[TAG]["head"] < 0).all() and (shares[TAG]["rest"] > drift[TAG]).all()


def test_no_evidence_and_another_class_are_no_share():
    net, x = gap_linear(), images()
    before = maps_of(net, x, **CAM)
    baseline = BaselineWeights.of(net, Parts({"head": "head"}))
    jolt(net)
    before[TAG][0] = torch.nan  # explained another class
    with looking(net, x, **CAM) as (now, maps):
        now[TAG][1] = 0
        mixed = lambda: {tag: heat.index_fill(0, torch.tensor([2]), 0) for tag, heat in maps().items()}  # noqa: E731
        changes = baseline.changes(net)
        whole = drift_by_parts(maps, now, before, changes)[TAG]
        none = drift_by_parts(mixed, now, before, changes)[TAG]
        jolted = drift_by_parts(maps, {"else": now[TAG]}, before, changes)
    for share in whole.values():
        assert share.isnan().flatten().tolist() == [True, True, False]
    assert all(share.isnan().all() for share in none.values())
    assert jolted == {}  # a tag without a baseline


def test_no_evidence_is_no_share_also_of_parts_in_which_nothing_changed():
    net, x = gap_linear(), images()
    before = maps_of(net, x, **CAM)
    before[TAG][0] = 0
    for train in (lambda: None, lambda: jolt(net.head), lambda: jolt(net)):
        changes = BaselineWeights.of(net, Parts({"stem": "features.0", "head": "head"}))
        train()
        with looking(net, x, **CAM) as (now, maps):
            for share in drift_by_parts(maps, now, before, changes.changes(net))[TAG].values():
                assert share.isnan().flatten().tolist() == [True, False, False]


def test_fine_maps_are_compared_as_a_runs_history_keeps_them():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    torch.manual_seed(0)
    x = torch.rand(2, 3, 40, 40)
    baseline = BaselineWeights.of(net, Parts({"head": "4"}))
    then = maps_of(net, x, ["1"])["1/grad_cam"]
    jolt(net)
    with looking(net, x, ["1"]) as (now, maps):
        fine = now["1/grad_cam"]
        small = lambda heat: F.adaptive_avg_pool2d(heat, 32)  # noqa: E731
        shares = [
            drift_by_parts(maps, {"1/grad_cam": today}, {"1/grad_cam": earlier}, baseline.changes(net))["1/grad_cam"]
            for today, earlier in ((fine, then), (small(fine), small(then)))
        ]
    assert fine.shape == (2, 1, 40, 40)
    torch.testing.assert_close(shares[0], shares[1], rtol=0, atol=0)
    torch.testing.assert_close(added(shares[0]), distance(small(fine), small(then)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stops", [1, 3, 6, None])
def test_nothing_of_the_net_is_changed_whether_all_looks_come_off_or_one_fails(stops):
    net, x = Deep().double().train(), images()
    before = maps_of(net, x, **LOOK)
    baseline = BaselineWeights.of(net, Parts({"stem": "stages.0", "late": "stages.3", "head": "head"}))
    jolt(net)
    net(x).sum().backward()
    state_before, draws = state(net), torch.get_rng_state()
    calls = []
    with looking(net, x, **LOOK) as (now, maps):

        def failing():
            calls.append(1)
            if len(calls) == stops:
                net.stages[1][0].weight.data.zero_()  # of what is in its place in all of these looks
                raise RuntimeError("out of memory")
            return maps()

        if stops is None:
            drift_by_parts(failing, now, before, baseline.changes(net))
        else:
            with pytest.raises(RuntimeError, match="out of memory"):
                drift_by_parts(failing, now, before, baseline.changes(net))
    assert len(calls) == (stops or 14)
    assert state(net) == state_before and torch.equal(torch.get_rng_state(), draws)


@pytest.mark.filterwarnings("ignore")
def test_the_real_peft():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, target_modules=["features.0", "features.2", "head.3"])
    net, x = peft.get_peft_model(gap_linear(), config).double().eval(), images()
    groups = {"adapter of the last": "features.2.lora_*", "adapters": "*lora_*", "base": "*"}
    last = net.get_base_model().features[2]
    train = lambda: jolt(last.lora_B, 2)  # noqa: E731
    shares, drift, looks = shared(net, x, groups, train, layers=["features"])
    values = shares["features/grad_cam"]
    assert looks == 0 and (drift["features/grad_cam"] > 1e-5).all()
    torch.testing.assert_close(values["adapter of the last"], drift["features/grad_cam"], rtol=1e-14, atol=0)
    assert not values["adapters"].any() and not values["base"].any()

    baseline = BaselineWeights.of(net, Parts(groups))
    for layer in (last, net.get_base_model().features[0]):
        jolt(layer.lora_B, 3)
    before = state(net)
    with looking(net, x, ["features"]) as (now, maps):
        moved = baseline.changes(net)
        parts = drift_by_parts(maps, now, maps_of(net, x, ["features"]), moved)["features/grad_cam"]
    assert moved.changed == ["adapter of the last", "adapters"]
    assert all(share.isfinite().all() for share in parts.values()) and state(net) == before
