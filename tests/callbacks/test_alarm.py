"""The alarm: when it sounds, what it says, whom it watches, and that it leaves no trace."""

import importlib
import warnings

import lightning.pytorch as L
import pytest
import torch
from alarms import fit, left_half, look, watched
from lightning.pytorch.callbacks import ModelCheckpoint
from nets import BOXES, STRICT, Net, boxed_fit, cam, loader, trainer
from plain import plain_net, watcher
from run_records import made_record
from torch import nan, nn
from traces import differences, traced

from lightning_cam import Batch, CAMCallback, Schedule, ShortcutAlarm
from lightning_cam.callbacks.suspect import find_suspect

pytestmark = [
    *STRICT,
    pytest.mark.filterwarnings(r"ignore:ShortcutAlarm. \d+% of the positive heat"),
    pytest.mark.filterwarnings("ignore:.*Be aware that when using .ckpt_path., callbacks used to create the checkpoint"),
]


def said(alarm, looks):
    """What it says at which of these looks."""
    found = []
    for i, result in enumerate(looks):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            alarm(result)
        found += [(i, str(warning.message)) for warning in caught]
    return found


def sounded(caught):
    """How many of these warnings are an alarm's."""
    return sum(str(warning.message).startswith("ShortcutAlarm") for warning in caught)


# when it sounds


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_it_sounds_once_at_the_last_of_so_many_looks_in_a_row(looks):
    alarm = ShortcutAlarm("tag", 0.6, looks)
    plan = [0.7, 0.1, *[0.7] * 6] if looks > 1 else [0.1, 0.2, *[0.7] * 6]
    found = said(alarm, [look([share], step) for step, share in enumerate(plan, 1)])
    assert [i for i, _ in found] == [1 + looks] and alarm.fired


def test_a_share_of_the_threshold_itself_is_not_over_it():
    alarm = ShortcutAlarm("tag", 0.5, 1)
    assert said(alarm, [look([0.5], 1), look([0.25, 0.75], 2)]) == [] and not alarm.fired
    assert len(said(alarm, [look([0.51], 3)])) == 1


def test_the_baseline_and_looks_outside_a_run_do_not_count():
    alarm = ShortcutAlarm("tag", 0.5, 2)
    assert said(alarm, [look([0.9], 0), look([0.9], 1), look([0.9], 1, fitting=False)]) == []
    assert len(said(alarm, [look([0.9], 2)])) == 1


def test_samples_without_a_share_are_left_out_and_a_look_without_any_changes_nothing():
    alarm, mask = ShortcutAlarm("tag", 0.5, 2), left_half(3)
    mask[2] = False  # has no such region
    shares = dict(regions={"tag": mask}, names=("a", "b", "c"))
    results = [look([0.9, 0.2, 0.9], 1, **shares), look([0.9, 0.9, 0.9], 2, **shares), look([0.0, 0.0, 0.0], 3, **shares)]
    results[2].records[0].heat.fill_(-1.0)
    assert said(alarm, [results[1], results[2]]) == [] and alarm.counts == {"layer/method": 1}
    results[1].records[0].heat[0] = nan  # absent
    ((_, text),) = said(alarm, [results[1]])
    assert text.endswith("Most of it in b 90%.")
    # and the mean is that of those that have one
    fresh = ShortcutAlarm("tag", 0.54, 1)
    assert len(said(fresh, [results[0]])) == 1
    assert said(ShortcutAlarm("tag", 0.56, 1), [results[0]]) == []


def test_each_layer_and_method_counts_by_itself():
    alarm, plan = ShortcutAlarm("tag", 0.5, 2), []
    for step, (a, b) in enumerate([(0.9, 0.1), (0.1, 0.9), (0.9, 0.8)], 1):
        one, other = look([a], step, tag="one/m"), look([b], step, tag="two/m")
        plan.append(type(one)(one.moment, one.batch, [*one.records, *other.records], []))
    ((i, text),) = said(alarm, plan)
    assert i == 2 and "positive heat of two/m" in text and alarm.counts == {"one/m": 1, "two/m": 2}
    # and where both have reached it, one warning is enough
    ((_, text),) = said(ShortcutAlarm("tag", 0.5, 1), [plan[2]])
    assert "positive heat of one/m" in text


