"""Promise 2: the same images, with the same classes, at every look."""

import random

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from nets import SIDE, STRICT, Net, Pictures, Recorder, cam, fit, loader, trainer
from torch.utils.data import DataLoader, Subset
from watching import batches

from lightning_cam import Batch

pytestmark = STRICT


def all_equal(tensors):
    return len(tensors) > 1 and all(torch.equal(tensors[0], other) for other in tensors)


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffled_and_augmented_loaders_give_the_same_pixels_at_every_look(workers, tmp_path):
    val = loader(shuffle=True, augment=True, workers=workers)
    found = batches(tmp_path, val, seen_by_model=True, max_epochs=3)
    assert len(found) == 4 and all_equal(found)


def test_the_same_pixels_come_back_in_a_run_with_other_random_numbers(tmp_path):
    def draw(run, module):
        return torch.rand(3), np.random.rand(3), random.random()

    other = Recorder(draw, "on_train_start")
    first = batches(tmp_path / "a", loader(augment=True), max_epochs=1)[0]
    second = batches(tmp_path / "b", loader(augment=True), before=[other], max_epochs=1)[0]
    assert other.kept and torch.equal(first.images, second.images)


@pytest.mark.parametrize("options", [dict(), dict(limit_val_batches=0)])
def test_a_forward_that_asks_for_the_stage_sees_a_validation(options, tmp_path):
    class Asks(Net):
        def forward(self, x):
            if len(x) == 5:  # only the callback's batch is of five
                stages.append((self.trainer.training, self.trainer.validating, self.training))
            return super().forward(x)

    stages: list = []
    fit(tmp_path, cam(batch=5, metrics=[]), Asks(), **options)
    assert len(stages) == 3 and set(stages) == {(False, True, False)}


def test_samples_are_pinned_by_index_whatever_the_sampler_does(tmp_path):
    class Backwards(torch.utils.data.Sampler):
        def __iter__(self):
            return iter(range(11, -1, -1))

        def __len__(self):
            return 12

    data = Pictures()
    found = batches(tmp_path, DataLoader(data, 3, sampler=Backwards()))[0]
    assert torch.equal(found.images, data.images[:4]) and found.labels.tolist() == data.targets[:4]
    assert found.names == ("#0", "#1", "#2", "#3") and found.origin == "validation set, indices 0, 1, 2, 3"


@pytest.mark.parametrize("layer", ["relu", None])
def test_a_forward_that_writes_into_its_input_does_not_change_the_batch(layer, tmp_path):
    class Overwrites(Net):
        def forward(self, x):
            x -= 0.25
            return super().forward(x)

    found = batches(tmp_path, net=Overwrites(), layer=layer, max_epochs=3)
    assert len(found) == 4 and all(torch.equal(one.images, Pictures().images[:4]) for one in found)


def test_a_transfer_hook_that_writes_into_the_batch_does_not_change_one_handed_in(tmp_path):
    class Normalizes(Net):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            batch[0].mul_(0.5)
            return batch

    given = [torch.rand(4, 3, SIDE, SIDE), torch.tensor([0, 1, 2, 0])]
    pixels = given[0].clone()
    first = batches(tmp_path, net=Normalizes(), callback_batch=Batch(given))[0].images
    second = batches(tmp_path, net=Normalizes(), callback_batch=Batch(given))[0].images
    assert torch.equal(given[0], pixels) and torch.equal(first, pixels * 0.5) and torch.equal(first, second)


def test_device_augmentation_guarded_by_trainer_training_is_not_applied(tmp_path):
    found = batches(tmp_path, net=Net(augment_on_device=True), seen_by_model=True)
    assert all_equal(found) and torch.equal(found[0], Pictures().images[:4])
    unvalidated = batches(tmp_path, net=Net(augment_on_device=True), train=loader(), limit_val_batches=0)
    assert torch.equal(unvalidated[0].images, Pictures().images[:4])


def test_own_generators_of_a_dataset_are_left_where_they_were(tmp_path):
    class Own(Pictures):
        def __init__(self):
            super().__init__()
            self.numpy, self.torch = np.random.default_rng(0), torch.Generator().manual_seed(0)

        def __getitem__(self, i):
            image, c = super().__getitem__(i)
            return image * float(self.numpy.random()) * torch.rand((), generator=self.torch), c

    ends = []
    for callback in (cam(), None):
        data = Own()  # training and validation share it, as after random_split
        train = DataLoader(Subset(data, range(8)), 4, shuffle=True)
        run = fit(tmp_path, callback, train=train, val=DataLoader(Subset(data, range(8, 12)), 2))
        ends.append(run.model.state_dict() if run.model else run.lightning_module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


class Module(L.LightningDataModule):
    """Has a collate function and transfer hooks of its own."""

    class_names = ("left", "middle", "right")

    def __init__(self):
        super().__init__()
        self.calls = []

    def train_dataloader(self):
        return DataLoader(Pictures(), 4, collate_fn=self.collate)

    val_dataloader = train_dataloader

    def collate(self, samples):
        return {"image": torch.stack([image for image, _ in samples]) * 0.5, "label": torch.tensor([c for _, c in samples])}

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("before")
        return {**batch, "image": batch["image"] + 0.25}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("after")
        return {**batch, "image": batch["image"] * 0.5}


def test_a_datamodules_collate_and_transfer_hooks_are_used(tmp_path):
    callback, found = cam(batch=[1, 5]), []
    callback.watcher.observers.append(lambda result: found.append(result.batch))
    data = Module()
    trainer(tmp_path, [callback]).fit(Net(), datamodule=data)
    assert torch.equal(found[0].images, (Pictures().images[[1, 5]] * 0.5 + 0.25) * 0.5)
    assert found[0].classes == ("class_0", "class_1", "class_2") and found[0].labels.tolist() == [1, 2]


def test_a_datamodules_validation_loader_is_asked_for_where_there_is_none_yet(tmp_path):
    callback = cam()
    options = dict(check_val_every_n_epoch=2, num_sanity_val_steps=0, max_epochs=2)
    run = trainer(tmp_path, [callback], **options)
    run.fit(Net(), datamodule=Module())
    assert callback.history["relu/grad_cam"].titles == ["start", "2"]
