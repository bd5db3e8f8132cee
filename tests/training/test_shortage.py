"""Too little memory: fewer samples at once, then without the map, then without the look; the run goes on as it would have."""

import pytest
import torch
from nets import STRICT, cam, fit
from plain import PlainNet, batch, plain_net, watcher
from traces import model_state

from lightning_cam.capture.seen import Seen

pytestmark = STRICT

WORDS = "CUDA out of memory. Tried to allocate 20.00 GiB."
SHORT = [
    lambda: torch.OutOfMemoryError(WORDS),
    lambda: RuntimeError(WORDS),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError,
]


class Roomy(PlainNet):
    """Its trunk has room for so many samples."""

    room = 99
    error = staticmethod(SHORT[0])

    def forward(self, x):
        if len(x) > self.room:
            raise self.error()
        return super().forward(x)


def roomy(room):
    torch.manual_seed(1)
    net = Roomy()
    net.room = room
    return net


class Tail:
    """A method whose backward has room for so many samples."""

    __name__ = "tail"

    def __init__(self, room, error=SHORT[0]):
        self.room, self.error, self.sizes = room, error, []

    def __call__(self, seen: Seen):
        self.sizes.append(len(seen.activation))
        if len(seen.activation) > self.room:
            raise self.error()
        return (seen.activation * seen.gradient).sum(1)


@pytest.mark.parametrize("error", SHORT)
@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_trunk_without_room_is_run_on_fewer_samples_at_once(room, error, tmp_path):
    net, free = roomy(room), roomy(99)
    net.error = error
    watching, other = watcher(net, tmp_path / "a", metrics=["drift", "px_ap"]), watcher(free, tmp_path / "b", metrics=["drift"])
    with pytest.warns(
        UserWarning, match=r"\d samples at once do not fit into the memory, so looks go on with \d at once"
    ) as told:
        (record,) = watching.look(0)
    (expected,) = other.look(0)
    assert torch.allclose(record.heat, expected.heat, atol=1e-6) and record.score.shape == (4, 1)
    assert len(told) == (2 if room == 1 else 1)
    # from now on in the chunks that fitted, without another try
    assert len(watching.pinned.chunks) == (4 if room == 1 else 2)
    net.calls = []
    net.register_forward_pre_hook(lambda module, args: net.calls.append(len(args[0])))
    watching.look(1)
    assert max(net.calls) <= room


def test_a_tail_without_room_is_run_on_fewer_and_metrics_and_floor_are_those_of_all(tmp_path):
    asked = dict(metrics=["drift", "drift_floor", "entropy"])
    hindered = watcher(plain_net(), tmp_path / "a", method=Tail(2), **asked)
    free = watcher(plain_net(), tmp_path / "b", method=Tail(99), **asked)
    with pytest.warns(UserWarning, match="4 samples at once do not fit"):
        (one,) = hindered.look(0)
    (other,) = free.look(0)
    for name in other.values:
        torch.testing.assert_close(one.values[name], other.values[name], equal_nan=True, rtol=1e-4, atol=1e-6)
    assert other.values["drift_floor"].isfinite().all()


def test_what_has_no_room_for_a_single_sample_costs_its_map_alone(tmp_path):
    net = plain_net()
    tail = Tail(99)
    watching = watcher(net, tmp_path, method=["grad_cam", tail], metrics=[], on_error="warn")
    watching.look(0)
    tail.room = 0
    with (
        pytest.warns(match="do not fit"),
        pytest.warns(UserWarning, match="relu/tail failed and is left out, training goes on: OutOfMemoryError"),
    ):
        records = watching.look(1)
    assert [record.method for record in records] == ["grad_cam"] and tail.sizes[-1] == 1
    assert records[0].score.shape == (4, 1)


def test_no_room_for_the_trunk_costs_the_look_alone(tmp_path):
    net = roomy(99)
    watching = watcher(net, tmp_path, on_error="warn")
    watching.look(0)
    net.room = 0
    with (
        pytest.warns(match="do not fit"),
        pytest.warns(UserWarning, match="a look failed and is left out, training goes on: OutOfMemoryError"),
    ):
        assert watching.look(1) == []
    net.room = 99
    assert watching.look(2) and len(watching.history["relu/grad_cam"].looks) == 2


def test_at_the_first_look_it_is_let_out(tmp_path):
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="do not fit"):
        watcher(roomy(0), tmp_path, on_error="warn").look(0)


def test_training_is_the_same_to_the_bit(tmp_path):
    plain = fit(tmp_path / "a").lightning_module
    with pytest.warns(UserWarning, match="do not fit into the memory"):
        run = fit(tmp_path / "b", cam(method=Tail(1), metrics=[]))
    assert model_state(run.lightning_module) == model_state(plain)


def test_other_errors_are_no_shortage(tmp_path):
    watching = watcher(plain_net(), tmp_path, method=Tail(2, lambda: ValueError("no such thing")))
    with pytest.raises(ValueError, match="no such thing"):
        watching.look(0)
    assert len(watching.pinned.chunks) == 1 and batch()[0].shape[0] == 4
