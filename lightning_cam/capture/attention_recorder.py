"""Attention met where it is called, and written out so that its probabilities can be kept.

b batch, h heads, n tokens, d channels of a head.
"""

import math
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


@dataclass(frozen=True, eq=False)
class Attended:
    """One attention of the forward; query, key, value and output are known where the model calls torch's own attention."""

    name: str  # the module in which it ran
    within: tuple[str, ...]  # the modules around it, outermost first
    probability: Float[Tensor, "b *h q k"]
    query: Float[Tensor, "..."] | None = None
    key: Float[Tensor, "..."] | None = None
    value: Float[Tensor, "..."] | None = None
    output: Float[Tensor, "..."] | None = None


class AttentionRecorder(TorchFunctionMode):
    """Meets attention and softmax where they are called, writes attention out and keeps its probabilities.

    Args:
        batch: how many samples the forward has.
        names: the modules that may run, with their names.
    """

    def __init__(self, batch: int, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.batch, self.names = batch, names
        self.found: list[Attended] = []
        self.outputs: dict[str, Tensor] = {}  # by the module, of those within which attention ran
        self.head_input: Tensor | None = None
        self._stack: list[tuple[str, int]] = []
        # torch's own function, but for the names by which it calls attention; while it runs, the mode is off
        whole = F.multi_head_attention_forward
        seen = {
            "has_torch_function": lambda _: False,
            "softmax": self._softmax,
            "scaled_dot_product_attention": self._written_out,
        }
        self._multi_head = types.FunctionType(whole.__code__, {**whole.__globals__, **seen}, whole.__name__, whole.__defaults__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._written_out(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        if func is F.linear:
            self.head_input = args[0]
        if func in _SOFTMAX:
            return self._softmax(*args, of=func, **kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record while the block runs."""
        before = register_module_forward_pre_hook(self._enter)
        after = register_module_forward_hook(self._leave, always_call=True)
        try:
            with self:
                yield
        finally:
            before.remove()
            after.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if module in self.names:
            self._stack.append((self.names[module], len(self.found)))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if module in self.names:
            name, before = self._stack.pop()
            first = output[0] if isinstance(output, tuple) and output else output
            if len(self.found) > before and isinstance(first, Tensor):
                self.outputs[name] = first

    def _written_out(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        if options.get("enable_gqa"):
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        scale = options.get("scale")
        similarity = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(similarity.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            similarity = similarity.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            similarity = similarity + attn_mask
        exact = torch.float64 if similarity.dtype == torch.float64 else torch.float32
        p = self._kept(similarity.softmax(-1, dtype=exact))
        output = F.dropout(p, dropout_p).to(value.dtype) @ value
        if self.found and self.found[-1].probability is p:
            self.found[-1] = replace(self.found[-1], query=query, key=key, value=value, output=output)
        return output

    def _softmax(self, *args: Any, of: Any = F.softmax, **kwargs: Any) -> Tensor:
        p: Tensor = of(*args, **kwargs)
        over = kwargs.get("dim", args[1] if len(args) > 1 else None)
        return self._kept(p) if over in (-1, p.ndim - 1) else p

    def _kept(self, p: Tensor) -> Tensor:
        """Keep what may be attention, so that all that follows depends on it."""
        if p.ndim < 3 or not self._stack:
            return p
        torch.set_grad_enabled(True)  # also where the model has a no_grad of its own
        if not p.requires_grad:
            p = p.detach().requires_grad_()
        merged = p.ndim == 3 and p.shape[0] % self.batch == 0  # batch and heads in one
        p = p.unflatten(0, (self.batch, -1)) if merged else p
        within = tuple(name for name, _ in self._stack)
        self.found.append(Attended(within[-1], within, p))
        return p.flatten(0, 1) if merged else p
