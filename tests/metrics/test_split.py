"""What moved a map: exact where the head is linear, against maps mixed by hand; not measured anywhere else."""

from itertools import permutations

import pytest
import torch
from nets import STRICT
from parts import jolt, shared
from plain import plain_net, watcher
from reference_shapley import by_orders
from torch import Tensor, nn
from vits import ViT, photos
from zoo import conv_head, flatten_linear, gap_linear, gap_mlp, max_pool
from zoo import images as normal

from lightning_cam import Batch, metrics
from lightning_cam.record import Moment

pytestmark = STRICT

LABELS = torch.tensor([2, 0, 1])
NAMES = ["drift", "feature_drift", "head_drift"]
METHODS = ["grad_cam", "cam", "hires_cam", "layer_cam", "x_grad_cam", "eigen_cam", "activation_mean", "grad_cam_pp"]
NAN = float("nan")


def images(b: int = 3) -> Tensor:
    return normal(b).sigmoid()


def moment(step: int) -> Moment:
    return Moment(step, f"step {step}", str(step), step == 0, epoch=float(step))


def looking(net, folder, method="grad_cam", layer="features", data=None, **options):
    data = (images(), LABELS) if data is None else data
    return watcher(net, folder, data, layer, **{"method": method, "metrics": NAMES, "target": "label"} | options)


def values(watching, step, **options):
    (record,) = watching.compute(Moment(**{**vars(moment(step)), **options})).records
    return record.values


def by_hand(a, w, method, c):
    """One sample's map of an activation [c u v] and the weights of all classes, channel by channel."""
    places = a[0].numel()
    g = [float(w[c, k]) / places for k in range(len(a))]
    if method == "activation_mean":
        return sum(channel.clamp(min=0) for channel in a) / len(a)
    if method == "eigen_cam":
        flat = a.flatten(1).T
        projected = flat @ torch.linalg.svd(flat).Vh[0]
        sign = 1.0 if float((projected * flat.mean(1)).sum()) > 0 else -1.0
        return sign * projected.reshape(a.shape[1:])
    if method == "layer_cam":
        g = [max(value, 0.0) for value in g]
    if method == "grad_cam_pp":
        total = [float(channel.sum()) for channel in a]
        g = [places * max(v, 0.0) / (2 + v * s) if v else 0.0 for v, s in zip(g, total, strict=True)]
    return sum(v * channel for v, channel in zip(g, a, strict=True))


def distance(one, other):
    return 1 - float((one * other).sum() / (one.norm() * other.norm()))


def state(net):
    return net.features(images()).detach(), net.head[-1].weight.detach().clone()


