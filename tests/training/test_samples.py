"""Samples of a run whose loaders have none by index: out of what passes by, in every kind of run."""

import logging

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from nets import STRICT, Net, Pictures, cam, fit, loader, trainer
from streams import Logbook, Pipeline, Stream
from torch.utils.data import DataLoader
from watching import batches, watched

from lightning_cam import Batch, Schedule

pytestmark = STRICT

PICTURES = Pictures().images


@pytest.fixture
def words(caplog):
    """What the callback says in a run."""
    caplog.set_level(logging.INFO)
    return lambda: [text for text in (record.getMessage() for record in caplog.records) if "samples by index" in text]


LOADERS = {
    "pipeline": Pipeline,
    "stream": lambda: DataLoader(Stream(), 3),
    "stream of two workers": lambda: DataLoader(Stream(), 3, num_workers=2),
}


@pytest.mark.parametrize(("kind", "count"), [("pipeline", 2), ("pipeline", 3), ("stream", 5), ("stream of two workers", 5)])
def test_the_first_that_pass_by_in_the_sanity_check_are_watched_all_the_run(kind, count, tmp_path):
    found = batches(tmp_path, LOADERS[kind](), callback_batch=count, max_epochs=3)
    first = torch.cat([images.clone() for images, _ in LOADERS[kind]()])[:count]
    assert len(found) == 4 and all(torch.equal(batch.images, first) for batch in found)
    assert {batch.origin for batch in found} == {"the first of the validation set that passed by (it has no index)"}


def test_the_baseline_comes_before_the_first_step_where_there_is_a_sanity_check(tmp_path, words):
    callback, net = cam(batch=5), Net()
    moments, weights = watched(callback), []
    callback.watcher.observers.append(lambda result: weights.append(net.head.weight.detach().clone()))
    before = net.head.weight.detach().clone()
    fit(tmp_path, callback, net, val=Pipeline())
    assert [moment.title for moment in moments] == ["before training", "epoch 1", "epoch 2"]
    assert callback.history["relu/grad_cam"].titles == ["start", "1", "2"]
    assert torch.equal(weights[0], before) and not torch.equal(weights[1], before)
    assert words() == [
        "CAMCallback: the validation set has no samples by index: watching the first 5 that passed by, "
        "from 'before training' on"
    ]


def test_without_a_sanity_check_the_first_look_is_after_training_and_says_so(tmp_path, words):
    callback = cam(batch=5)
    moments = watched(callback)
    fit(tmp_path, callback, val=Pipeline(), num_sanity_val_steps=0)
    assert [(moment.title, moment.baseline) for moment in moments] == [("epoch 1", False), ("epoch 2", False)]
    assert callback.history["relu/grad_cam"].titles == ["1", "2"]
    waiting, watching = words()
    assert "none has passed by yet, so the first look is at the end of the first validation" in waiting
    assert watching.endswith("watching the first 5 that passed by, from 'epoch 1' on")


def test_the_lines_it_names_for_a_look_before_the_first_step_work(tmp_path, words):
    fit(tmp_path, cam(), val=Pipeline(), num_sanity_val_steps=0)
    assert "Trainer(num_sanity_val_steps=2), or hand a batch in, Batch(samples=batch)." in words()[0]
    batch = next(iter(Pipeline()))
    for options, run in (
        (dict(), dict(num_sanity_val_steps=2)),
        (dict(batch=Batch(samples=batch)), dict(num_sanity_val_steps=0)),
    ):
        callback = cam(**options)
        fit(tmp_path, callback, val=Pipeline(), **run)
        assert callback.history["relu/grad_cam"].titles == ["start", "1", "2"]


def test_fewer_than_asked_for_are_told_once(tmp_path, words):
    found = batches(tmp_path, Pipeline(), callback_batch=8)
    assert [len(batch) for batch in found] == [6, 6, 6]  # two batches of the sanity check
    assert len(words()) == 1 and "watching the first 6 that passed by, of 8 asked for, from" in words()[0]


def test_a_run_without_a_baseline_watches_what_passed_by_first(tmp_path):
    callback = cam(batch=8, schedule=Schedule(every_n_epochs=2, baseline=False))
    shown: list = []
    callback.watcher.observers.append(lambda result: shown.append(result.batch.images))
    val = Pipeline()
    fit(tmp_path, callback, val=val, max_epochs=4)
    assert callback.history["relu/grad_cam"].titles == ["2", "4"]
    sanity = torch.cat(val.given[:2])
    assert torch.equal(shown[0], sanity) and torch.equal(shown[1], sanity)


