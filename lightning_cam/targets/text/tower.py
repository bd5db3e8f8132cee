"""Prompts to embeddings, by the text tower of a model. t prompts, n tokens, e embedding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.model.names import modules_by_name, named_as
from lightning_cam.model.wrapped import unwrapped
from lightning_cam.registry import did_you_mean
from lightning_cam.targets.logits import describe_shape

Tokens = Tensor | dict[str, Tensor]
Tower = nn.Module | str | Callable[[nn.Module, Tokens], Any] | None

_METHODS = ("get_text_features", "encode_text")
_EMBEDDINGS = ("text_embeds", "pooler_output")


@dataclass(frozen=True, eq=False)
class TextSource:
    """Where the embeddings of prompts come from.

    Attributes:
        prompts: words, or tokens.
        tokenizer: makes tokens of words.
        tower: encodes tokens; by default the model's own method for that.
    """

    prompts: Any
    tokenizer: Callable[..., Any] | None
    tower: Tower

    @property
    def single(self) -> bool:
        """Whether one prompt was asked for, so that results carry no target axis."""
        return isinstance(self.prompts, str)

    @property
    def words(self) -> list[str]:
        """The prompts' words; none where they are tokens."""
        if self.single:
            return [self.prompts]
        if is_words(self.prompts):
            return list(self.prompts)
        return []

    def __len__(self) -> int:
        if self.words:
            return len(self.words)
        return _count(_as_tensors(self.prompts))

    def encode(self, model: nn.Module) -> Float[Tensor, "t e"]:
        """The embeddings of the prompts.

        Raises:
            ValueError: for no text tower, tokens that are no tensor, and anything but an embedding for each prompt.
        """
        tokens = self.prompts
        if self.words:
            assert self.tokenizer is not None
            tokens = self.tokenizer(self.words)
        tokens = _as_tensors(tokens)
        if _count(tokens) != len(self):
            raise ValueError(
                f"The tokenizer gave {_count(tokens)} rows of tokens for {len(self)} prompts; expected one for each."
            )
        return _embeddings(_encoded(model, self.tower, tokens), len(self))


def is_words(prompts: Any) -> bool:
    """Whether prompts are words, one or several, and not tokens."""
    if isinstance(prompts, str):
        return True
    return isinstance(prompts, Sequence) and all(isinstance(prompt, str) for prompt in prompts)


def _encoded(model: nn.Module, tower: Tower, tokens: Tokens) -> Any:
    """What a tower gives for tokens."""
    if not isinstance(tower, nn.Module) and callable(tower):
        return tower(model, _moved(tokens, model))
    owner, encode = _find_tower(model, tower)
    tokens = _moved(tokens, owner)
    if isinstance(tokens, Tensor):
        return encode(tokens)
    return encode(**tokens)


def _find_tower(model: nn.Module, tower: nn.Module | str | None) -> tuple[nn.Module, Callable[..., Any]]:
    """The module that encodes, or that has the method for it, and what is called."""
    if isinstance(tower, nn.Module):
        return tower, tower
    modules = modules_by_name(model)
    if tower is None:
        tower = _usual_tower(model, modules)
    for name in named_as(tower, modules):
        return modules[name], modules[name]
    owner_name, _, method = tower.rpartition(".")
    owner: nn.Module | None = unwrapped(model)
    if owner_name:
        owner = next((modules[name] for name in named_as(owner_name, modules)), None)
    encode = getattr(owner, method, None)
    if owner is None or not callable(encode):
        near = did_you_mean(tower, [*_methods(modules), *filter(None, modules)])
        raise ValueError(f"{type(model).__name__} has no text tower {tower!r}.{near} {_advice(modules)}")
    return owner, encode


def _usual_tower(model: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    """The one method that models of two towers have for it, the model's own before those of its parts."""
    known = _methods(modules)
    if not known:
        raise ValueError(f"{type(model).__name__} has neither {' nor '.join(_METHODS)}. {_advice(modules)}")
    outermost = [name for name in known if name.count(".") == known[0].count(".")]
    if len(outermost) > 1:
        raise ValueError(
            f"{type(model).__name__} has several text towers: {', '.join(outermost)}. Name one in the target 'text': "
            f"'tower': {outermost[0]!r}."
        )
    return known[0]


def _methods(modules: Mapping[str, nn.Module]) -> list[str]:
    """The names of known methods, one a module, outermost first."""
    names = []
    for owner, module in modules.items():
        method = next((method for method in _METHODS if callable(getattr(module, method, None))), None)
        if method is not None:
            names.append(f"{owner}.{method}".lstrip("."))
    return sorted(names, key=lambda name: name.count("."))


def _advice(modules: Mapping[str, nn.Module]) -> str:
    """The line that names a tower."""
    likely = [name for name in modules if "text" in name.rpartition(".")[2]]
    line = "'tower': lambda model, tokens: model.encode_words(tokens)"
    if likely:
        line = f"'tower': {likely[0]!r}"
    return (
        f"Name what encodes tokens in the target 'text': {line}; it takes a module's or method's dotted name, or a callable "
        "(model, tokens) -> embeddings [t e]."
    )


def _as_tensors(tokens: Any) -> Tokens:
    try:
        if isinstance(tokens, Mapping):
            return {name: torch.as_tensor(value) for name, value in tokens.items()}
        return torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "Tokens are a tensor [t n] or a mapping of such tensors, so prompts are to be filled up to one length: "
            "'tokenizer': lambda prompts: tokenizer(prompts, padding='max_length', return_tensors='pt')."
        ) from error


def _count(tokens: Tokens) -> int:
    if isinstance(tokens, Tensor):
        return len(tokens)
    return len(next(iter(tokens.values())))


def _moved(tokens: Tokens, owner: nn.Module) -> Tokens:
    """The tokens where the owner's parameters are."""
    weight = next(owner.parameters(), None)
    if weight is None:
        return tokens
    if isinstance(tokens, Tensor):
        return tokens.to(weight.device)
    return {name: value.to(weight.device) for name, value in tokens.items()}


def _embeddings(answer: Any, count: int) -> Float[Tensor, "t e"]:
    """The embeddings in what a text tower gave: itself, or an entry of Hugging Face's outputs."""
    embedding = answer
    for name in _EMBEDDINGS:
        if isinstance(embedding, Tensor):
            break
        embedding = answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
    if isinstance(embedding, Tensor) and embedding.ndim == 2 and len(embedding) == count:
        return embedding
    got = describe_shape(answer)
    if isinstance(embedding, Tensor):
        got = describe_shape(embedding)
    raise ValueError(
        f"The text tower gave {got} for {count} prompts; expected embeddings ({count}, e). Take them out in the target 'text': "
        "'tower': lambda model, tokens: model.text_tower(tokens)[:, 0]."
    )
