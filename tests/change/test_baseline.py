"""What is put back for a look is the baseline's to the bit, and afterwards everything is what it was, to the bit."""

import pytest
import torch
from parts import WRAPPERS, adapted, jolt
from plain import PlainNet, plain_net
from torch import nn
from traces import digest, model_state
from zoo import gap_linear, images

from lightning_cam.change.baseline import BaselineWeights
from lightning_cam.change.groups import Parts
from lightning_cam.change.tensor_names import named_tensors

GROUPS = {"first": "trunk", "head": "head"}


def state(net):
    """Every parameter and buffer by its bits, its place in memory, its version, and what autograd knows of it."""
    kept = {}
    for tensor, names in named_tensors(net):
        place = (tensor.data_ptr(), tensor.untyped_storage()._cdata, tensor.stride(), tensor.storage_offset())
        version = None if tensor.is_inference() else tensor._version
        grad = None if tensor.grad is None else (digest(tensor.grad), tensor.grad.data_ptr())
        kept[names[0]] = (id(tensor), digest(tensor), place, version, tensor.requires_grad, tensor.is_leaf, grad)
    return kept, model_state(net)


def trained(**options):
    """A net in the middle of an epoch: with gradients, versions above 0, a frozen part, and flags of all kinds."""
    net = plain_net(norm=True, **options).double()
    baseline = BaselineWeights.of(net, Parts(GROUPS))
    before = {names[0]: tensor.detach().clone() for tensor, names in named_tensors(net)}
    jolt(net)
    net.trunk[0].weight.requires_grad_(False)
    net(torch.rand(2, 3, 8, 8, dtype=torch.float64)).sum().backward()
    net.trunk[1].eval()
    return net, baseline, before


def test_a_part_put_back_is_the_baselines_and_the_others_are_todays():
    net, baseline, before = trained()
    now = {names[0]: tensor.detach().clone() for tensor, names in named_tensors(net)}
    changes = baseline.changes(net)
    assert changes.parts == ["first", "head", "rest"] and changes.changed == changes.parts
    for parts in ([], ["first"], ["head", "rest"], ["first", "head", "rest"]):
        with changes.put_back(parts):
            for tensor, names in named_tensors(net):
                (part,) = (copy.part for copy in baseline.tensors if names[0] in copy.names)
                expected = (before if part in parts else now)[names[0]]
                assert torch.equal(tensor, expected), (names, parts)
                assert tensor.dtype == expected.dtype and tensor.stride() == expected.stride()


def test_afterwards_every_bit_place_version_and_gradient_is_what_it_was():
    net, baseline, _ = trained()
    before = state(net)
    changes = baseline.changes(net)
    assert state(net) == before
    for parts in (["first"], ["head", "rest"], ["first", "head", "rest"]):
        with changes.put_back(parts):
            assert state(net)[0] != before[0]
            net(torch.rand(2, 3, 8, 8, dtype=torch.float64))
        assert state(net) == before


def test_an_exception_in_the_middle_leaves_everything_as_it_was():
    net, baseline, _ = trained()
    before, draws = state(net), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt), baseline.changes(net).put_back(["first", "head"]):
        torch.rand(3)
        net.train()
        net.trunk[1].running_mean.data.add_(1)
        raise KeyboardInterrupt
    assert state(net) == before
    assert torch.equal(torch.get_rng_state(), draws)


def test_a_value_that_cannot_be_put_in_leaves_everything_as_it_was(monkeypatch):
    net, baseline, _ = trained()
    before, changes = state(net), baseline.changes(net)
    made = []

    def out_of_memory(*args, **options):
        made.append(1)
        if len(made) == 3:
            raise torch.OutOfMemoryError("no memory left")
        return torch.zeros(args[0].shape, dtype=args[0].dtype)

    monkeypatch.setattr(torch, "empty_like", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError), changes.put_back(["first", "head", "rest"]):
        pass
    monkeypatch.undo()
    assert len(made) == 3 and state(net) == before