def test_a_run_without_baseline_and_sanity_check_watches_what_passes_by_in_the_epoch_of_its_first_look(tmp_path):
    callback = cam(batch=8, schedule=Schedule(every_n_epochs=2, baseline=False))
    shown: list = []
    callback.watcher.observers.append(lambda result: shown.append(result.batch.images))
    val = Pipeline()
    fit(tmp_path, callback, val=val, max_epochs=4, num_sanity_val_steps=0)
    second_epoch = torch.cat(val.given[4:])[:8]
    assert torch.equal(shown[0], second_epoch) and torch.equal(shown[1], second_epoch)


def test_without_validation_the_first_training_batch_is_watched_before_its_step(tmp_path, words):
    callback, net = cam(batch=8), Net()
    weights: list = []
    callback.watcher.observers.append(lambda result: weights.append(net.head.weight.detach().clone()))
    before, train = net.head.weight.detach().clone(), Pipeline(size=4)
    shown: list = []
    callback.watcher.observers.append(lambda result: shown.append(result.batch.images))
    moments = watched(callback)
    fit(tmp_path, callback, net, train=train, limit_val_batches=0)
    assert [moment.title for moment in moments] == ["before training", "epoch 1", "epoch 2"]
    assert torch.equal(weights[0], before) and not torch.equal(weights[1], before)
    assert all(torch.equal(images, train.given[0]) for images in shown)
    assert words() == [
        "CAMCallback: the training set has no samples by index: watching the first 4 that passed by, of 8 asked for, "
        "from 'before training' on"
    ]


def test_without_validation_and_baseline_as_many_training_samples_as_asked_for_are_watched(tmp_path):
    callback = cam(batch=6, schedule=Schedule(baseline=False))
    shown: list = []
    callback.watcher.observers.append(lambda result: shown.append(result.batch.images))
    train = Pipeline(size=4)
    fit(tmp_path, callback, train=train, limit_val_batches=0)
    assert len(shown) == 2 and all(torch.equal(images, torch.cat(train.given)[:6]) for images in shown)


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("entry", ["validate", "test"])
def test_validate_and_test_watch_what_passes_by(entry, inference, tmp_path):
    callback, pipeline = cam(batch=5, on_error="raise"), Pipeline()
    shown: list = []
    callback.watcher.observers.append(lambda result: shown.append((result.moment.title, result.batch.images)))
    getattr(trainer(tmp_path, [callback], inference_mode=inference), entry)(Net(), pipeline, verbose=False)
    ((title, images),) = shown
    assert title == entry and torch.equal(images, torch.cat(pipeline.given)[:5])


def test_a_validate_after_a_fit_watches_its_own_loader(tmp_path):
    callback = cam(batch=3, on_error="raise")
    shown: list = []
    callback.watcher.observers.append(lambda result: shown.append(result.batch.images))
    run, net = trainer(tmp_path, [callback]), Net()
    run.fit(net, loader(24, size=4), loader())
    run.validate(net, pipeline := Pipeline(), verbose=False)
    run.validate(net, DataLoader(Pictures(24).images.flip(0)[:, None].squeeze(1), 4, collate_fn=labelled), verbose=False)
    assert torch.equal(shown[2], PICTURES[:3]) and torch.equal(shown[3], pipeline.given[0])
    assert torch.equal(shown[4], Pictures(24).images.flip(0)[:3])


def labelled(samples):
    return torch.stack(samples), torch.zeros(len(samples), dtype=torch.long)


def test_a_fast_dev_run_looks_at_two(tmp_path):
    callback = cam(batch=5, on_error="raise")
    sizes: list = []
    callback.watcher.observers.append(lambda result: sizes.append(len(result.batch)))
    fit(tmp_path, callback, val=Pipeline(), fast_dev_run=3)
    assert sizes == [2] and not list(tmp_path.rglob("*.*"))


# several loaders


@pytest.mark.parametrize("which", [1, "night"])
@pytest.mark.parametrize("sanity", [0, 2])
def test_of_several_validation_loaders_the_one_named_is_watched(which, sanity, tmp_path):
    day, night = Pipeline(), Pipeline(generator=torch.Generator().manual_seed(1))
    val = {"day": day, "night": night} if which == "night" else [day, night]
    found = batches(tmp_path, val, callback_batch=Batch(4, loader=which), num_sanity_val_steps=sanity)
    assert len(found) == (3 if sanity else 2) and all(torch.equal(b.images, torch.cat(night.given)[:4]) for b in found)
    assert found[0].origin == f"the first of the validation set {which!r} that passed by (it has no index)"


