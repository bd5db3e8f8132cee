"""A net at its baseline and later, and its maps as a look takes them. b batch, t targets, m map."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import stand_ins
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lightning_cam.capture.session import open_session
from lightning_cam.change.baseline import BaselineWeights
from lightning_cam.change.groups import Parts
from lightning_cam.change.parts import drift_by_parts
from lightning_cam.methods.apply import map_plans
from lightning_cam.metrics.comparison.direction import cosine_distance
from lightning_cam.registry import METHODS
from lightning_cam.targets import find

WRAPPERS = {
    "compiled": (lambda net: torch.compile(net, backend="eager"), "_orig_mod."),
    "distributed": (stand_ins.DistributedDataParallel, "module."),
    "checkpointed": (checkpoint_wrapper, "_checkpoint_wrapped_module."),
    "fabric": (lambda net: Fabric(accelerator="cpu", devices=1).setup_module(net), "_forward_module."),
    "adapted": (stand_ins.as_peft, "base_model.model."),
    "all of them": (
        lambda net: stand_ins.DistributedDataParallel(torch.compile(stand_ins.as_peft(net), backend="eager")),
        "module._orig_mod.base_model.model.",
    ),
}


def adapted(net: nn.Module, at: str = "head.3", **options: object) -> nn.Module:
    """The net with LoRA of two adapters on a layer, whose B is zero as it is when a training begins."""
    kind = stand_ins.Linear if isinstance(net.get_submodule(at), nn.Linear) else stand_ins.Conv2d
    layer = kind(net.get_submodule(at), {"first": 2, "second": 3}, **options).double().eval()
    for up in layer.lora_B.values():
        nn.init.zeros_(up.weight)
    net.set_submodule(at, layer)
    return net


@contextmanager
def looking(net: nn.Module, x: Tensor, layers: Sequence[str], methods: Sequence[str] = ("grad_cam",), target: object = 0):
    """Today's maps, and what gives those of the net as it is when called."""
    plans = map_plans(layers, [METHODS.find(method) for method in methods], None)
    with open_session(net, layers, x) as session:
        forward = session.forward(x, find(target))

        def maps() -> dict[str, Tensor]:
            again = forward.with_images(x)
            return {plan.tag: plan.heat(again) for plan in plans}

        yield {plan.tag: plan.heat(forward) for plan in plans}, maps


def maps_of(net: nn.Module, x: Tensor, layers: Sequence[str], **options: object) -> dict[str, Tensor]:
    """A net's maps by a look of their own."""
    with looking(net, x, layers, **options) as (now, _):
        return now


def jolt(module: nn.Module, seed: int = 1, size: float = 0.3) -> None:
    """A step of training, as far as weights and running statistics are concerned."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(size * torch.rand_like(tensor))


def shared(net: nn.Module, x: Tensor, groups: object, train: Callable[[], object], layers: Sequence[str], **options: object):
    """The shares of the drift after a training, the drift itself by tag, and how many further looks there were."""
    before = maps_of(net, x, layers, **options)
    baseline = BaselineWeights.of(net, Parts(groups))
    train()
    looks = []
    with looking(net, x, layers, **options) as (now, maps):

        def counted() -> dict[str, Tensor]:
            looks.append(1)
            return maps()

        shares = drift_by_parts(counted, now, before, baseline.changes(net))
    drift = {tag: distance(now[tag], before[tag]) for tag in now}
    return shares, drift, len(looks)


def distance(now: Tensor, then: Tensor) -> Tensor:
    return cosine_distance(now.flatten(0, 1), then.flatten(0, 1)).reshape(now.shape[:2])
