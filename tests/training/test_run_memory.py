"""What a run keeps: above all the fingerprints of its samples, by which a resumed run is told of other ones."""

import io
from dataclasses import replace

import pytest
import torch
from nets import STRICT, Pictures, cam, fit
from plain import batch, plain_net, watcher
from torch import nn

from lightning_cam.data.batch import FixedBatch
from lightning_cam.data.fingerprints import fingerprints
from lightning_cam.record import Moment
from lightning_cam.training.history import History
from lightning_cam.training.memory import Memory
from lightning_cam.training.notices import Notices

pytestmark = STRICT


def follow(before, now):
    memory = Memory("label", 0)
    memory.load_state_dict({"samples": list(fingerprints(before))})
    memory.follow_samples(FixedBatch(now), Notices("warn"))
    assert memory.fingerprints == fingerprints(now)  # from here on these are the run's


@pytest.mark.parametrize(("changed", "said"), [([0], "1 of 4"), ([1, 3], "2 of 4"), ([0, 1, 2, 3], "4 of 4")])
def test_other_samples_are_a_warning_that_counts_them(changed, said):
    images = torch.rand(4, 3, 8, 8)
    other = images.clone()
    other[changed] += 1
    with pytest.warns(UserWarning, match=rf"CAMCallback: {said} samples differ from those that this run watched before.*Batch"):
        follow(images, other)


@pytest.mark.parametrize("n", [2, 4])
def test_the_same_samples_are_no_warning_also_where_more_or_fewer_are_asked_for(n):
    images = torch.rand(4, 3, 8, 8)
    follow(images[:n], images)
    follow(images, images[:n])


def test_a_state_holds_them_after_the_first_look_and_loads_without_them():
    memory, other = Memory("label", 0), Memory("label", 0)
    assert memory.state_dict() == {}
    memory.load_state_dict({})
    assert memory.fingerprints == ()
    memory.follow_samples(FixedBatch(torch.rand(2, 3)), Notices("warn"))
    state = memory.state_dict()
    assert list(state) == ["samples"] and [type(digest) for digest in state["samples"]] == [str, str]
    other.load_state_dict(state)
    assert other.fingerprints == memory.fingerprints


def test_a_watchers_state_grows_by_one_key_and_an_older_state_loads(tmp_path):
    net = plain_net()
    first = watcher(net, tmp_path)
    first.look(0)
    state = first.state_dict()
    assert state.pop("samples") == list(fingerprints(batch()[0]))
    assert set(state) == {"relu/grad_cam", "noise"}
    del state["noise"]
    second = watcher(net, tmp_path, data=Pictures(), batch=[5, 6, 7, 8])
    second.load_state_dict(state)
    second.look(1)
    assert second.history["relu/grad_cam"].titles == ["0", "1"]


def test_a_watcher_that_goes_on_with_another_batch_is_told(tmp_path):
    net, (images, labels) = plain_net(), batch()
    first, second = watcher(net, tmp_path), watcher(net, tmp_path, data=(images.flip(0), labels.flip(0)))
    first.look(0)
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="Watcher: 4 of 4 samples differ") as told:
        second.look(1)
        second.look(2)
    assert len(told) == 1


def test_a_test_of_other_samples_is_no_matter_of_the_run(tmp_path):
    from nets import Net, loader, trainer

    callback, net = cam(), Net()
    run = trainer(tmp_path, [callback])
    run.fit(net, loader(24, size=4), loader())
    marks = callback.watcher.memory.fingerprints
    run.test(net, loader(shuffle=False, classes=2), verbose=False)
    assert marks == callback.watcher.memory.fingerprints == fingerprints(Pictures().images[:4])


def test_a_second_run_begins_with_samples_of_its_own(tmp_path):
    callback = cam()
    fit(tmp_path, callback)
    fit(tmp_path, callback, val=torch.utils.data.DataLoader(Pictures(8, classes=2), 3))
    assert callback.watcher.memory.fingerprints == fingerprints(Pictures(8, classes=2).images[:4])


class Wide(nn.Module):
    """Its last layer is that of a ResNet-50: 2048 channels at 7 x 7 places."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 2048, 3, 2, 1), nn.Linear(2048, 5)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))

    def features(self, x):
        return self.layer(x).relu_()


def size_of(watching):
    file = io.BytesIO()
    torch.save(watching.state_dict(), file)
    return file.tell() / 2**20


@pytest.mark.parametrize(("target", "most"), [("label", 8), ({"top_k": {"k": 5}}, 9)])
def test_what_a_checkpoint_holds_at_defaults_stays_small(target, most, tmp_path):
    """Activations of the baseline are 6.1 MiB, whatever number of targets there is; weights a number a channel."""
    torch.manual_seed(0)
    net = Wide()
    watching = watcher(net, tmp_path, (torch.rand(16, 3, 14, 14), torch.arange(16) % 5), "layer", target=target)
    sizes = []
    for step in range(3):
        watching.look(step)
        sizes.append(size_of(watching))
        with torch.no_grad():
            net.layer.weight += 0.01 * torch.randn_like(net.layer.weight)
    assert watching.history["layer/grad_cam"].factors
    assert sizes[-1] < most < 16 and sizes[-1] - sizes[0] < 0.1
    resumed = watcher(net, tmp_path, (torch.rand(16, 3, 14, 14), torch.arange(16) % 5), "layer", target=target)
    resumed.load_state_dict(watching.state_dict())
    assert size_of(resumed) == pytest.approx(sizes[-1], rel=1e-3)


def test_what_is_kept_of_the_baseline_is_a_copy_of_its_own(tmp_path):
    """A model may keep what it was handed and write into it, and a view would keep the gradients of all places."""

    class Keeping(Wide):
        def features(self, x):
            kept.append(super().features(x))
            return kept[-1]

    net, kept = Keeping(), []
    watching = watcher(net, tmp_path, (torch.rand(4, 3, 14, 14), torch.arange(4)), "layer")
    watching.look(0)
    (factors,) = watching.history["layer/grad_cam"].factors
    before = factors.activation.clone()
    with torch.no_grad():
        for output in kept:
            output.zero_()
    assert torch.equal(factors.activation, before) and before.any()
    for value in (factors.activation, factors.weight):
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size() and not value.requires_grad


@pytest.mark.parametrize("side", [7, 32])
def test_the_maps_of_a_long_run_stay_within_four_mebibytes(side):
    """Sixteen samples, 64 looks: what of a look is kept beside its maps is a number a map."""
    history = History()
    for i in range(100):
        history.add(str(i), torch.rand(16, side, side), 0.0, 1.0, torch.zeros(16, dtype=torch.long))
        history.looks[-1] = replace(history.looks[-1], change=torch.rand(16), jumped=torch.zeros(16, dtype=torch.bool))
    file = io.BytesIO()
    torch.save(history.state_dict(), file)
    assert file.tell() < 4 * 2**20


def test_what_is_looked_at_outside_a_fit_has_neither_the_runs_target_nor_its_maps(tmp_path):
    watching = watcher(plain_net(), tmp_path, target="projection")
    watching.look(0)
    memory = watching.memory
    aside = memory.of(Moment(1, "validate", "validate", fitting=False))
    assert aside.histories == {} and aside.target is not memory.target
    run = memory.of(Moment(1, "epoch 1", "1"))
    assert run.histories is memory.history and run.target is memory.target
