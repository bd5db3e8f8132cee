"""Words as targets: the cosine of an image's embedding and each prompt's. b batch, t prompts, n tokens, e embedding."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.registry import TARGETS, Registry
from lightning_cam.targets.embedding import embeddings, storable
from lightning_cam.targets.target import Choice
from lightning_cam.targets.text.tower import TextSource, Tower, is_words

_LINE = "target={'text': {'prompts': ['a cat', 'watermark'], 'tokenizer': tokenizer}}"


@TARGETS.register
def text(
    *,
    prompts: Any = None,
    tokenizer: Any = None,
    tower: Tower = None,
    frozen: bool = True,
    names: Sequence[str] | None = None,
) -> "Prompts":
    """The cosine of the image's embedding and each prompt's, ``f . r / (|f| |r|)``, -1 to 1: one target a prompt.

    For models of two towers (CLIP, SigLIP, open_clip). The image's embedding is the model's output, [b e]; the prompts' come
    out of the model's own text tower. A prompt need be no class: "watermark" and "ruler" have a map too.

    Frozen, the prompts' embeddings are those of the first look and stay with the run and its checkpoints, so that maps tell of
    the image tower alone; looks at other samples, of validate and test runs, encode anew. Live, they are encoded at every look.

    Source: Radford et al. 2021 (CLIP), section 2.3, arXiv 2103.00020, without its temperature.

    Args:
        prompts: words, one or several; or their tokens, [t n], or a mapping of such tensors that is passed by keyword.
        tokenizer: ``prompts -> tokens``, a callable or an import path; needed for words.
        tower: what encodes tokens: a module, the dotted name of a module or method of the model, or a callable ``(model,
            tokens) -> [t e]``; by default the model's ``get_text_features`` or ``encode_text``.
        frozen: whether the embeddings stay those of the first look.
        names: what captions call the prompts; by default the words.

    Raises:
        ValueError: for words without a tokenizer, no text tower, or embeddings that do not fit the image's.
    """
    if prompts is None or (isinstance(prompts, str | Sequence) and not len(prompts)):
        raise ValueError(f"The target 'text' needs prompts: {_LINE}.")
    if is_words(prompts) and tokenizer is None:
        raise ValueError(
            f"The prompts {prompts!r} are words, and a text tower reads tokens. Name what makes them, a callable or import "
            f"path prompts -> tokens: {_LINE}; or give tokens as prompts."
        )
    if tokenizer is not None:
        tokenizer = Registry[Callable[..., Any]]("tokenizer").find(tokenizer).function
    source = TextSource(prompts, tokenizer, tower)
    count = len(source)
    if names is None:
        names = source.words or [f"prompt {i}" for i in range(count)]
    if len(names) != count:
        raise ValueError(f"text(names=...): {len(names)} names for {count} prompts; expected one for each.")
    return Prompts(source, tuple(names), frozen)


class Prompts:
    """Cosines with prompts, whose embeddings the model's text tower gives.

    Attributes:
        source: where the embeddings come from.
        names: what the prompts are called.
        frozen: whether the embeddings stay.
        embedding: those of the prompts, [t e], on the CPU; None before the first look.
    """

    def __init__(self, source: TextSource, names: tuple[str, ...], frozen: bool) -> None:
        self.source = source
        self.names = names
        self.frozen = frozen
        self.embedding: Tensor | None = None
        self.__name__ = "text"

    def prepare(self, model: nn.Module) -> None:
        """Encode the prompts, unless they are frozen and encoded."""
        if self.embedding is None or not self.frozen:
            self.embedding = storable(self.source.encode(model))

    def choose(self, output: Any, label: Tensor | None, head: Tensor | None) -> Choice:
        """The prompts' embeddings, for each sample."""
        if self.embedding is None:
            raise ValueError("The prompts are not encoded yet: call prepare(model) of the target 'text' before.")
        image = embeddings(output)
        if image.shape[1] != self.embedding.shape[1]:
            raise ValueError(
                f"The images' embeddings are {tuple(image.shape)} and the prompts' {tuple(self.embedding.shape)}; expected one "
                "space of both. Name the images' with output='image_embeds' or wherever they are, or the prompts' with the "
                "option 'tower' of the target 'text'."
            )
        reference = self.embedding.to(image.device).expand(len(image), -1, -1)
        return Choice((reference,), names=self.names, single=self.source.single)

    def score(self, output: Any, choice: Choice) -> Float[Tensor, "b t"]:
        """``f . r / (|f| |r|)``, of single precision or better: of bfloat16's steps there are a few hundred only."""
        (reference,) = choice.parts
        image = embeddings(output)
        image = image.to(torch.promote_types(image.dtype, reference.dtype))
        return F.cosine_similarity(image[:, None], reference.to(image.dtype), dim=2)

    def anew(self) -> "Prompts":
        """The same prompts for another run or other samples, to be encoded again."""
        return Prompts(self.source, self.names, self.frozen)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold so that a resumed run goes on with the same embeddings."""
        return {"prompts": list(self.names), "embedding": self.embedding}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the embeddings of the run that is resumed, if they are of the same prompts."""
        if state.get("prompts") == list(self.names):
            self.embedding = state["embedding"]
