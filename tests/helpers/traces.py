"""Everything a callback could disturb in a run, as comparable values; and what differs between two runs."""

import hashlib
import random
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from nets import trainer
from torch import Tensor, nn

HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_start",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_test_start",
    "on_test_epoch_end",
    "on_test_end",
    "on_sanity_check_end",
    "on_exception",
)

_MODULE_HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks") or name.endswith("_hooks_with_kwargs")]
_GLOBAL_HOOKS = [name for name in vars(nn.modules.module) if name.startswith("_global_") and "hooks" in name]


def digest(value: Any) -> Any:
    """Tensors by their bits, everything else by its words."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha1(flat.numpy().tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return {str(k): digest(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [digest(v) for v in value]
    return repr(value)


def random_states() -> dict[str, str]:
    return {
        "rng torch": digest(torch.get_rng_state()),
        "rng numpy": hashlib.sha1(repr(np.random.get_state()).encode() + np.random.get_state()[1].tobytes()).hexdigest(),
        "rng python": hashlib.sha1(repr(random.getstate()).encode()).hexdigest(),
    }


def modes() -> dict[str, Any]:
    return {
        "mode grad": torch.is_grad_enabled(),
        "mode inference": torch.is_inference_mode_enabled(),
        "mode autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()),
        "mode dtype": torch.get_default_dtype(),
        "mode deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "mode threads": torch.get_num_threads(),
        "mode functions": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "hooks global": {name: len(getattr(nn.modules.module, name) or ()) for name in _GLOBAL_HOOKS},
    }


def model_state(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {"order of parameters": [name for name, _ in model.named_parameters()]}
    for name, p in model.named_parameters():
        found[f"weight {name}"] = digest(p)
        found[f"grad {name}"] = digest(p.grad)
        found[f"requires_grad {name}"] = p.requires_grad
    for name, b in model.named_buffers():
        found[f"buffer {name}"] = digest(b)
    for name, module in model.named_modules():
        found[f"training {name}"] = module.training
        found[f"hooks {name}"] = {kind: len(getattr(module, kind)) for kind in _MODULE_HOOKS}
        found[f"attributes {name}"] = sorted(vars(module))
    return found


def state(run: Any, model: Any) -> dict[str, Any]:
    """All that is compared at one hook; what the callback itself logs is left out."""
    optimizer = run.optimizers[0] if run.optimizers else None
    return {
        **model_state(model),
        **random_states(),
        **modes(),
        "optimizer": digest(optimizer.state_dict()["state"]) if optimizer else None,
        "lr": [group["lr"] for group in optimizer.param_groups] if optimizer else None,
        "step": (run.global_step, run.current_epoch, run.fit_loop.epoch_loop._batches_that_stepped),
        "stage": str(run.state.stage),
        "metrics": {k: digest(v) for k, v in sorted(run.callback_metrics.items()) if not k.startswith("cam")},
        "logged": {k: digest(v) for k, v in sorted(run.logged_metrics.items()) if not k.startswith("cam")},
        "data": list(model.seen),
    }


class Trace(L.Callback):
    """Writes down the state at every hook; placed behind the callback under test."""

    def __init__(self) -> None:
        self.states: list[tuple[str, dict[str, Any]]] = []
        for hook in HOOKS:
            setattr(self, hook, self._at(hook))

    def _at(self, hook: str) -> Any:
        return lambda run, model, *rest, **more: self.states.append((hook, state(run, model)))


def differences(first: "Trace", second: "Trace") -> list[str]:
    """What differs, in the order it first does; each thing once."""
    found: dict[str, str] = {}
    hooks = [[hook for hook, _ in one.states] for one in (first, second)]
    if hooks[0] != hooks[1]:
        found["hooks called"] = f"hooks called: {len(hooks[0])} and {len(hooks[1])}"
    for i, ((hook, a), (_, b)) in enumerate(zip(first.states, second.states, strict=False)):
        for key in [*a, *(k for k in b if k not in a)]:
            if a.get(key) != b.get(key):
                found.setdefault(key, f"{key} differs from {hook} on (record {i})")
    return list(found.values())


def traced(folder: Any, callbacks: Any, net: Any, train: Any, val: Any, entry: str = "fit", **options: Any) -> Trace:
    """Run with the callbacks and a trace behind them; ``net``, ``train`` and ``val`` are built anew for each run."""
    L.seed_everything(5, verbose=False)
    trace, model = Trace(), net()
    run = trainer(folder, [*callbacks, trace], **options)
    if entry == "fit":
        run.fit(model, train(), val())
    else:
        getattr(run, entry)(model, val(), verbose=False)
    trace.states.append(("the end", state(run, model)))
    return trace
