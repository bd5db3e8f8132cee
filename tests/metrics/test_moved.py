"""Since when maps stay, and what moved them: closed forms, and a reference by hand."""

import pytest
import torch
from parts import jolt
from plain import plain_net, watcher
from regions import looked
from zoo import gap_linear, images

from lightning_cam import Watcher, metrics
from lightning_cam.capture.seen import Seen
from lightning_cam.record import Earlier


def seen_with(earlier):
    return Seen(looked().forward, "layer", 0, earlier)


def unit(*angles):
    """A map of two cells at each angle: of two of them the cosine distance is that of the angles."""
    angle = torch.tensor(angles, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], -1)


@pytest.mark.parametrize(
    ("past", "epoch"),
    [
        ([0.0, 1.0, 1.2, 1.19], 2.0),  # moved until the third look
        ([1.2, 0.0, 1.2, 1.2], 2.0),  # went away and came back
        ([1.2, 1.2, 1.2, 1.2], 0.0),  # never moved
        ([1.2, 1.2, 1.2, 0.0], 4.0),  # moved at last
        ([1.2, float("nan"), 1.2, 1.2], 2.0),  # of a look nothing is known
    ],
)
def test_maps_have_settled_at_the_first_look_from_which_none_is_farther_than_noise(past, epoch):
    now = unit(1.201)
    noise = torch.full((1,), 1e-3, dtype=torch.float64)
    earlier = Earlier(
        now, looks=4, past=torch.stack([unit(angle) for angle in past]), epochs=(0.0, 1.0, 2.0, 3.0, 4.0), noise=noise
    )
    assert metrics.settled_at(now, seen_with(earlier)).tolist() == [epoch]


def test_without_a_floor_or_epochs_nothing_settles():
    now = unit(1.0)
    noise = torch.zeros(1, dtype=torch.float64)
    for earlier in (Earlier(now, epochs=(0.0,)), Earlier(now, noise=noise), Earlier(now, noise=noise, epochs=(None, 1.0))):
        assert metrics.settled_at(now, seen_with(earlier)) is None
    assert metrics.settled_at(now, seen_with(Earlier(now, noise=noise * torch.nan, epochs=(0.0,)))) is None


def test_a_net_that_is_not_trained_has_settled_from_the_start_and_its_floor_is_told(tmp_path):
    watching = watcher(plain_net(), tmp_path)
    values = [watching.look(step)[0].values for step in range(3)]
    assert all(value["settled_at"].eq(0).all() and value["drift_floor"].gt(0).all() for value in values)


def distance(a, b):
    a, b = a.flatten(1), b.flatten(1)
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


@pytest.mark.parametrize("method", ["grad_cam", "cam", "hires_cam"])
@pytest.mark.parametrize("moved", ["features", "head", "both"])
def test_drift_is_split_between_features_and_head(method, moved, tmp_path):
    net, x = gap_linear(), images()
    labels = torch.tensor([0, 1, 2])
    named = ["drift", "feature_drift", "head_drift"]
    watching = Watcher(net, (x, labels), "features", method, metrics=named, folder=tmp_path, on_error="raise")

    def factors():
        with torch.no_grad():
            return net.features(x), net.head[3].weight[labels].clone()

    watching.look(0)
    a0, w0 = factors()
    if moved != "head":
        jolt(net.features, 1)
    if moved != "features":
        jolt(net.head, 2)
    values = {name: value[:, 0] for name, value in watching.look(1)[0].values.items()}
    a1, w1 = factors()

    def v(a, w):
        return distance(torch.einsum("bc,bcuv->buv", w, a), torch.einsum("bc,bcuv->buv", w0, a0))

    features = (v(a1, w0) + v(a1, w1) - v(a0, w1)) / 2
    head = (v(a0, w1) + v(a1, w1) - v(a1, w0)) / 2
    torch.testing.assert_close(values["feature_drift"], features, atol=1e-10, rtol=0)
    torch.testing.assert_close(values["head_drift"], head, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        values["feature_drift"] + values["head_drift"], values["drift"], atol=1e-6, rtol=0
    )  # kept in single precision
    if moved == "features":
        assert values["head_drift"].eq(0).all() and values["drift"].gt(1e-3).all()
    if moved == "head":
        assert values["feature_drift"].eq(0).all() and values["drift"].gt(1e-3).all()
