"""The parameters and buffers of the baseline, and how they are put back for one look."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_cam.change.groups import Named, Parts
from lightning_cam.change.tensor_names import named_tensors
from lightning_cam.no_trace import no_trace


@dataclass(frozen=True, eq=False)
class BaselineTensor:
    """What a parameter or buffer was at the baseline.

    Attributes:
        part: which it belongs to.
        names: all of its names.
        value: on the CPU.
    """

    part: str
    names: Sequence[str]
    value: Tensor


@dataclass(frozen=True, eq=False)
class Changes:
    """What of a model differs from the baseline, at one look.

    Attributes:
        model: the model.
        tensors: for each part, the parameters and buffers that differ by any bit, each with the baseline's value.
    """

    model: nn.Module
    tensors: Mapping[str, Sequence[tuple[Tensor, Tensor]]]

    @property
    def parts(self) -> list[str]:
        """All parts, changed or not."""
        return list(self.tensors)

    @property
    def changed(self) -> list[str]:
        """The parts in which anything differs."""
        return [part for part, tensors in self.tensors.items() if tensors]

    @contextmanager
    def put_back(self, parts: Collection[str]) -> Iterator[None]:
        """The model with these parts as they were at the baseline; afterwards all is what it is today, to the bit.

        Parameters stay the objects that they are, with their gradients, version counters and optimizer states: each is given
        the baseline's values in another place of memory, of its own type, device and memory format, and afterwards its own
        place back, however the block ends. What the block does to modes, buffers and random states is undone (``no_trace``).
        """
        tensors = [pair for part in parts for pair in self.tensors[part]]
        places = [tensor.data for tensor, _ in tensors]
        derived = _derived(self.model)
        # within an autocast of the caller's, casts of weights are remembered by the parameter, whatever its values
        torch.clear_autocast_cache()
        try:
            for tensor, value in tensors:
                tensor.data = _placed(value, tensor)
            with no_trace(self.model):
                yield
        finally:
            for (tensor, _), place in zip(tensors, places, strict=True):
                tensor.data = place
            for module, attributes in derived:
                vars(module).update(attributes)
            torch.clear_autocast_cache()


@dataclass(frozen=True, eq=False)
class BaselineWeights:
    """Every parameter and buffer of a model at the baseline, by part, copied to the CPU; a tied one is copied once.

    It takes as much of the host's memory as the model takes, and is part of no checkpoint.

    Attributes:
        parts: their names.
        tensors: the copies.
    """

    parts: Sequence[str]
    tensors: Sequence[BaselineTensor]

    @classmethod
    def of(cls, model: nn.Module, parts: Parts) -> "BaselineWeights":
        """Copy what a model holds now.

        Raises:
            ValueError: for groups that do not fit the model, and for parameters that are sharded, packed or not made yet.
        """
        members = parts.of(model)
        copies = []
        for part, tensors in members.items():
            for tensor, names in _plain(tensors):
                copies.append(BaselineTensor(part, names, tensor.detach().to("cpu", copy=True)))
        return cls(list(members), copies)

    def changes(self, model: nn.Module) -> Changes:
        """What differs in the model now, by any bit.

        Raises:
            ValueError: if it has other parameters or buffers than at the baseline, or of other shapes.
        """
        copies = {name: copy for copy in self.tensors for name in copy.names}
        tensors: dict[str, list[tuple[Tensor, Tensor]]] = {part: [] for part in self.parts}
        appeared = []
        there = set()
        for tensor, names in _plain(named_tensors(model)):
            # wrapped in something else since, it may have more names or fewer
            copy = next((copies[name] for name in names if name in copies), None)
            if copy is None:
                appeared.append(names[0])
                continue
            there.add(id(copy))
            if copy.value.shape != tensor.shape:
                raise ValueError(_no_longer(f"{names[0]!r} is {list(tensor.shape)} and was {list(copy.value.shape)}"))
            if _differs(tensor, copy.value):
                tensors[copy.part].append((tensor, copy.value))
        vanished = [copy.names[0] for copy in self.tensors if id(copy) not in there]
        if appeared:
            raise ValueError(_no_longer(f"it has {_several(appeared)} that it had not"))
        if vanished:
            raise ValueError(_no_longer(f"it lacks {_several(vanished)}"))
        return Changes(model, tensors)


def _plain(tensors: Sequence[Named]) -> list[Named]:
    """Those of which a value can be put in the place of another; others that are not trained stay as they are, unseen."""
    plain = []
    for tensor, names in tensors:
        # by the exact type: what is sharded, packed or not made yet is of a type of its own, and DeepSpeed's has a mark
        ordinary = type(tensor) in (Tensor, nn.Parameter) and not hasattr(tensor, "ds_id")
        if ordinary and tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta:
            plain.append((tensor, names))
        elif tensor.requires_grad:
            raise ValueError(
                f"Parts: {names[0]!r}, a {type(tensor).__name__}, is sharded, packed or not made yet, so what it was at the "
                "baseline cannot be put back for a look. Train it whole (DDP instead of FSDP), or leave parts out: parts=None."
            )
    return plain


def _differs(tensor: Tensor, value: Tensor) -> bool:
    """Whether any bit differs; a NaN that stayed is no change."""
    return not torch.equal(_bits(tensor), _bits(value.to(tensor.device, tensor.dtype)))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """A copy of the value, of the type, device and memory format of a tensor."""
    # what was made in inference mode, as buffers in a validation, must stay of that kind
    with torch.inference_mode(like.is_inference()), torch.no_grad():
        return torch.empty_like(like, requires_grad=False).copy_(value)


def _derived(model: nn.Module) -> list[tuple[nn.Module, dict[str, Tensor]]]:
    """Tensors that are plain attributes of modules: a forward may compute them from parameters, as weight norm does."""
    derived = []
    for module in model.modules():
        attributes = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
        if attributes:
            derived.append((module, attributes))
    return derived


def _no_longer(what: str) -> str:
    return (
        f"Parts: the model is not that of the baseline: {what}. What moved, by parts, is told of parameters that were there at "
        "the first look: put adapters and new layers in before it, or begin the run anew with watcher.restart()."
    )


def _several(names: Sequence[str]) -> str:
    if len(names) == 1:
        return repr(names[0])
    return f"{names[0]!r} and {len(names) - 1} more"