def test_of_several_targets_a_sample_has_the_mean():
    assert said(ShortcutAlarm("tag", 0.5, 1), [look([[0.9, 0.1], [0.4, 0.4]])]) == []
    ((_, text),) = said(ShortcutAlarm("tag", 0.5, 1), [look([[0.9, 0.5], [0.4, nan]])])
    assert "ShortcutAlarm: 55% of the positive heat" in text and "0.png 70%, 1.png 40%" in text


# where


@pytest.mark.parametrize(
    ("region", "names", "share", "words", "area"),
    [
        ("tag", ("tag", "object"), 0.8, "in the region 'tag'", "25%"),
        ("object", ("tag", "object"), 0.2, "in the region 'object'", "50%"),
        (None, ("tag", "object"), 0.8, "outside the region 'object'", "50%"),
        (None, ("tag",), 0.2, "outside the regions 'tag'", "75%"),
        (None, ("tag", "right"), 0.0, "outside the regions 'tag', 'right'", "25%"),
    ],
)
def test_it_looks_in_the_region_named_or_outside_the_object_or_all_regions(region, names, share, words, area):
    masks = {"tag": left_half(2, 0.25), "object": ~left_half(2), "right": ~left_half(2)}
    regions = {name: masks[name] for name in names}
    suspect = find_suspect(regions, region)
    heat = torch.zeros(2, 1, 8, 8)
    heat[:, 0, 4, 0], heat[:, 0, 4, 7] = 8.0, 2.0  # of ten parts eight in the tag, none between tag and object
    assert suspect.shares(heat, "layer").tolist() == pytest.approx([share, share])
    assert suspect.words == words and f"{suspect.area():.0%}" == area
    fired = said(ShortcutAlarm(region, max(share - 0.05, 0.0), 1), [_of(heat, regions)])
    assert len(fired) == (share > 0) and all(f"is {words}, {area} of the image: over" in text for _, text in fired)


def _of(heat, regions):
    result = look([0.5] * len(heat), regions=regions)
    record = made_record(len(heat), heat.shape[1], full=False, heat=heat, moment=result.moment)
    return type(result)(result.moment, result.batch, [record], [])


def test_the_share_is_that_of_energy_inside_whatever_metrics_are_asked_for(tmp_path):
    callback, shares = cam("trunk", metrics=["energy_inside"], target=["label", 1], batch=BOXES), []
    alarm = ShortcutAlarm("object", 0.99)

    def compared(result):
        (record,) = result.records
        own = find_suspect(result.batch.regions, "object").shares(record.heat, record.layer)
        shares.append((own, record.values["energy_inside"].nanmean(1)))

    callback.watcher.observers.append(compared)
    boxed_fit(tmp_path, [callback, alarm])
    assert len(shares) == 3 and all(torch.allclose(own, metric, equal_nan=True) for own, metric in shares)


# what it says


def test_it_names_the_samples_with_the_largest_shares_five_at_most():
    shares = [0.71, 0.93, 0.6, 0.8, 0.65, 0.9, 0.62]
    ((_, text),) = said(ShortcutAlarm("tag", 0.5, 2), [look(shares, 1), look(shares, 2)])
    assert text == (
        "ShortcutAlarm: 74% of the positive heat of layer/method is in the region 'tag', 50% of the image: over 50% at 2 looks "
        "in a row, up to 'epoch 2'. Most of it in 1.png 93%, 5.png 90%, 3.png 80%, 0.png 71%, 4.png 65%."
    )
    ((_, text),) = said(ShortcutAlarm("tag", 0.5, 1, stop=True), [look([0.9], names=())])
    assert "over 50% at 'epoch 1'. Most of it in sample 0 90%. Training stops (stop=True)." in text


# mistakes


