"""What a wrapper wraps: an adapter its layer, a compiled or distributed module the module itself; and which copy runs."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize

# The attribute that holds what is wrapped, by the name of the wrapper's class or one that it derives from: no package need be
# imported for that, and nothing else tells, since any network may have a `module` or a `base_model` of its own.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "DeepSpeedEngine": "module",
    "ActivationWrapper": "_checkpoint_wrapped_module",  # checkpointing and offloading
    "_FabricModule": "_forward_module",
    "PeftModel": "base_model",
    "PeftMixedModel": "base_model",
    "BaseTuner": "model",  # peft's LoraModel and the like
    "BaseTunerLayer": "base_layer",  # its lora.Linear and the like
}
_LEVELS = frozenset(_WRAPPERS.values()) - {"base_model", "model"} | {"original_module", "token_adapter"}


def kinds(module: nn.Module) -> set[str]:
    """The names of a module's class and of those that it derives from."""
    return {kind.__name__ for kind in type(module).__mro__}


def wrapped(module: nn.Module) -> tuple[str, nn.Module] | None:
    """Where in a wrapper the module is that runs in it, and that module; None for what is no wrapper.

    Of the copies that peft keeps of a module it is the active adapter's; the original where none is active.

    Example:
        >>> wrapped(nn.DataParallel(nn.ReLU()))
        ('module', ReLU())
        >>> wrapped(nn.ReLU())
    """
    names = kinds(module)
    path = next((attribute for kind, attribute in _WRAPPERS.items() if kind in names), None)
    if "AuxiliaryTrainingWrapper" in names:
        path = _running_copy(module)
    if path is None or path.partition(".")[0] not in module._modules:
        return None
    return path, module.get_submodule(path)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module within all wrappers; a module that is no wrapper is itself."""
    inner = wrapped(module)
    if inner is None:
        return module
    return unwrapped(inner[1])


def own_children(module: nn.Module) -> dict[str, nn.Module]:
    """The children of a module that is no wrapper, by their names, without what only computes its parameters."""
    children = dict(module.named_children())
    if parametrize.is_parametrized(module):
        children.pop("parametrizations", None)
    return children


def has_parts(module: nn.Module) -> bool:
    """Whether a module holds modules that are no layers: a wrapper, or one whose parameters are computed."""
    return wrapped(module) is not None or parametrize.is_parametrized(module)


def has_weights(module: nn.Module) -> bool:
    """Whether a module has parameters of its own, not only its children; those of a wrapper are those of what it wraps."""
    module = unwrapped(module)
    return parametrize.is_parametrized(module) or any(True for _ in module.parameters(recurse=False))


def level_length(parts: tuple[str, ...]) -> int:
    """How many parts of a dotted name, from its beginning on, may be a wrapper's level; 0 for none.

    Example:
        >>> level_length(("modules_to_save", "default", "fc")), level_length(("layer4", "0"))
        (2, 0)
    """
    if parts[:2] == ("base_model", "model") or (parts[0] == "modules_to_save" and len(parts) > 1):
        return 2
    return int(parts[0] in _LEVELS)


def active_adapters(module: Any) -> list[str]:
    """The adapters that act in a peft layer beside what it wraps: none where they are switched off, or merged into it."""
    if module.disable_adapters or getattr(module, "merged_adapters", None):
        return []
    return list(module.active_adapters)


def _running_copy(wrapper: Any) -> str:
    copies = wrapper._modules.get("modules_to_save", {})
    adapters = active_adapters(wrapper)
    # as in its forward: one adapter without a copy, and the original runs
    if adapters and all(adapter in copies for adapter in adapters):
        return f"modules_to_save.{adapters[0]}"
    if "token_adapter" in wrapper._modules:
        return "token_adapter"
    return "original_module"
