"""Two epochs of a LightningModule that others wrote, without the callback and with it, and the first map by hand.

b batch, n tokens, c channels, u v map.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from compare import close_and_alive
from nets import trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_cam import CAMCallback
from lightning_cam.record import Moment, Record

Run = Callable[[Path, list[Any]], nn.Module]


class Samples(Dataset):
    """Made one by one by a function of their index."""

    def __init__(self, make: Callable[[int], Any], n: int = 4) -> None:
        self.make, self.n = make, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return self.make(i)


def loaders(make: Callable[[int], Any]) -> tuple[DataLoader, DataLoader]:
    """Two batches to train on, shuffled, and one to validate, of the same four samples."""
    return DataLoader(Samples(make), 2, shuffle=True), DataLoader(Samples(make), 4)


def picture(i: int, *shape: int) -> Tensor:
    """Waves and noise with a brighter patch, [*shape h w], whose place tells the class, i modulo 3."""
    shape = shape or (3, 64, 64)
    own = torch.Generator().manual_seed(i)
    h, w = shape[-2:]
    waves = torch.sin(torch.arange(h)[:, None] / 5 + i) * torch.cos(torch.arange(w) / 7)
    x = 0.3 + 0.15 * waves + 0.1 * torch.rand(shape, generator=own)
    x[(..., *patch(i, h, w))] += 0.4
    return x


def patch(i: int, h: int = 64, w: int = 64) -> tuple[slice, slice]:
    """Where it is."""
    left = (i % 3) * w // 4
    return slice(h // 4, 3 * h // 4), slice(left, left + w // 3)


@dataclass
class Start:
    """What a run without the callback began with.

    Attributes:
        batch: the first validation batch as Lightning hands it to the module, moved, cast and transformed.
        weights: the module's, before the first optimizer step.
    """

    batch: Any = None
    weights: dict[str, Tensor] | None = None


def witness(start: Start, tree: Any = L) -> Any:
    """A callback of whichever Lightning that writes down with what a run begins."""

    class Witness(tree.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            start.weights = deepcopy(module.state_dict())

        def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, *places: int) -> None:
            if start.batch is None:
                start.batch = deepcopy(batch)

    return Witness()


@dataclass
class Watched:
    """Two runs of the same seed, of which one was watched.

    Attributes:
        module: the one trained without the callback, as it was before its first step.
        batch: the first validation batch, as that module was given it.
        records: those of every look of the other run.
    """

    module: Any
    batch: Any
    records: list[Record]
    folder: Path

    @property
    def layer(self) -> str:
        """The name of the layer, as the callback gives it."""
        return self.records[0].layer


def fit_twice(folder: Path, run: Run, callback: CAMCallback, tree: Any = L) -> Watched:
    """Run without the callback, then with it; and see that it looked three times and left no trace.

    Args:
        folder: for both runs.
        run: makes a module, fits it two epochs in a folder with these callbacks, and gives it back; the same at every call.
        callback: draws the first validation batch.
        tree: the Lightning that the module is of.
    """
    start = Start()
    tree.seed_everything(0, verbose=False)
    plain = run(folder / "without", [witness(start, tree)])
    looks: list[tuple[Moment, list[Record]]] = []
    callback.watcher.observers.append(lambda result: looks.append((result.moment, list(result.records))))
    tree.seed_everything(0, verbose=False)
    watched = run(folder / "with", [callback])

    assert start.weights is not None
    assert [moment.baseline for moment, _ in looks] == [True, False, False]
    assert_same_weights(plain, watched)
    assert any(not torch.equal(value, start.weights[name]) for name, value in plain.state_dict().items())  # it has learnt
    records = [record for _, of_look in looks for record in of_look]
    for record in records:
        maps = record.heat.flatten(0, 1)[record.shown]
        assert maps.isfinite().all(), record.tag
        assert maps.any(), record.tag
    for record in records[: len(looks[0][1])]:
        assert_drawn(folder / "with", f"cam/{record.tag}")
    plain.load_state_dict(start.weights)
    return Watched(plain.eval(), start.batch, records, folder / "with")


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    """Bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # of thresholds that are not set yet, both are NaN
        assert torch.equal(value.isnan(), theirs[name].isnan()), name
        assert torch.equal(value.nan_to_num(), theirs[name].nan_to_num()), name


def assert_drawn(folder: Path, tag: str) -> None:
    """A sheet for each look, and the filmstrip."""
    (filmstrip,) = folder.rglob(f"{tag}/filmstrip.jpg")
    sheets = list(filmstrip.parent.glob("step_*.jpg"))
    assert len(sheets) == 3
    assert all(path.stat().st_size > 1000 for path in [filmstrip, *sheets])


def fitted(module: Any, data: Any, folder: Path, callbacks: list[Any], **options: Any) -> Any:
    """A module after two epochs on loaders or a datamodule."""
    run = trainer(folder, callbacks, **options)
    if isinstance(data, L.LightningDataModule):
        run.fit(module, datamodule=data)
    else:
        run.fit(module, *data)
    return module


def outputs_of(layer: nn.Module, run: Callable[[], Any]) -> tuple[list[Any], Any]:
    """What a layer returns at each call of a run, and what the run returns."""
    outputs: list[Any] = []
    handle = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        result = run()
    finally:
        handle.remove()
    return outputs, result


def by_hand(layer: nn.Module, run: Callable[[], Tensor], read: Callable[[Tensor], Tensor] = lambda a: a) -> Tensor:
    """Grad-CAM of scores [b] at a layer, as the paper has it: channels weighted by their gradient's mean.

    Args:
        layer: is called once.
        run: gives the scores.
        read: brings what the layer returns, or its gradient, to [b c *map].
    """
    with torch.enable_grad():
        (a,), score = outputs_of(layer, run)
        (g,) = torch.autograd.grad(score.sum(), a)
    a, g = read(a.detach()), read(g)
    sides = tuple(range(2, a.ndim))
    return (g.mean(sides, keepdim=True) * a).sum(1)


def ending(model: nn.Module, end: str) -> nn.Module:
    """The one module whose name ends so, whatever is around it."""
    (layer,) = [module for name, module in model.named_modules() if f".{name}".endswith(end)]
    return layer


def tokens(*grid: int, prefix: int = 0) -> Callable[[Tensor], Tensor]:
    """Reads tokens [b n c] as maps [b c *grid], without those in front."""
    return lambda a: a[:, prefix:].mT.unflatten(2, grid)


def channels_last(a: Tensor) -> Tensor:
    """Reads [b *map c] as [b c *map]."""
    return a.movedim(-1, 1)


def of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Each sample's logit of its label, [b]."""
    return logits.gather(1, labels[:, None])[:, 0]


def assert_by_hand(
    watched: Watched,
    layer: nn.Module,
    run: Callable[[], Tensor],
    read: Callable[[Tensor], Tensor] = lambda a: a,
    tolerance: float = 1e-10,
) -> None:
    """The maps of the first look are those written by hand, of the same batch and weights."""
    heat = watched.records[0].heat
    close_and_alive(heat[:, 0].cpu(), by_hand(layer, run, read), tolerance)