@pytest.mark.parametrize(("option", "line"), [("threshold", "threshold=0.5"), ("looks", "looks=3")])
def test_options_that_cannot_be_are_refused_with_the_line_to_write(option, line):
    for value in (-0.1, 1.0, nan) if option == "threshold" else (0, -1):
        with pytest.raises(ValueError, match=rf"ShortcutAlarm\({option}={value}\): expected .* such as {line}\.") as refused:
            ShortcutAlarm(**{option: value})
        assert eval(f"ShortcutAlarm({str(refused.value).rpartition('such as ')[2][:-1]})")


@pytest.mark.parametrize(
    ("alarm", "regions", "text"),
    [
        (ShortcutAlarm("tga"), None, "has no region 'tga'. Did you mean 'tag'"),
        (ShortcutAlarm("tag"), {}, r'and the batch has none.*CAMCallback\(batch=Batch\(regions=\{"tag": "box"\}\)\)'),
        (ShortcutAlarm(), {}, r'and the batch has none.*CAMCallback\(batch=Batch\(regions=\{"object": "box"\}\)\)'),
    ],
)
def test_a_region_that_is_not_there_raises_at_the_baseline_and_is_one_warning_later(alarm, regions, text):
    with pytest.raises(ValueError, match=text):
        alarm(look([0.9], 0, regions=regions))
    ((_, warning),) = said(alarm, [look([0.9], step, regions=regions) for step in (1, 2, 3)])
    assert "the alarm failed at a look, training goes on: ValueError" in warning


def test_maps_of_fewer_sides_than_the_image_are_refused():
    alarm, result = ShortcutAlarm("tag"), look([0.9], 0)
    flat = made_record(1, 1, (8,), full=False, moment=result.moment)
    with pytest.raises(ValueError, match="ShortcutAlarm needs a map of as many sides as the image; at 'layer'"):
        alarm(type(result)(result.moment, result.batch, [flat], []))


def test_a_mistake_ends_a_fit_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="no region 'tag'"):
        fit(tmp_path, [watched(0.9), ShortcutAlarm("tag")])
    with pytest.raises(ValueError, match="batch has none"):
        fit(tmp_path, [cam(), ShortcutAlarm()])
    late = cam(schedule=Schedule(baseline=False))
    with pytest.warns(UserWarning, match="the alarm failed at a look, training goes on") as told:
        assert fit(tmp_path, [late, ShortcutAlarm()], max_epochs=3).current_epoch == 3
    assert sounded(told) == 1