def test_a_training_goes_on_as_if_nothing_had_been_put_back():
    def run(look):
        net = plain_net(norm=True)
        optimizer = torch.optim.Adam(net.parameters(), 0.05)
        baseline = BaselineWeights.of(net, Parts(GROUPS))
        torch.manual_seed(3)
        for _ in range(4):
            loss = net(torch.rand(6, 3, 8, 8)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            if look:
                with baseline.changes(net).put_back(["first"]):
                    net(torch.rand(6, 3, 8, 8))
            optimizer.step()
        return digest(optimizer.state_dict()["state"]), state(net)[1]

    assert run(look=True) == run(look=False)


def test_parameters_that_share_memory_are_put_back_one_by_one():
    flat = torch.arange(12.0)
    net = nn.ModuleDict({"a": nn.Linear(2, 3, bias=False), "b": nn.Linear(2, 3, bias=False)})
    net["a"].weight.data, net["b"].weight.data = flat[:6].view(3, 2), flat[6:].view(3, 2)
    baseline = BaselineWeights.of(net, Parts({"a": "a"}))
    flat += 1
    before = state(net)
    with baseline.changes(net).put_back(["a"]):
        assert net["a"].weight.flatten().tolist() == list(range(6)) and net["b"].weight.flatten().tolist() == list(range(7, 13))
        assert flat.tolist() == list(range(1, 13))
    assert state(net) == before
    flat += 1
    assert net["a"].weight[0, 0] == 2 and net["b"].weight[0, 0] == 8  # still its views


def test_a_tied_parameter_is_kept_once_and_put_back_at_all_its_places():
    net = nn.ModuleDict({"embed": nn.Linear(3, 3), "head": nn.Linear(3, 3)})
    net["head"].weight = net["embed"].weight
    first = net["head"].weight.detach().clone()
    baseline = BaselineWeights.of(net, Parts({"head": "head"}))
    assert baseline.tensors[0].names == ["embed.weight", "head.weight"] and len(baseline.tensors) == 3
    jolt(net)
    with baseline.changes(net).put_back(["head"]):
        assert net["head"].weight is net["embed"].weight and torch.equal(net["embed"].weight, first)


def test_only_what_differs_by_a_bit_has_changed():
    net = plain_net(norm=True)
    with torch.no_grad():
        net.head.bias[0] = torch.nan
    baseline = BaselineWeights.of(net, Parts(GROUPS))
    assert baseline.changes(net).changed == []
    with torch.no_grad():
        net.head.weight[0, 0] = net.head.weight[0, 0].nextafter(torch.tensor(9.0))
    changes = baseline.changes(net)
    assert changes.changed == ["head"] and len(changes.tensors["head"]) == 1
    net.trunk[1].num_batches_tracked += 1
    assert baseline.changes(net).changed == ["first", "head"]


def test_type_device_and_memory_format_are_todays():
    net = nn.Sequential(nn.Conv2d(4, 4, 3)).double()
    baseline = BaselineWeights.of(net, Parts({"all": "*"}))
    assert all(copy.value.device.type == "cpu" for copy in baseline.tensors)
    values = net[0].weight.detach().clone()
    net.to(torch.bfloat16, memory_format=torch.channels_last)
    assert baseline.changes(net).changed == []  # the same numbers, rounded
    jolt(net)
    with baseline.changes(net).put_back(["all"]):
        assert net[0].weight.dtype == torch.bfloat16
        assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(net[0].weight, values.bfloat16())


def test_buffers_of_a_validation_in_inference_mode_are_put_back_too():
    net = plain_net()
    net.register_buffer("calls", torch.zeros(3))
    baseline = BaselineWeights.of(net, Parts({"head": "head"}))
    with torch.inference_mode():
        net.calls = net.calls + 1
    before = state(net)
    with baseline.changes(net).put_back(["rest"]):
        assert net.calls.is_inference() and net.calls.tolist() == [0, 0, 0]
    assert net.calls.is_inference() and state(net) == before
    with torch.inference_mode():
        with baseline.changes(net).put_back(["rest"]):
            assert net.calls.tolist() == [0, 0, 0]
        net.calls += 1
    assert net.calls.tolist() == [2, 2, 2]


def test_weights_that_a_forward_computes_and_leaves_behind_are_todays_again():
    net = gap_linear()
    nn.utils.spectral_norm(net.head[3])
    baseline = BaselineWeights.of(net, Parts({"head": "head"}))
    jolt(net)
    net(images())
    left = net.head[3].weight
    bits = digest(left)
    with baseline.changes(net).put_back(["head"]):
        net(images())
        assert digest(net.head[3].weight) != bits
    assert net.head[3].weight is left and digest(left) == bits


@pytest.mark.filterwarnings("ignore:.*CPU autocast")
def test_casts_that_an_autocast_around_it_remembers_are_of_the_weights_that_are_in():
    net, x = nn.Sequential(nn.Linear(3, 2, bias=False)), torch.ones(1, 3)
    baseline = BaselineWeights.of(net, Parts({"head": "0"}))
    then = net(x).detach()
    with torch.no_grad():
        net[0].weight += 1
    with torch.autocast("cpu", torch.bfloat16):
        now = net(x).detach()
        with baseline.changes(net).put_back(["head"]):
            assert torch.allclose(net(x).float(), then, atol=0.05)
        assert torch.equal(net(x), now) and not torch.allclose(now.float(), then, atol=0.5)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_model_wrapped_or_unwrapped_since_is_the_same_model(kind):
    wrap, _ = WRAPPERS[kind]
    for outer, inner in ((lambda net: net, wrap), (wrap, lambda net: net)):
        net = gap_linear()
        baseline = BaselineWeights.of(outer(net), Parts({"head": "head"}))
        jolt(net.head)
        assert baseline.changes(inner(net)).changed == ["head"]


def test_a_model_that_is_no_longer_that_of_the_baseline_is_refused():
    net = gap_linear()
    baseline = BaselineWeights.of(net, Parts({"head": "head"}))
    end = "put adapters and new layers in before it, or begin the run anew with watcher.restart()."
    net.head[3] = nn.Linear(6, 7)
    with pytest.raises(ValueError, match=r"'head.3.weight' is \[7, 6\] and was \[4, 6\]") as refusal:
        baseline.changes(net)
    assert str(refusal.value).endswith(end)
    net.head[3] = nn.Identity()
    with pytest.raises(ValueError, match=r"it lacks 'head.3.weight' and 1 more") as refusal:
        baseline.changes(net)
    assert str(refusal.value).endswith(end)
    net = gap_linear()
    baseline = BaselineWeights.of(net, Parts({"head": "head"}))
    with pytest.raises(ValueError, match=r"it has 'head.3.lora_A.first.weight' and 3 more that it had not"):
        baseline.changes(adapted(net))
    # other modules of the same names and shapes are the same parameters
    net = gap_linear()
    net.head[3] = nn.Linear(6, 4).double()
    assert baseline.changes(net).changed == ["head"]


class Shard(nn.Parameter):
    """Of a type of its own, as FSDP's and DTensor's."""


def test_what_cannot_be_put_back_is_refused_if_it_is_trained_and_left_alone_if_not():
    net = plain_net()
    shard = Shard(torch.rand(5))
    net.head.register_parameter("shard", shard)
    net.register_buffer("graph", torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match=r"'head.shard', a Shard, is sharded, packed or not made yet.*DDP instead of FSDP"):
        BaselineWeights.of(net, Parts({"head": "head"}))
    shard.requires_grad_(False)
    baseline = BaselineWeights.of(net, Parts({"head": "head"}))
    assert {name for copy in baseline.tensors for name in copy.names} == {name for name, _ in PlainNet().named_parameters()}
    with torch.no_grad():
        shard += 1
    assert baseline.changes(net).changed == []
    net.head.weight.ds_id = 3
    with pytest.raises(ValueError, match=r"'head.weight', a Parameter, is sharded"):
        baseline.changes(net)