def split_by_hand(then, now, method, classes=LABELS):
    """Features first and head second, and the other way round: the mean of what each adds."""
    parts = []
    for i, c in enumerate(classes.tolist()):
        baseline = by_hand(then[0][i], then[1], method, c)
        v = {(): 0.0}
        for who in (("features",), ("head",), ("features", "head")):
            a, w = (now if "features" in who else then)[0][i], (now if "head" in who else then)[1]
            v[who] = distance(by_hand(a, w, method, c), baseline)
        both = v["features", "head"]
        orders = {order: (v[order[:1]], both - v[order[:1]]) for order in permutations(("features", "head"))}
        mean = {who: sum(added[order.index(who)] for order, added in orders.items()) / 2 for who in ("features", "head")}
        slow = by_orders({0: 0.0, 1: v["features",], 2: v["head",], 3: both}, 2)
        assert [mean["features"], mean["head"]] == pytest.approx(slow, abs=1e-15)
        parts.append((mean["features"], mean["head"], both))
    return torch.tensor(parts, dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_shapley_split_of_maps_mixed_by_hand(tmp_path, method):
    net = gap_linear()
    watching, then = looking(net, tmp_path, method), state(net)
    watching.compute(moment(0))
    for step in (1, 2):
        jolt(net, step)
        measured, slow = values(watching, step), split_by_hand(then, state(net), method)
        torch.testing.assert_close(measured["feature_drift"][:, 0], slow[:, 0], rtol=0, atol=1e-10)
        torch.testing.assert_close(measured["head_drift"][:, 0], slow[:, 1], rtol=0, atol=1e-10)
        both = measured["feature_drift"] + measured["head_drift"]
        torch.testing.assert_close(both[:, 0], slow[:, 2], rtol=0, atol=1e-10)
        torch.testing.assert_close(both, measured["drift"], rtol=0, atol=1e-6)  # whose maps are kept in single precision
        assert (measured["feature_drift"] > 1e-4).all()


@pytest.mark.parametrize("method", METHODS)
def test_while_the_backbone_is_frozen_the_features_have_exactly_nothing(tmp_path, method):
    net = gap_linear()
    watching = looking(net, tmp_path, method)
    watching.compute(moment(0))
    for step in (1, 2):
        jolt(net.head, step)
        measured = values(watching, step)
        assert torch.equal(measured["feature_drift"], torch.zeros(3, 1, dtype=torch.float64))
        torch.testing.assert_close(measured["head_drift"], measured["drift"], rtol=1e-5, atol=1e-7)
        assert (measured["head_drift"] > 1e-3).any() == (method not in ("eigen_cam", "activation_mean"))


@pytest.mark.parametrize("method", METHODS)
def test_while_the_head_is_frozen_it_has_exactly_nothing(tmp_path, method):
    net = gap_linear()
    watching = looking(net, tmp_path, method)
    watching.compute(moment(0))
    jolt(net.features)
    measured = values(watching, 1)
    if method == "grad_cam_pp":  # reads the features to weigh the gradient, yet only the features have changed
        assert measured["head_drift"].abs().max() < 1e-15
    else:
        assert torch.equal(measured["head_drift"], torch.zeros(3, 1, dtype=torch.float64))
    torch.testing.assert_close(measured["feature_drift"], measured["drift"], rtol=1e-5, atol=1e-7)
    assert (measured["feature_drift"] > 1e-4).all()


@pytest.mark.parametrize("method", ["eigen_cam", "activation_mean"])
def test_of_a_map_that_reads_no_weights_the_head_has_exactly_nothing(tmp_path, method):
    net = gap_linear()
    watching = looking(net, tmp_path, method)
    watching.compute(moment(0))
    jolt(net)
    measured = values(watching, 1)
    assert torch.equal(measured["head_drift"], torch.zeros(3, 1, dtype=torch.float64))
    assert (measured["feature_drift"] > 1e-4).all()


@pytest.mark.parametrize("method", METHODS[:6])
def test_it_is_what_parts_of_the_net_account_for(tmp_path, method):
    net, groups = gap_linear(), {"features": "features", "head": "head"}
    watching = looking(net, tmp_path, method, target=2)
    watching.compute(moment(0))
    shares, _, looks = shared(net, images(), groups, lambda: jolt(net), ["features"], methods=[method], target=2)
    assert looks == 2
    measured = values(watching, 1)
    for part in groups:
        name = "feature_drift" if part == "features" else "head_drift"
        torch.testing.assert_close(measured[name], shares[f"features/{method}"][part], rtol=0, atol=1e-10)


def test_each_of_several_targets_has_its_own(tmp_path):
    net = gap_linear()
    watching, then = looking(net, tmp_path, target=[0, 3]), state(net)
    watching.compute(moment(0))
    jolt(net)
    measured = values(watching, 1)
    for position, c in enumerate((0, 3)):
        slow = split_by_hand(then, state(net), "grad_cam", torch.full((3,), c))
        torch.testing.assert_close(measured["feature_drift"][:, position], slow[:, 0], rtol=0, atol=1e-10)
        torch.testing.assert_close(measured["head_drift"][:, position], slow[:, 1], rtol=0, atol=1e-10)


class Last(nn.Module):
    """What comes behind a mean over space, or in its place."""

    def __init__(self, read, norm=None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.read, self.norm = read, norm or nn.Identity()
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.head, self.features(x))


def mean(a):
    return a.flatten(2).mean(2)


def rectified():
    """Some places of some classes are below the ReLU behind the head."""
    net = conv_head()
    nn.init.constant_(net.head[1].bias, 0)
    return net


UNMEASURED = {
    "mlp": (gap_mlp, {}),
    "max pooling": (max_pool, {}),
    "flatten": (flatten_linear, {}),
    "convolution and relu": (rectified, {}),
    "deeper layer": (gap_linear, {"layer": "features.0"}),
    "relu behind the mean": (lambda: Last(lambda head, a: head(mean(a).relu())), {}),
    "tanh behind the mean": (lambda: Last(lambda head, a: head(mean(a).tanh())), {}),
    "normalised": (lambda: Last(lambda head, a: head(nn.functional.normalize(mean(a), dim=1))), {}),
    "log softmax": (lambda: Last(lambda head, a: head(mean(a)).log_softmax(1)), {}),
    "probability": (gap_linear, {"target": "softmax_probability"}),
    "log probability": (gap_linear, {"target": "log_probability"}),
    "smooth": (gap_linear, {"method": {"smooth": {"method": "grad_cam", "n": 2}}}),
    "flip average": (gap_linear, {"method": {"flip_average": {"method": "grad_cam"}}}),
    "score_cam": (gap_linear, {"method": "score_cam"}),
    "occlusion": (gap_linear, {"method": "occlusion"}),
    "shapley_cam": (gap_linear, {"method": "shapley_cam"}),
    "full_grad": (gap_linear, {"method": "full_grad"}),
    "libra": (gap_linear, {"method": {"libra": {"method": "grad_cam"}}}),
    "fused": (gap_linear, {"layer": ["features.1", "features"], "fuse": "mean"}),
    "class token": (ViT, {"layer": "norm", "method": "activation_mean", "data": (photos().sigmoid(), LABELS)}),
    "tokens beside the map": (lambda: ViT(pool="mean"), {"layer": "norm", "data": (photos().sigmoid(), LABELS)}),
}


@pytest.mark.parametrize("name", UNMEASURED)
def test_elsewhere_it_is_not_measured(tmp_path, name):
    make, options = UNMEASURED[name]
    net = make()
    watching = looking(net, tmp_path, **options)
    for step in range(3):
        measured = values(watching, step)
        assert list(measured) == ["drift"]
        jolt(net, step, 0.02)
    assert measured["drift"].isfinite().any()


MEASURED = {
    "plain": (lambda: Last(lambda head, a: head(mean(a))), {}),
    "sum over space": (lambda: Last(lambda head, a: head(a.flatten(2).sum(2))), {}),
    "temperature": (lambda: Last(lambda head, a: 3 * head(mean(a))), {}),
    "binary": (lambda: gap_linear(k=1), {"target": "binary", "data": (images(), LABELS.clamp(max=1))}),
    "value": (gap_linear, {"target": {"value": {"index": 1}}}),
    "contrast": (gap_linear, {"target": "contrast"}),
    "tokens": (lambda: ViT(prefix=0, pool="mean"), {"layer": "norm", "data": (photos().sigmoid(), LABELS)}),
}


@pytest.mark.parametrize("name", MEASURED)
def test_where_it_is_measured_a_frozen_side_has_exactly_nothing(tmp_path, name):
    make, options = MEASURED[name]
    for is_head, moved, other in ((True, "head_drift", "feature_drift"), (False, "feature_drift", "head_drift")):
        net = make()
        watching = looking(net, tmp_path, **options)
        watching.compute(moment(0))
        for part, child in net.named_children():
            if (part == "head") == is_head:
                jolt(child)
        measured = values(watching, 1)
        assert not measured[other].any() and (measured[moved] > 1e-7).any()


def test_a_method_that_needs_no_gradient_is_watched_where_there_is_none(tmp_path):
    class Detached(Last):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    net, given = Detached(lambda head, a: head(mean(a))), []
    net.register_forward_pre_hook(lambda module, args: given.append(len(args[0])))
    watching = looking(net, tmp_path, "activation_mean", metrics=NAMES)
    for step in range(2):
        given.clear()
        assert list(values(watching, step)) == ["drift"]
        jolt(net)
    assert given == [3]  # none to find out why


def test_where_the_class_was_another_there_is_nothing_to_compare(tmp_path):
    net, look = gap_linear(), 0

    def planned(logits, label):
        return torch.tensor([[0, 1, 2], [0, 3, 2]][look])

    watching = looking(net, tmp_path, target=planned)
    watching.compute(moment(0))
    jolt(net)
    look = 1
    for name, measured in values(watching, 1).items():
        assert measured[:, 0].isnan().tolist() == [False, True, False], name


def test_a_sample_without_the_target_has_none(tmp_path):
    net, classes = gap_linear(), torch.tensor([0, -1, 2])
    watching = looking(net, tmp_path, target=lambda logits, label: classes)
    watching.compute(moment(0))
    jolt(net)
    for name, measured in values(watching, 1).items():
        assert measured[:, 0].isnan().tolist() == [False, True, False], name


def test_at_the_first_look_there_is_nothing_to_compare_and_outside_a_run_it_is_not_measured(tmp_path):
    watching = looking(gap_linear(), tmp_path)
    measured = values(watching, 0, fitting=False)
    assert list(measured) == ["drift"] and not watching.history
    measured = values(watching, 0)
    assert list(measured) == NAMES and all(value.isnan().all() for value in measured.values())


def test_a_checkpoint_holds_what_the_baselines_maps_were_made_of(tmp_path):
    net = gap_linear()
    whole = looking(net, tmp_path, target=[0, 3])
    whole.compute(moment(0))
    (factors, second) = whole.history["features/grad_cam"].factors
    assert factors.activation is second.activation  # once for all targets
    torch.testing.assert_close(factors.activation, state(net)[0], rtol=0, atol=0)
    torch.save(whole.state_dict(), tmp_path / "state.ckpt")
    resumed = looking(net, tmp_path, target=[0, 3])
    resumed.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True))
    jolt(net)
    one, other = values(whole, 1), values(resumed, 1)
    for name in NAMES:
        assert one[name].isfinite().all() and torch.equal(one[name], other[name])