def test_an_alarm_that_breaks_ends_no_run(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("lightning_cam.callbacks.alarm.find_suspect", broken)
    callback = watched(0.9)
    with pytest.warns(UserWarning, match="the alarm failed at a look, training goes on: RuntimeError: broken") as told:
        run = fit(tmp_path, [callback, ShortcutAlarm()])
    assert sounded(told) == 1 and run.global_step == 12 and callback.history["relu/planned"].titles == ["start", "1", "2"]


# whom it watches

NAMES = dict(CAMCallback=CAMCallback, ShortcutAlarm=ShortcutAlarm, Batch=Batch)


def test_without_a_callback_to_watch_it_says_which_to_write(tmp_path):
    with pytest.raises(
        ValueError, match=r"and this Trainer has none: callbacks=\[CAMCallback\(.*, ShortcutAlarm\(\)\]"
    ) as told:
        fit(tmp_path, [ShortcutAlarm()])
    callbacks = eval(str(told.value).partition("callbacks=")[2].rstrip("."), NAMES)
    assert fit(tmp_path, callbacks).current_epoch == 2


def test_of_several_callbacks_it_is_told_which(tmp_path):
    pair = [watched(0.9, tag="cam"), watched(0.1, tag="early")]
    with pytest.raises(
        ValueError, match=r"this Trainer has 2, 'cam', 'early'\. Say which: (ShortcutAlarm\(tag='cam'\))"
    ) as told:
        fit(tmp_path, [*pair, ShortcutAlarm()])
    alarm = eval(str(told.value).partition("Say which: ")[2].rstrip("."), NAMES)
    assert alarm.tag == "cam"
    with pytest.raises(
        ValueError, match=r"has the tag 'earyl'\. Did you mean 'early'\? There is 'cam', 'early': ShortcutAlarm"
    ):
        fit(tmp_path, [*pair, ShortcutAlarm(tag="earyl")])
    pair = [watched(0.9, tag="cam"), watched(0.1, tag="early")]
    quiet, loud = ShortcutAlarm(tag="early", looks=1), ShortcutAlarm(tag="cam", looks=1)
    with pytest.warns(UserWarning, match="ShortcutAlarm: 90% of the positive heat") as warned:
        fit(tmp_path, [quiet, *pair, loud])
    assert sounded(warned) == 1 and (quiet.fired, loud.fired) == (False, True)


def test_a_plain_watcher_is_watched_by_attaching_and_by_being_an_observer(tmp_path):
    def everywhere(seen):
        return seen.image.mean(1) * 0 + 1

    net, box = plain_net(), torch.tensor([[0.0, 0, 4, 4]] * 4)
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    batch = Batch(samples={"image": images, "label": labels, "box": box}, regions="box")
    for attach in (lambda alarm, one: alarm.attach(one), lambda alarm, one: one.observers.append(alarm)):
        alarm, one = (
            ShortcutAlarm(threshold=0.7, looks=2),
            watcher(net, tmp_path, batch.samples, method=everywhere, batch=batch),
        )
        attach(alarm, one)
        alarm.attach(one)  # twice is once
        assert one.observers == [alarm]
        one.look(0)
        one.look(1)
        assert not alarm.fired
        with pytest.warns(UserWarning, match="75% of the positive heat of relu/everywhere is outside the region 'object', 75%"):
            one.look(2)
        assert alarm.fired
        alarm.detach(one)
        alarm.detach(one)
        assert one.observers == []


@pytest.mark.parametrize("tree", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("order", ["before", "behind"])
def test_it_sounds_wherever_it_stands_in_a_trainer_of_either_package(order, tree, tmp_path):
    package = importlib.import_module(tree)

    class Small(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    alarm, callback = ShortcutAlarm(), watched(0.1, 0.9, layer="body")
    callbacks = [alarm, callback] if order == "before" else [callback, alarm]
    run = trainer(tmp_path, callbacks, tree=package, max_epochs=4)
    with pytest.warns(UserWarning, match="outside the region 'object', 75% of the image: over 50% at 3 looks in a row, up to"):
        run.fit(Small(), loader(24, size=4, form="dict"), loader(form="dict"))
    assert run.current_epoch == 4 and callback.watcher.observers == []  # it watches no longer


def test_a_second_fit_begins_anew_and_a_validation_on_its_own_counts_nothing(tmp_path):
    alarm, callback = ShortcutAlarm(looks=2), watched(0.9)
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 looks in a row, up to 'epoch 2'") as told:
            run = fit(tmp_path, [callback, alarm])
        assert sounded(told) == 1 and alarm.counts == {"relu/planned": 2}
    before = callback.watcher.history["relu/planned"].titles
    run.validate(Net(), loader(form="dict"), verbose=False)
    assert alarm.counts == {"relu/planned": 2} and callback.watcher.history["relu/planned"].titles == before


def test_it_watches_no_longer_after_an_exception(tmp_path):
    class Breaks(L.Callback):
        def on_train_epoch_end(self, run, module):
            raise KeyError("broken")

    callback = watched(0.1)
    with pytest.raises(KeyError):
        fit(tmp_path, [callback, ShortcutAlarm(), Breaks()])
    assert callback.watcher.observers == []


# stopping


@pytest.mark.parametrize("val", [True, False])
@pytest.mark.parametrize("order", ["before", "behind"])
def test_it_stops_the_run_at_the_look_at_which_it_sounds(order, val, tmp_path):
    alarm, callback = ShortcutAlarm(looks=2, stop=True), watched(0.1, 0.1, 0.9)
    keep = ModelCheckpoint(tmp_path)
    callbacks = [alarm, callback, keep] if order == "before" else [callback, alarm, keep]
    run = fit(tmp_path, callbacks, val, max_epochs=9, enable_checkpointing=True)
    assert run.current_epoch == 3 and run.should_stop
    assert callback.history["relu/planned"].titles == ["start", "1", "2", "3"]
    assert run.callbacks.index(callback) < run.callbacks.index(alarm) < run.callbacks.index(keep)
    assert sorted(map(id, run.callbacks)) == sorted(map(id, callbacks))


def test_it_stops_in_the_middle_of_an_epoch_and_not_before_the_least_number_of_epochs(tmp_path):
    run = fit(tmp_path, [watched(0.9), ShortcutAlarm(looks=1, stop=True)], max_epochs=9, val_check_interval=0.5)
    assert run.global_step == 3
    run = fit(tmp_path, [watched(0.9), ShortcutAlarm(looks=1, stop=True)], max_epochs=9, min_epochs=4)
    assert run.current_epoch == 4


def test_it_stops_nothing_unless_asked_to(tmp_path):
    alarm = ShortcutAlarm(looks=1)
    run = fit(tmp_path, [watched(0.9), alarm], max_epochs=3)
    assert run.current_epoch == 3 and alarm.fired and not run.should_stop
    assert fit(tmp_path, [watched(0.1), ShortcutAlarm(looks=1, stop=True)], max_epochs=3).current_epoch == 3


# what is kept


@pytest.mark.parametrize("broken_at", [1, 2])
def test_a_resumed_run_goes_on_counting(broken_at, tmp_path):
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(tmp_path, [watched(0.9), ShortcutAlarm(), keep], max_epochs=broken_at, enable_checkpointing=True)
    path = tmp_path / f"epoch={broken_at - 1}.ckpt"
    torch.load(path, weights_only=True)
    alarm = ShortcutAlarm()
    with pytest.warns(UserWarning, match="3 looks in a row, up to 'epoch 3'") as told:
        resume(tmp_path, [watched(0.9), alarm], path)
    assert sounded(told) == 1 and alarm.fired


def test_a_run_that_was_warned_and_stopped_goes_on_without_being_warned_or_stopped_once_more(tmp_path):
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    first = fit(tmp_path, [watched(0.9), ShortcutAlarm(stop=True), keep], max_epochs=9, enable_checkpointing=True)
    assert first.current_epoch == 3
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="ShortcutAlarm")
        run = resume(tmp_path, [watched(0.9), ShortcutAlarm(stop=True)], tmp_path / "epoch=2.ckpt")
    assert run.current_epoch == 5


def resume(folder, callbacks, path):
    run = trainer(folder, callbacks, max_epochs=5)
    run.fit(Net(), loader(24, size=4, form="dict"), loader(form="dict"), ckpt_path=path)
    return run


def test_several_alarms_have_states_of_their_own(tmp_path):
    alarms = [ShortcutAlarm(), ShortcutAlarm("object"), ShortcutAlarm(threshold=0.7), ShortcutAlarm(looks=5)]
    assert len({alarm.state_key for alarm in alarms}) == 4
    callbacks = [watched(0.1), *alarms, ModelCheckpoint(tmp_path)]
    with pytest.warns(UserWarning, match="in the region 'object'"):
        fit(tmp_path, callbacks, max_epochs=3, enable_checkpointing=True)
    assert [alarm.fired for alarm in alarms] == [False, True, False, False]


# no trace


@pytest.mark.parametrize("stop", [False, True])
def test_training_is_bit_identical_with_and_without_it(stop, tmp_path):
    def made():
        return Net(dropout=0.3, norm=True, draw=True)

    def train():
        return loader(24, shuffle=True, size=4, form="dict")

    alarm = ShortcutAlarm(looks=1 if not stop else 99, stop=stop)
    callbacks = [alarm, cam(batch=BOXES, method=["grad_cam", "layer_cam"])], []
    runs = [traced(tmp_path, some, made, train, lambda: loader(form="dict")) for some in callbacks]
    assert differences(*runs) == [] and alarm.counts
