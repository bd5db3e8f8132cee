"""A small detector by queries, in the shapes of RF-DETR: a dict of logits and boxes of every query."""

import torch
from torch import Tensor, nn


class QueryNet(nn.Module):
    """Each query looks at the places it likes, and says class and box."""

    def __init__(self, k: int = 3, queries: int = 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU())
        self.transformer = nn.Module()
        self.transformer.decoder = nn.Sequential(nn.Linear(6, 6))
        self.queries = nn.Parameter(3 * torch.randn(queries, 6))
        self.class_embed = nn.Linear(6, k)
        self.bbox_embed = nn.Linear(6, 4)
        nn.init.normal_(self.class_embed.weight, std=2.0)
        nn.init.constant_(self.class_embed.bias, -2.0)  # as a focal loss begins
        nn.init.normal_(self.bbox_embed.weight, std=0.3)
        # where each query looks for its box; tests move it
        self.register_buffer("anchor", torch.logit(torch.linspace(0.2, 0.8, queries))[:, None] * torch.ones(4))
        self.double().eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.tail(self.backbone(images))

    def tail(self, a: Tensor) -> dict[str, Tensor]:
        tokens = a.flatten(2).mT
        shares = (self.queries @ tokens.mT).softmax(2)
        rows = self.transformer.decoder(shares @ tokens)
        boxes = (self.bbox_embed(rows) + self.anchor).sigmoid()
        return {"pred_logits": self.class_embed(rows), "pred_boxes": boxes, "aux_outputs": []}