@pytest.mark.filterwarnings("ignore:.*samples differ")
def test_without_the_baselines_factors_it_is_not_measured(tmp_path):
    net = gap_linear()
    first = looking(net, tmp_path)
    first.compute(moment(0))
    older = first.state_dict()
    del older["features/grad_cam"]["factors"]
    resumed = looking(net, tmp_path)
    resumed.load_state_dict(older)
    jolt(net)
    assert list(values(resumed, 1)) == ["drift"]
    assert list(values(resumed, 2)) == ["drift"]


def test_of_too_large_activations_none_are_kept(tmp_path, monkeypatch):
    net = gap_linear()
    size = 8 * state(net)[0].numel()
    for bound, names in ((size, NAMES), (size - 1, ["drift"])):
        monkeypatch.setattr("lightning_cam.training.look.part._MOST_BYTES", bound)
        watching = looking(net, tmp_path)
        watching.compute(moment(0))
        assert len(watching.history["features/grad_cam"].factors) == (names is NAMES)
        jolt(net)
        assert list(values(watching, 1)) == names


def test_nothing_is_kept_where_nobody_asks(tmp_path):
    watching = looking(gap_linear(), tmp_path, metrics=["drift"])
    watching.compute(moment(0))
    assert watching.history["features/grad_cam"].factors == []


def test_a_batch_in_chunks_is_split_like_one_that_is_whole(tmp_path):
    data = (images(20), torch.arange(20) % 4)
    measured = []
    for options in ({}, {"batch": Batch(samples=data, pictures=16)}):
        net = gap_linear()
        watching = looking(net, tmp_path, data=data, **options)
        watching.compute(moment(0))
        jolt(net)
        measured.append(values(watching, 1))
    assert len(watching.pinned.chunks) == 2
    for name in NAMES:
        torch.testing.assert_close(measured[0][name], measured[1][name], rtol=0, atol=1e-12)


def test_they_are_curves_of_every_run_whose_head_allows_it(tmp_path):
    watching = watcher(plain_net(), tmp_path)
    watching.look(0)
    jolt(watching.model)
    (record,) = watching.look(1)
    assert {"feature_drift", "head_drift"} <= set(record.values)
    both = record.values["feature_drift"] + record.values["head_drift"]
    torch.testing.assert_close(both, record.values["drift"], rtol=0, atol=1e-6)
    assert metrics.feature_drift is not metrics.head_drift
