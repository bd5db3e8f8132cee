"""A resumed run keeps its baseline and its filmstrip."""

import pytest
import torch
from events import read_events
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from nets import STRICT, Net, Pictures, cam, fit, loader, trainer
from streams import Pipeline, Stream
from torch.utils.data import DataLoader

from lightning_cam import Batch, Schedule

pytestmark = [
    *STRICT,
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint"),
    pytest.mark.filterwarnings("ignore:.*Be aware that when using .ckpt_path., callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*The dirpath has changed"),
]

WHERE = "relu/grad_cam"


def run(folder, callback, epochs, *, ckpt=None, logger=False, **options):
    """Train with dropout, checkpoints kept at every epoch; returns callback and Trainer."""
    import lightning.pytorch as L

    L.seed_everything(3, verbose=False)
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    one = trainer(folder, [callback, keep], max_epochs=epochs, enable_checkpointing=True, logger=logger, **options)
    if ckpt is None:
        one.fit(Net(), loader(24, size=4), loader(shuffle=True, augment=True))
    else:
        one.fit(Net(), loader(24, size=4), loader(shuffle=True, augment=True), ckpt_path=ckpt)
    return one


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four epochs without a break, and the same with a break after two."""
    folder = tmp_path_factory.mktemp("whole")
    straight, resumed = cam(), cam()
    run(folder / "straight", straight, 4)
    run(folder / "broken", cam(), 2)
    logger = TensorBoardLogger(folder / "events")
    run(folder / "resumed", resumed, 4, ckpt=folder / "broken" / "epoch=1.ckpt", logger=logger)
    return folder, straight, resumed, logger


def test_a_checkpoint_with_the_callbacks_state_loads_with_weights_only(whole):
    folder, *_ = whole
    state = torch.load(folder / "broken" / "epoch=1.ckpt", weights_only=True)["callbacks"]
    ours = [v for k, v in state.items() if k.startswith("CAMCallback")]
    assert len(ours) == 1 and ours[0][WHERE]["titles"] == ["start", "1", "2"]


def test_a_resumed_run_shows_the_columns_of_an_uninterrupted_one(whole):
    _, straight, resumed, _ = whole
    one, other = straight.history[WHERE], resumed.history[WHERE]
    assert one.titles == other.titles == ["start", "1", "2", "3", "4"]
    assert [look.place for look in one.looks] == [look.place for look in other.looks] and (one.lowest, one.highest) == (
        other.lowest,
        other.highest,
    )
    assert all(torch.equal(a, b) for a, b in zip(one.heats, other.heats, strict=True))


def test_the_pictures_of_a_resumed_run_are_those_of_an_uninterrupted_one(whole):
    folder, _, _, logger = whole
    events = read_events(logger.log_dir)
    straight = folder / "straight" / "cam" / "relu"
    last = events.Images("cam/relu/grad_cam/filmstrip")[-1].encoded_image_string
    assert last == (straight / "grad_cam" / "filmstrip.jpg").read_bytes()
    sheets = events.Images("cam/relu/grad_cam")
    assert [e.step for e in sheets] == [17, 23]  # no second baseline
    for sheet in sheets:
        assert sheet.encoded_image_string == (straight / "grad_cam" / f"step_{sheet.step:06d}.jpg").read_bytes()


@pytest.mark.parametrize("weights_only", [True, False, None])
def test_it_resumes_whatever_weights_only_says(whole, weights_only, tmp_path):
    import lightning.pytorch as L

    folder, *_ = whole
    L.seed_everything(3, verbose=False)
    callback = cam()
    one = trainer(tmp_path, [callback], max_epochs=3)
    path = folder / "broken" / "epoch=1.ckpt"
    one.fit(Net(), loader(24, size=4), loader(shuffle=True, augment=True), ckpt_path=path, weights_only=weights_only)
    assert callback.history[WHERE].titles == ["start", "1", "2", "3"]


def test_a_checkpoint_without_the_callbacks_state_resumes_with_a_column_of_its_own(whole, tmp_path):
    fit(tmp_path, ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1), max_epochs=2, enable_checkpointing=True)
    callback = cam()
    run(tmp_path / "b", callback, 3, ckpt=tmp_path / "epoch=1.ckpt")
    assert callback.history[WHERE].titles == ["at 2", "3"]


def test_a_checkpoint_of_the_middle_of_an_epoch_resumes(tmp_path):
    keep = ModelCheckpoint(tmp_path, "{epoch}-{step}", save_top_k=-1)
    options = dict(val=loader(shuffle=True, augment=True), max_epochs=1, val_check_interval=0.5)
    fit(tmp_path, [cam(), keep], enable_checkpointing=True, **options)
    first = min(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.rpartition("=")[2]))
    callback = cam()
    run(tmp_path / "b", callback, 1, ckpt=first, val_check_interval=0.5)
    assert callback.history[WHERE].titles == ["start", "0.5", "1"]


def test_a_run_without_the_callback_goes_on_from_a_checkpoint_with_it(whole, tmp_path):
    folder, *_ = whole
    with pytest.warns(UserWarning, match="CAMCallback"):  # Lightning's own, that the callback is missing
        one = trainer(tmp_path, [], max_epochs=3)
        one.fit(Net(), loader(24, size=4), loader(), ckpt_path=folder / "broken" / "epoch=1.ckpt")
    assert one.global_step == 18


def test_weights_in_checkpoints_are_the_same_with_and_without_the_callback(tmp_path):
    for name, callbacks in (("with", [cam()]), ("without", [])):
        keep = ModelCheckpoint(tmp_path / name, "{epoch}", save_top_k=-1)
        fit(tmp_path / name, [*callbacks, keep], enable_checkpointing=True)
    first, second = (torch.load(tmp_path / n / "epoch=1.ckpt", weights_only=True) for n in ("with", "without"))
    assert first.keys() == second.keys()
    assert all(torch.equal(v, second["state_dict"][k]) for k, v in first["state_dict"].items())
    assert set(first["callbacks"]) - set(second["callbacks"]) == {cam().state_key}


def test_the_state_is_named_by_layer_method_and_tag():
    keys = {c.state_key for c in (cam(), cam("trunk"), cam(method="cam"), cam(tag="other"), cam(layer=None))}
    assert len(keys) == 5 and cam().state_key == cam(schedule=Schedule(every_n_epochs=2)).state_key


def test_a_resumed_run_goes_on_with_the_frozen_reference(tmp_path):
    straight, resumed = (cam(target="projection", metrics=[]) for _ in range(2))
    run(tmp_path / "straight", straight, 3)
    run(tmp_path / "broken", cam(target="projection", metrics=[]), 2)
    run(tmp_path / "resumed", resumed, 3, ckpt=tmp_path / "broken" / "epoch=1.ckpt")
    assert straight.watcher.memory.target.reference is not None
    assert torch.equal(straight.watcher.memory.target.reference, resumed.watcher.memory.target.reference)
    one, other = straight.history[WHERE], resumed.history[WHERE]
    assert all(torch.equal(a, b) for a, b in zip(one.heats, other.heats, strict=True))
    run(tmp_path / "anew", straight, 1)
    assert straight.history[WHERE].titles == ["start", "1"]


# the same samples, also where they have no index


def resumed(folder, first, second, later=(), **options):
    """Two epochs over a validation, and two more over another; the callbacks, and what was watched at each look.

    ``later`` are options of the second Trainer alone.
    """
    callbacks, shown = [], []
    for epochs, val, ckpt, more in ((2, first, None, ()), (4, second, folder / "epoch=1.ckpt", later)):
        callback = cam(**{"batch": 5, "on_error": "raise", **options})
        callback.watcher.observers.append(lambda result: shown.append(result.batch.images))
        keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        one = trainer(folder, [callback, keep], max_epochs=epochs, enable_checkpointing=True, **dict(more))
        one.fit(Net(), loader(24, size=4), val, ckpt_path=ckpt)
        callbacks.append(callback)
    return callbacks, shown


STREAMS = {
    "a stream": lambda: DataLoader(Stream(), 3),
    "a stream of two workers": lambda: DataLoader(Stream(), 3, num_workers=2),
    "a pipeline": Pipeline,
    "an index": lambda: loader(shuffle=True, augment=True),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("count", [5, 8])
def test_the_same_samples_come_back_where_data_starts_the_same(kind, count, tmp_path):
    (_, second), shown = resumed(tmp_path, STREAMS[kind](), STREAMS[kind](), batch=count)
    assert second.history[WHERE].titles == ["start", "1", "2", "3", "4"]
    # eight were asked for, and two batches of three passed by in the sanity check
    assert len(shown) == 5 and len(shown[0]) == (count if kind == "an index" else min(count, 6))
    assert all(torch.equal(shown[0], images) for images in shown)


def test_a_run_that_began_with_fewer_samples_than_asked_for_goes_on_with_those(tmp_path):
    val = DataLoader(Stream(), 3)
    (_, second), shown = resumed(tmp_path, val, val, later=dict(num_sanity_val_steps=0), batch=8)
    assert second.history[WHERE].titles == ["start", "1", "2", "3", "4"]
    assert len(shown) == 5 and all(torch.equal(images, Stream().pictures.images[:6]) for images in shown)


@pytest.mark.parametrize("differing", [2, 5])
def test_other_samples_after_a_resume_are_one_warning_and_a_batch_handed_in_is_the_way_out(differing, tmp_path):
    first = DataLoader(Stream(), 3)
    moved = DataLoader(Stream(start=5), 3)
    if differing == 2:
        batch = [images.clone() for images, _ in first]
        batch = torch.cat(batch)[:5]
        batch[[1, 4]] *= 0.5
        moved = DataLoader([(image, 0) for image in batch], 3)
    with pytest.warns(UserWarning, match=rf"CAMCallback: {differing} of 5 samples differ.*Batch\(samples=batch\)") as told:
        (_, second), _ = resumed(tmp_path, first, moved)
    assert sum("samples differ" in str(warning.message) for warning in told) == 1
    assert second.history[WHERE].titles == ["start", "1", "2", "3", "4"]
    batch = torch.cat([images for images, _ in first])[:5], torch.cat([labels for _, labels in first])[:5]
    resumed(tmp_path / "handed in", first, DataLoader(Stream(start=5), 3), batch=Batch(samples=batch))


def test_fingerprints_load_with_weights_only_and_a_checkpoint_without_them_resumes(tmp_path):
    resumed(tmp_path, loader(), loader())
    path = tmp_path / "epoch=1.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    (state,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("CAMCallback"))
    assert len(state.pop("samples")) == 5
    torch.save(checkpoint, path)
    callback = cam(batch=[9, 8, 7, 6, 5], on_error="raise")
    trainer(tmp_path, [callback], max_epochs=3).fit(Net(), loader(24, size=4), loader(), ckpt_path=path)
    assert callback.history[WHERE].titles == ["start", "1", "2", "3"]
    with pytest.warns(UserWarning, match="5 of 5 samples differ"):
        resumed(tmp_path / "other", loader(), DataLoader(Pictures(24).images.flip(0).split(1), 3, collate_fn=labelled))


def labelled(samples):
    return torch.cat(samples), torch.zeros(len(samples), dtype=torch.long)
