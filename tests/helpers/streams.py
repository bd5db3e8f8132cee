"""Loaders whose samples have no index: a pipeline like DALI's or FFCV's, and a dataset that can only be iterated."""

from typing import Any

import torch
from nets import Net, Pictures
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info


class Pipeline:
    """Batches of noise out of one generator, all written into the same memory; an epoch goes on where the last one ended."""

    def __init__(self, batches: int = 4, size: int = 3, form: str = "tuple", generator: Any = None) -> None:
        self.generator = generator or torch.Generator().manual_seed(0)
        self.batches, self.form = batches, form
        self.pixels, self.labels = torch.empty(size, 3, 8, 8), torch.arange(size) % 3
        self.given: list[Tensor] = []  # copies of all that it ever handed out
        self.left = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> "Pipeline":
        self.left = self.batches
        return self

    def __next__(self) -> Any:
        if not self.left:
            raise StopIteration
        self.left -= 1
        self.pixels.uniform_(generator=self.generator)
        self.given.append(self.pixels.clone())
        if self.form == "tuple":
            return self.pixels, self.labels
        return {"image": self.pixels, "label": self.labels, "name": [f"{len(self.given)}.{i}" for i in range(len(self.labels))]}


class Stream(IterableDataset):
    """The first pictures in their order, shared out among workers; ``moving`` goes on where the last epoch ended."""

    def __init__(self, n: int = 12, moving: bool = False, start: int = 0) -> None:
        self.pictures = Pictures(max(4 * n, 1))
        self.n, self.moving, self.start = n, moving, start
        self.opened = 0

    def __iter__(self) -> Any:
        self.opened += 1
        begin = self.start
        if self.moving:
            self.start = (self.start + self.n) % len(self.pictures)
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from (self.pictures[(begin + i) % len(self.pictures)] for i in range(first, self.n, step))


class Logbook(Net):
    """Writes down what validation and test see too."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.write("validation", batch)
        super().validation_step(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.write("test", batch)
        super().test_step(batch, batch_idx, dataloader_idx)

    def write(self, stage: str, batch: Any) -> None:
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        self.seen.append(f"{stage} {images.double().sum().item()!r}")
