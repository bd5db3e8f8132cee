"""Attention met where it is called, and written out so that its probabilities can be recorded.

b batch, h heads, n tokens, q k tokens that attend and are attended to, d channels of a head.
"""

import inspect
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
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


@dataclass(frozen=True, eq=False)
class RecordedAttention:
    """One attention of the forward.

    Attributes:
        name: the module in which it ran.
        modules: the modules around it by their names, outermost first.
        probability: what a softmax over the last dimension returned, each row summing to 1.
        query: with key, value and output, known where the model calls torch's own attention.
        key: see query; repeated for grouped queries.
        value: see query; repeated for grouped queries.
        output: what is gathered of the values, before any projection.
    """

    name: str
    modules: tuple[str, ...]
    probability: Float[Tensor, "b *h q k"]
    query: Float[Tensor, "..."] | None = None
    key: Float[Tensor, "..."] | None = None
    value: Float[Tensor, "..."] | None = None
    output: Float[Tensor, "..."] | None = None


class AttentionRecorder(TorchFunctionMode):
    """Meets attention and softmax where they are called, writes attention out and records its probabilities.

    Torch's fused attention never holds its probabilities, and a model that calls softmax keeps them to itself. A torch
    function mode meets both calls, in this thread only, and nothing of torch is replaced.

    Args:
        batch: how many samples the forward has.
        names: the modules that may run, with their names.
        silent: the position of an attention that is made to gather nothing, to see what is read beside it; no gradient is
            recorded then.

    Attributes:
        attentions: what was recorded, in the order in which it ran.
        outputs: tokens by the name of the module that returned them, of modules within which attention ran.
        head_input: what the last linear layer was given.
    """

    def __init__(self, batch: int, names: Mapping[nn.Module, str], silent: int | None = None) -> None:
        super().__init__()
        self.batch = batch
        self.names = names
        self.silent = silent
        self.attentions: list[RecordedAttention] = []
        self.outputs: dict[str, Tensor] = {}
        self.head_input: Tensor | None = None
        # modules now running, outermost first, each with how many attentions had run before it
        self._running_modules: list[tuple[str, int]] = []
        self._patched_multi_head = self._patch_multi_head()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch; torch itself switches the mode off until this returns, so nothing inside is met."""
        if kwargs is None:
            kwargs = {}
        if func is F.scaled_dot_product_attention:
            return self._written_out(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        if func is F.linear:
            self.head_input = args[0] if args else kwargs["input"]
        if func in _SOFTMAX:
            return self._softmax(*args, function=func, **kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record while the block runs."""
        before = register_module_forward_pre_hook(self._enter)
        # also called where forward raises, or modules would stay on the stack
        after = register_module_forward_hook(self._leave, always_call=True)
        try:
            with self:
                yield
        finally:
            before.remove()
            after.remove()

    def _patch_multi_head(self) -> Any:
        """The patched attention function: torch's ``multi_head_attention_forward`` calling this recorder's attention.

        It is one Python function that calls softmax or scaled_dot_product_attention inside, where the mode is off and cannot
        meet them. So its code is given other globals, in which these names are the recorder's; torch's own stay as they are.
        """
        original = F.multi_head_attention_forward
        patched_globals = {
            **original.__globals__,
            "has_torch_function": lambda _: False,  # or it would hand the call on to torch's own function
            "softmax": self._softmax,
            "scaled_dot_product_attention": self._written_out,
        }
        return types.FunctionType(original.__code__, patched_globals, original.__name__, original.__defaults__)

    def _multi_head(self, *args: Any, **kwargs: Any) -> Any:
        """Torch's ``multi_head_attention_forward``, which where weights are asked for keeps queries, keys and values to itself.

        So it is asked for none, and those recorded are returned in their place.
        """
        call = _MULTI_HEAD.bind(*args, **kwargs)
        call.apply_defaults()
        wanted = call.arguments["need_weights"] and call.arguments["query"].ndim == 3 and self._running_modules
        if not wanted:
            return self._patched_multi_head(*args, **kwargs)
        call.arguments["need_weights"] = False
        output, _ = self._patched_multi_head(*call.args, **call.kwargs)
        weights = self.attentions[-1].probability
        if call.arguments["average_attn_weights"]:
            weights = weights.mean(1)
        return output, weights.to(output.dtype)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self.attentions and self.silent is None:
            torch.set_grad_enabled(True)  # also where each block has a no_grad of its own
        if module in self.names:
            self._running_modules.append((self.names[module], len(self.attentions)))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if module not in self.names:
            return
        name, recorded_before = self._running_modules.pop()
        if isinstance(output, tuple) and output:
            output = output[0]  # where weights or caches are returned too, tokens come first
        if len(self.attentions) > recorded_before and isinstance(output, Tensor):
            self.outputs[name] = output.clone()  # what is behind may write into it

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
        """Attention in the steps by which torch documents scaled_dot_product_attention, its probabilities recorded."""
        if options.get("enable_gqa"):
            groups = query.shape[-3] // key.shape[-3]
            key = key.repeat_interleave(groups, -3)
            value = value.repeat_interleave(groups, -3)
        scale = options.get("scale")
        if scale is None:
            scale = 1 / math.sqrt(query.shape[-1])
        similarity = query @ key.mT * scale
        if is_causal:
            attn_mask = torch.ones(similarity.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            similarity = similarity.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            similarity = similarity + attn_mask
        # as fused kernels do, which take the softmax of half precision in single
        exact = torch.float64 if similarity.dtype == torch.float64 else torch.float32
        p = self._record(similarity.softmax(-1, dtype=exact))
        output = F.dropout(p, dropout_p).to(value.dtype) @ value
        if self.attentions and self.attentions[-1].probability is p:  # unless it was none, or its heads were merged
            self.attentions[-1] = replace(self.attentions[-1], query=query, key=key, value=value, output=output)
        return output

    def _softmax(self, *args: Any, function: Any = F.softmax, **kwargs: Any) -> Tensor:
        """A softmax as it is; one over the last dimension is recorded, since attention written out by hand ends in one."""
        p: Tensor = function(*args, **kwargs)
        dim = kwargs.get("dim")
        if "dim" not in kwargs and len(args) > 1:
            dim = args[1]
        if dim in (-1, p.ndim - 1):
            return self._record(p)
        return p

    def _record(self, p: Tensor) -> Tensor:
        """Record what may be attention, and return it such that all that follows depends on what was recorded.

        Which of it is attention over the image's tokens can only be told when all has run.
        """
        if p.ndim < 3 or not self._running_modules:
            return p
        if len(self.attentions) == self.silent:
            p = torch.zeros_like(p)
        # The model may be frozen, or run its trunk under a no_grad of its own: from here on gradients are recorded all the
        # same. What the model switched off it restores itself, and who runs the recorder restores the rest.
        if self.silent is None:
            torch.set_grad_enabled(True)
            if not p.requires_grad:
                p = p.detach().requires_grad_()
        merged = p.ndim == 3 and p.shape[0] % self.batch == 0  # batch and heads in one
        if merged:
            p = p.unflatten(0, (self.batch, -1))
        modules = tuple(name for name, _ in self._running_modules)
        self.attentions.append(RecordedAttention(modules[-1], modules, p))
        if merged:
            return p.flatten(0, 1)
        return p
