"""A model's parameters and buffers by name, without the levels that wrappers put in."""

from collections.abc import Iterator

from torch import Tensor, nn

from lightning_cam.model.wrapped import wrapped


def named_tensors(model: nn.Module) -> list[tuple[Tensor, list[str]]]:
    """Every parameter and buffer once, with all of its names; a tied one, or one of a module at several places, has several.

    Names are the modules' own (``lightning_cam.model.names``), whatever is wrapped around these: ``layer4.0.conv1.weight``
    in a compiled or distributed model too, and with LoRA around the convolution. What an adapter adds is named by its place
    in the wrapper, ``layer4.0.conv1.lora_A.default.weight``.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> net[1].weight = net[0].weight
        >>> [names for _, names in named_tensors(nn.DataParallel(net))]
        [['0.weight', '1.weight'], ['0.bias'], ['1.bias']]
    """
    tensors: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in _walk("", model, frozenset()):
        tensors.setdefault(id(tensor), (tensor, []))[1].append(name)
    return list(tensors.values())


def _walk(name: str, module: nn.Module, above: frozenset[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    # a module may hold one that it is in, as a trainer's callbacks may hold the model
    if module in above:
        return
    above |= {module}
    inner = wrapped(module)
    if inner is not None:
        yield from _walk(name, inner[1], above)
        # what else the wrapper holds is walked too, but not again what it wraps
        above |= {inner[1]}
    for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        yield _join(name, key), parameter
    for key, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        yield _join(name, key), buffer
    for key, child in module._modules.items():
        if child is not None:
            yield from _walk(_join(name, key), child, above)


def _join(name: str, key: str) -> str:
    return f"{name}.{key}".removeprefix(".")
