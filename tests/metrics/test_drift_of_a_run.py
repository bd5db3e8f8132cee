"""Drift over the looks of a run: what is logged, of which class, from which look, and after a break."""

import pytest
import reference_comparison
import torch
from nets import STRICT, cam, fit
from plain import plain_net, watcher
from torch import nan

pytestmark = STRICT

NAMES = ["drift", "cosine", "spearman", "top_iou", "jensen_shannon", "centre_shift"]


def disturb(net, seed):
    """Another step of a training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def turn_head(net, order):
    """Give the classes each other's weights, and so each sample another class of the largest logit."""
    with torch.no_grad():
        net.head.weight.copy_(net.head.weight[order])
        net.head.bias.copy_(net.head.bias[order])


def test_at_each_look_it_is_that_of_this_looks_maps_and_the_earlier_ones(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, metrics=[*NAMES, *({name: {"to": "previous"}} for name in NAMES)])
    heats = []
    for look in range(3):
        (record,) = watching.look(look)
        heats.append(record.heat[:, 0].double())
        for name in NAMES:
            for label, then in ((name, 0), (f"{name}_previous", look - 1)):
                values = record.values[label][:, 0]
                if look == 0:
                    assert values.isnan().all()
                    continue
                pairs = zip(heats[look], heats[then], strict=True)
                expected = [getattr(reference_comparison, name)(*pair) if pair[0].any() else nan for pair in pairs]
                assert values.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True), label
        disturb(net, look)
    assert record.values["drift"].nanmean() > 0.01
    assert not torch.allclose(record.values["drift"], record.values["drift_previous"], atol=1e-3, equal_nan=True)


def test_without_a_change_of_the_weights_nothing_drifts(tmp_path):
    watching = watcher(plain_net(), tmp_path, metrics=[*NAMES, "wasserstein"])
    watching.look(0)
    (record,) = watching.look(1)
    for name in ("drift", "jensen_shannon", "centre_shift", "wasserstein"):
        assert record.values[name].nan_to_num(0).tolist() == [[0.0]] * 4
        assert record.values[name].isfinite().any()


def test_where_another_class_is_explained_than_before_nothing_is_compared(tmp_path):
    looks = [[0, 1, 2, 0], [0, 2, 2, 0], [1, 1, 2, 0]]

    def planned(logits, label):
        return torch.tensor(looks[look])

    drifts = [{"drift": {"to": to}} for to in ("baseline", "previous")]
    watching = watcher(plain_net(), tmp_path, target=planned, method="activation_mean", metrics=drifts)
    for look in range(3):
        (record,) = watching.look(look)
    assert record.values["drift_baseline"][:, 0].isnan().tolist() == [True, False, False, False]
    assert record.values["drift_previous"][:, 0].isnan().tolist() == [True, True, False, False]


def test_the_predicted_class_may_be_another_one_than_before(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, target="predicted", metrics=["drift"])
    first = watching.look(0)[0].predictions.classes
    turn_head(net, [1, 2, 0])
    (record,) = watching.look(1)
    assert (record.predictions.classes != first).all() and record.values["drift"].isnan().all()
    turn_head(net, [2, 0, 1])
    assert watching.look(2)[0].values["drift"].nan_to_num(0).tolist() == [[0.0]] * 4  # the same again, and back


def test_a_label_is_the_same_class_whatever_is_predicted(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, metrics=["drift"])
    watching.look(0)
    turn_head(net, [1, 2, 0])
    (record,) = watching.look(1)
    assert record.values["drift"].isfinite().any()


def test_after_a_break_the_classes_before_it_are_known(tmp_path):
    net = plain_net()
    first = watcher(net, tmp_path, target="predicted", metrics=["drift"])
    first.look(0)
    state = first.state_dict()
    same = watcher(net, tmp_path, target="predicted", metrics=["drift"])
    same.load_state_dict(state)
    assert same.look(1)[0].values["drift"].nan_to_num(0).tolist() == [[0.0]] * 4
    turn_head(net, [1, 2, 0])
    turned = watcher(net, tmp_path, target="predicted", metrics=["drift"])
    turned.load_state_dict(state)
    assert turned.look(1)[0].values["drift"].isnan().all()


def test_it_is_a_curve_that_can_be_monitored(tmp_path):
    callback = cam(metrics=["drift", "entropy", "strength", {"drift": {"to": "previous"}}], on_error="raise")
    run = fit(tmp_path, callback, max_epochs=2)
    for name in ("drift", "strength", "drift_previous"):
        assert torch.isfinite(run.callback_metrics[f"cam/{name}"])
    assert 0 < run.callback_metrics["cam/drift"] <= 2


@pytest.mark.usefixtures("unchecked")
def test_another_look_is_refused_at_the_first_look(tmp_path):
    with pytest.raises(ValueError, match=r"to='baseline', 'previous' or 'best'; got to='first'"):
        watcher(plain_net(), tmp_path, metrics=[{"drift": {"to": "first"}}]).look(0)
