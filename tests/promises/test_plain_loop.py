"""Promise 1 without a Trainer: a loop written by hand is bit-identical with and without a Watcher. Able to fail."""

import random

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from nets import STRICT, Pictures, cam, trainer
from plain import differing, plain_net, train, watcher
from torch.utils.data import DataLoader

from lightning_cam import Batch, Numbers, Parts

pytestmark = STRICT

PARTS = Numbers(parts=Parts({"trunk": "trunk", "head": "head"}, every=1))
ALL = ["grad_cam", "activation_mean", "cam", {"smooth": {"method": "grad_cam"}}]


def twins(net, look_of, **options):
    """What differs between a run in which ``look_of(model)`` looks and one without it."""
    runs = []
    for looks in (True, False):
        model = plain_net(**net)
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        runs.append(train(model, *([look_of(model)] if looks else []), **options))
    return differing(*runs)


def watched(folder, **options):
    return lambda model: watcher(model, folder, **options).look


CASES = {
    "plain": (dict(), dict(), dict()),
    "dropout_and_batch_norm": (dict(dropout=0.3, norm=True), dict(method=ALL), dict()),
    "training_that_draws_from_every_generator": (dict(dropout=0.2), dict(method=ALL), dict(draw=True)),
    "a_dataset_that_draws_from_every_generator": (
        dict(dropout=0.2),
        dict(data=Pictures(augment=True), batch=Batch(per_class=1)),
        dict(draw=True),
    ),
    "concepts_and_a_layer_found_by_itself": (dict(dropout=0.3, norm=True), dict(layer=None, concepts=2), dict(draw=True)),
    "several_targets": (
        dict(dropout=0.3),
        dict(layer=["trunk", "relu"], target=["label", 1, {"top_k": {"k": 2}}]),
        dict(draw=True),
    ),
    "chunks_and_few_pictures": (
        dict(dropout=0.3, norm=True),
        dict(data=Pictures(20, augment=True), batch=Batch(samples=20, pictures=2), concepts=2),
        dict(draw=True),
    ),
    "what_moved_by_parts": (dict(dropout=0.3, norm=True), dict(numbers=PARTS), dict(draw=True)),
    "chunks_and_what_moved_by_parts": (
        dict(dropout=0.3, norm=True),
        dict(numbers=PARTS, method=ALL, data=Pictures(20), batch=Batch(samples=20, pictures=2)),
        dict(draw=True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plain_loop_is_bit_identical_with(case, tmp_path):
    net, watching, loop = CASES[case]
    assert twins(net, watched(tmp_path, **watching), **loop) == {}


@pytest.mark.parametrize("options", [dict(method=ALL), dict(numbers=PARTS)], ids=["methods", "parts"])
def test_a_fabric_run_is_bit_identical(options, tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1)
    assert twins(dict(dropout=0.3, norm=True), watched(tmp_path, **options), fabric=fabric, draw=True) == {}


GENERATORS = {"torch": lambda: torch.rand(()), "numpy": np.random.rand, "python": random.random}


@pytest.mark.parametrize("generator", GENERATORS)
def test_methods_metrics_observers_and_loggers_that_draw_leave_the_training_as_it_was(generator, tmp_path):
    drawn = []

    def draw():
        drawn.append(float(GENERATORS[generator]()))

    class Tracker:
        def log_image(self, key, images, step):
            draw()

        def log_metrics(self, metrics, step):
            draw()

    def drawing(seen):
        draw()
        return seen.activation.mean(1)

    def metric(heat, seen):
        draw()
        return heat.flatten(1).amax(1)

    def look_of(model):
        watching = watcher(model, tmp_path, method=drawing, metrics=[metric], loggers=[Tracker()])
        watching.observers.append(lambda result: draw())
        return watching.look

    assert twins(dict(dropout=0.3), look_of, draw=True) == {}
    assert len(drawn) == 4 * 6


def test_a_fabric_run_and_a_trainers_give_the_same_histories(tmp_path):
    """The same net, data, optimizer and order: every map of every look is bit-equal."""
    net, data = dict(norm=True), Pictures(24)
    model = plain_net(**net)
    watching = watcher(model, tmp_path / "fabric", data, method=ALL, batch=4)
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    watching.look(0)
    for epoch in range(3):
        for x, y in fabric.setup_dataloaders(DataLoader(data, 4)):
            optimizer.zero_grad()
            fabric.backward(torch.nn.functional.cross_entropy(wrapped(x), y))
            optimizer.step()
        watching.look(6 * (epoch + 1))

    class Lit(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = plain_net(**net)

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1, momentum=0.9)

    callback = cam(method=ALL, model="net", on_error="raise")
    run = trainer(tmp_path / "trainer", [callback], max_epochs=3, num_sanity_val_steps=0)
    lit = Lit()
    run.fit(lit, DataLoader(data, 4), DataLoader(data, 4))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), lit.net.parameters(), strict=True))
    assert list(callback.history) == list(watching.history) and len(watching.history) == len(ALL)
    for tag, history in watching.history.items():
        heats = callback.history[tag].heats
        assert len(heats) == 4 and all(torch.equal(a, b) for a, b in zip(heats, history.heats, strict=True))
        assert not torch.equal(heats[0], heats[-1])


# negative controls


def test_the_comparison_catches_a_look_in_training_mode():
    def look_of(model):
        return lambda step: model(Pictures().images)

    differences = twins(dict(dropout=0.3, norm=True), look_of)
    assert "buffer trunk.1.running_mean" in differences and "weight head.weight" in differences and "rng torch" in differences


@pytest.mark.parametrize(
    ("wrong", "noticed"),
    [
        (lambda model: torch.rand(()), "rng torch"),
        (lambda model: np.random.rand(), "rng numpy"),
        (lambda model: random.random(), "rng python"),
        (lambda model: model.eval(), "training head"),
        (lambda model: model.relu.register_forward_hook(lambda *args: None), "hooks relu"),
        (lambda model: model.zero_grad(), "grad head.weight"),
    ],
)
def test_the_comparison_catches(wrong, noticed):
    assert noticed in twins(dict(dropout=0.3), lambda model: lambda step: wrong(model))