def test_a_loader_without_an_index_beside_one_that_has_one(tmp_path):
    val = [loader(), pipeline := Pipeline()]
    assert batches(tmp_path / "a", val)[0].origin == "validation set 0, indices 0, 1, 2, 3"
    pipeline.given.clear()
    found = batches(tmp_path / "b", val, callback_batch=Batch(4, loader=1))
    assert torch.equal(found[0].images, torch.cat(pipeline.given)[:4])


class SideBySide(Net):
    """Is given a batch of each loader at once."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch["b"], batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch["b"], batch_idx)


def test_of_loaders_gone_through_side_by_side_the_one_named_is_watched(tmp_path):
    def pair():
        return {"a": Pipeline(), "b": Pipeline(generator=torch.Generator().manual_seed(1))}

    val, train = pair(), pair()
    both = CombinedLoader(val, "max_size")
    found = batches(tmp_path / "val", both, SideBySide(), train=train, callback_batch=Batch(3, loader="b"))
    assert all(torch.equal(batch.images, val["b"].given[0]) for batch in found)
    options = dict(train=train, callback_batch=Batch(3, loader=1), limit_val_batches=0)
    first = len(train["b"].given)
    found = batches(tmp_path / "train", both, SideBySide(), **options)
    assert len(found) == 3 and all(torch.equal(batch.images, train["b"].given[first]) for batch in found)


def test_what_a_transfer_hook_made_of_several_batches_is_read_as_it_is(tmp_path):
    class Merged(SideBySide):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return torch.cat([batch["a"][0], batch["b"][0]]), torch.cat([batch["a"][1], batch["b"][1]])

        def training_step(self, batch, batch_idx):
            return Net.training_step(self, batch, batch_idx)

    train = {"a": Pipeline(), "b": Pipeline(generator=torch.Generator().manual_seed(1))}
    found = batches(tmp_path, "none", Merged(), train=train, callback_batch=6)
    assert torch.equal(found[0].images, torch.cat([train["a"].given[0], train["b"].given[0]]))


# how a batch gets where it is


def test_what_is_watched_has_been_through_the_transfer_hooks_once(tmp_path):
    class Halves(Net):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] * 0.5, batch[1]

    pipeline = Pipeline()
    found = batches(tmp_path, pipeline, Halves(), callback_batch=3)
    assert all(torch.equal(batch.images, pipeline.given[0] * 0.5) for batch in found)


def test_a_step_that_writes_into_its_batch_does_not_change_what_is_watched(tmp_path):
    class Overwrites(Net):
        def validation_step(self, batch, batch_idx):
            batch[0].zero_()

    pipeline = Pipeline()
    found = batches(tmp_path, pipeline, Overwrites(), callback_batch=3)
    assert all(torch.equal(batch.images, pipeline.given[0]) for batch in found)


def test_the_whole_batch_is_watched_with_what_the_model_asks_for_by_name(tmp_path):
    class Named(Net):
        def forward(self, image, label):
            return super().forward(image) + label[:, None]

        def loss(self, batch):
            return self(batch["image"], batch["label"]).square().mean()

    train, val = Pipeline(size=4, form="dict"), Pipeline(form="dict")
    found = batches(tmp_path, val, Named(), train=train, callback_batch=Batch(5, picture="image"))
    assert found[0].labels.tolist() == [0, 1, 2, 0, 1]
    assert found[0].inputs.batch["name"] == ["1.0", "1.1", "1.2", "2.0", "2.1"]
    assert torch.equal(found[0].pictures, torch.cat(val.given)[:5])


def test_class_names_and_normalization_are_those_of_the_stream(tmp_path):
    from torchvision.transforms import v2

    class Named(Stream):
        classes = ("left", "middle", "right")
        transform = v2.Normalize([0.5] * 3, [0.25] * 3)

    found = batches(tmp_path, DataLoader(Named(), 3))
    assert found[0].classes == ("left", "middle", "right") and found[0].normalization == ((0.5,) * 3, (0.25,) * 3)


# what is refused, and what fails


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("choice", [dict(samples=[0, 5]), dict(per_class=2)])
def test_a_choice_by_index_or_class_is_refused_before_anything_is_watched_and_the_lines_it_names_work(choice, sanity, tmp_path):
    net, val = Logbook(), DataLoader(stream := Stream(), 3)
    with pytest.raises(
        ValueError, match=r"the validation set has no samples by index\. Write Batch\(samples=16\).*Batch\(samples=batch\)"
    ):
        fit(tmp_path, cam(batch=choice), net, val=val, num_sanity_val_steps=sanity)
    assert net.seen == [] and stream.opened == 0
    batch = next(iter(val))
    for line in (Batch(samples=16), Batch(samples=batch)):
        assert batches(tmp_path, DataLoader(Stream(), 3), callback_batch=line)


def test_a_loader_in_place_of_a_batch_is_refused_and_the_lines_it_names_work(tmp_path):
    given = loader()
    with pytest.raises(
        ValueError, match=r"given a DataLoader; .*Batch\(samples=16\) or Batch\(samples=next\(iter\(loader\)\)\)"
    ):
        fit(tmp_path, cam(batch=given))
    for line in (Batch(samples=16), Batch(samples=next(iter(given)))):
        assert batches(tmp_path, callback_batch=line)


def test_a_batch_that_cannot_be_read_is_refused_before_the_first_step(tmp_path):
    net = Net()
    before = net.head.weight.detach().clone()
    with pytest.raises(ValueError, match=r"image='scan'.*tuple of Tensor"):
        fit(tmp_path, cam(batch=Batch(4, image="scan")), net, val=Pipeline())
    assert torch.equal(net.head.weight, before)


def test_a_mistake_of_a_later_stage_is_a_warning(tmp_path):
    run, net = trainer(tmp_path, [cam(batch=Batch(per_class=1))]), Net()
    run.fit(net, loader(24, size=4), loader())
    with pytest.warns(UserWarning, match=r"a look failed and is left out.*the test set has no samples by index"):
        run.test(net, Pipeline(), verbose=False)


def test_a_stream_that_gives_nothing_is_one_warning_and_training_goes_on(tmp_path):
    with pytest.warns(UserWarning, match="no batch of the validation set passed by, so there is nothing to look at") as told:
        run = fit(tmp_path, cam(), val=DataLoader(Stream(0), 3), max_epochs=3)
    assert run.global_step == 18 and sum("passed by" in str(warning.message) for warning in told) == 1


class Fails(Net):
    def validation_step(self, batch, batch_idx):
        raise ArithmeticError("in the sanity check")


def test_nothing_taken_stays_after_a_run(tmp_path):
    callback = cam(batch=5)
    fit(tmp_path, callback, val=Pipeline())
    assert (callback.samples.taken, callback.samples.source, callback.watcher.batch) == (None, None, None)


def test_nothing_taken_stays_after_an_error(tmp_path):
    callback, taken = cam(batch=5), []
    teardown = callback.samples.release
    callback.samples.release = lambda: (taken.append(callback.samples.taken), teardown())
    with pytest.raises(ArithmeticError):
        fit(tmp_path, callback, Fails(), val=Pipeline())
    assert taken[-1].count == 3
    assert (callback.samples.taken, callback.samples.source, callback.watcher.batch) == (None, None, None)


def test_between_looks_no_loader_is_held(tmp_path):
    class Holds(L.Callback):
        def on_train_batch_start(self, run, module, batch, batch_idx):
            held.append(vars(callback.samples).copy())

    held: list = []
    callback = cam(batch=5)
    fit(tmp_path, [callback, Holds()], val=Pipeline())
    assert len(held) == 12
    assert all(each["passing"] is each["taken"] is each["source"] is None for each in held)


class Module(L.LightningDataModule):
    asked = 0

    def train_dataloader(self):
        return loader(24, size=4)

    def val_dataloader(self):
        self.asked += 1
        return Pipeline()


LATE = dict(check_val_every_n_epoch=2)  # no loader is there at the first step


@pytest.mark.parametrize(("options", "asked", "looks"), [(dict(), 1, 2), (LATE, 2, 1)])
def test_a_datamodules_hook_is_asked_by_lightning_and_once_more_where_it_was_not_yet(options, asked, looks, tmp_path):
    data, callback = Module(), cam(batch=5)
    trainer(tmp_path, [callback], num_sanity_val_steps=0, **options).fit(Net(), datamodule=data)
    assert data.asked == asked and len(callback.history["relu/grad_cam"].titles) == looks
