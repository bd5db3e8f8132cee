"""A small model of two towers, image and text, and a tokenizer written by hand."""

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROMPTS = ["a cat", "watermark", "ruler"]
LENGTH = 12


def tokenize(prompts: list[str]) -> Tensor:
    """A number a letter, filled up with zeros."""
    rows = [[ord(letter) % 32 for letter in prompt[:LENGTH]] for prompt in prompts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


def tokenize_by_name(prompts: list[str]) -> dict[str, Tensor]:
    """The same with a mask, as Hugging Face's tokenizers give them."""
    tokens = tokenize(prompts)
    return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}


class TextTower(nn.Module):
    """Letters, averaged where the mask says so."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.letters = nn.Embedding(32, width)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mean = (self.letters(input_ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.norm(self.drop(mean))


class TwoTowers(nn.Module):
    """The image's embedding; ``encode_text`` gives the prompts'."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU())
        self.project = nn.Linear(6, 4)
        self.text_tower = TextTower()
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.features(images).mean((2, 3)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text_tower(tokens)


class Contrastive(L.LightningModule):
    """Fine-tuned as CLIP is: an image and the name of its class belong together."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.towers = TwoTowers().float().train()
        self.towers.text_tower.drop.p = dropout

    def forward(self, images: Tensor) -> Tensor:
        return self.towers(images)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, classes = batch
        text = F.normalize(self.towers.encode_text(tokenize(PROMPTS)), dim=1)
        return F.cross_entropy(10 * F.normalize(self(images), dim=1) @ text.T, classes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)
