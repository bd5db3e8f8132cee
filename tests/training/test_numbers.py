"""Numbers: shares of the drift by parts in a run, its tables, and what jumped."""

import csv

import pytest
import torch
from chunked import boxed, disturb, looks
from nets import STRICT, Net, cam, fit, loader
from plain import batch, plain_net, watcher
from run_records import HOSTILE, made_batch
from torch import nn

from lightning_cam import Batch, Numbers, Parts, records
from lightning_cam.figures import pages
from lightning_cam.record import Event, Moment
from lightning_cam.records.events import EventTable

pytestmark = STRICT

PARTS = Parts({"trunk": "trunk", "last": "last", "head": "head"}, every=2)


class Scalars:
    """A logger of numbers and pictures."""

    def __init__(self):
        self.numbers, self.pictures = {}, []

    def log_metrics(self, numbers, step):
        self.numbers[step] = numbers

    def log_image(self, key, images, step):
        self.pictures.append((key, step))


def run(folder, steps=5, net=None, **options):
    """A run whose weights move between looks: its Watcher, its Records, and what was logged."""
    net, logger, told = plain_net() if net is None else net, Scalars(), []
    watching = watcher(net, folder, loggers=[logger], **options)
    for i in range(steps):
        told.append(watching.look(i))
        disturb(net, i)
    return watching, told, logger


# what moved, by parts


def test_shares_are_told_at_their_looks_sum_to_the_drift_and_stand_in_the_table(tmp_path):
    names = [f"drift_of_{part}" for part in ("trunk", "last", "head")]
    for pictures in (None, 2):
        folder = tmp_path / str(pictures)
        options = dict(numbers=Numbers(parts=PARTS), metrics=["drift", "entropy"], method="activation_mean")
        data = boxed(20) if pictures else batch()
        size = Batch(samples=20, pictures=pictures) if pictures else 16
        watching, told, logger = run(folder, data=data, batch=size, **options)
        for step, (record,) in enumerate(told):
            due = step in (2, 4)
            assert [name for name in record.values if name.startswith("drift_of_")] == (names if due else [])
            logged = {name: value for name, value in logger.numbers[step].items() if "drift_of_" in name}
            assert set(logged) == ({f"cam/{name}" for name in names} if due else set())
            if due:
                shares = torch.stack([record.values[name] for name in names])
                drift = record.values["drift"]
                assert torch.allclose(shares.sum(0), drift, atol=1e-5, equal_nan=True) and drift.nanmean() > 1e-3
                assert sum(logged.values()) == pytest.approx(logger.numbers[step]["cam/drift"], abs=1e-5)
                # the head is behind the maps of a method that reads no gradient
                assert record.values["drift_of_head"].abs().max() < 1e-6
                assert record.values["drift_of_trunk"].abs().max() > 1e-3
        rows = [row for row in records.samples(folder) if row["step"] == 4]
        for name in names:
            assert [row[name] for row in rows] == pytest.approx(told[4][0].values[name].flatten().tolist(), nan_ok=True)
        assert [step for key, step in logger.pictures if key == "cam/relu/activation_mean/parts"] == [2, 4]
        assert [title for title, _ in watching.memory.shares.rows["relu/activation_mean"]] == ["2", "4"]


def test_shares_of_chunks_are_those_of_all_at_once(tmp_path):
    options = dict(numbers=Numbers(parts=Parts({"trunk": "trunk", "head": "head"}, every=1)), metrics=["drift"], looks=3)
    chunked, _ = looks(tmp_path / "chunks", 8, **options)
    whole, _ = looks(tmp_path / "whole", None, **options)
    for (one,), (other,) in zip(chunked[1:], whole[1:], strict=True):
        shares = [name for name in one.values if name.startswith("drift_of")]
        assert shares == ["drift_of_trunk", "drift_of_head", "drift_of_rest"]
        for name in shares:
            assert torch.allclose(one.values[name], other.values[name], atol=1e-6, equal_nan=True)


def test_what_is_frozen_has_no_share_and_nothing_is_changed(tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, numbers=Numbers(parts=Parts({"head": "head"}, every=1)), metrics=["drift"])
    watching.look(0)
    with torch.no_grad():
        net.head.weight += torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    (record,) = watching.look(1)
    assert record.values["drift_of_rest"].nan_to_num(0).eq(0).all()
    assert torch.allclose(record.values["drift_of_head"], record.values["drift"], equal_nan=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", ["watcher", "trainer"])
def test_a_mistyped_group_is_refused_at_the_first_look_with_the_nearest_name(kind, tmp_path):
    numbers = Numbers(parts=Parts({"head": "haed"}))
    with pytest.raises(ValueError, match=r"the group 'head' asks for 'haed'.*Did you mean 'head'\?.*groups=") as told:
        if kind == "watcher":
            watcher(plain_net(), tmp_path, numbers=numbers, on_error="warn").look(0)
        else:
            fit(tmp_path, cam(numbers=numbers))
    line = str(told.value).partition("Write groups=")[2].rstrip(".")
    watcher(plain_net(), tmp_path, numbers=Numbers(parts=Parts(eval(line)))).look(0)


@pytest.mark.usefixtures("unchecked")
def test_parts_that_are_none_are_refused_with_the_line_to_write():
    with pytest.raises(ValueError, match=r"Numbers\(parts=\{'head': 'fc'\}\): expected Parts, such as Numbers\(parts=") as told:
        Numbers(parts={"head": "fc"})
    line = str(told.value).partition("such as ")[2].rstrip(".")
    assert eval(line) == Numbers(parts=Parts(groups={"head": "fc", "stem": ["conv1", "bn1"]}))


def test_a_resumed_run_says_once_that_it_has_no_weights_of_the_baseline(tmp_path, caplog):
    options = dict(numbers=Numbers(parts=Parts({"head": "head"}, every=1)), metrics=["drift"])
    first, _, _ = run(tmp_path / "first", 3, **options)
    net = plain_net()
    disturb(net, 7)
    resumed = watcher(net, tmp_path / "resumed", **options)
    resumed.load_state_dict(first.state_dict())
    with caplog.at_level("INFO"):
        told = [resumed.look(step)[0] for step in (3, 4)]
    words = "a checkpoint does not hold the baseline's weights, so drift is not split by parts in a resumed run"
    assert caplog.text.count(words) == 1
    assert all(list(record.values) == ["drift"] for record in told)
    # what was told before the break is still known
    assert [title for title, _ in resumed.memory.shares.rows["relu/grad_cam"]] == ["1", "2"]


def test_a_model_that_is_another_now_costs_the_shares_and_not_the_look(tmp_path):
    options = dict(numbers=Numbers(parts=Parts({"head": "head"}, every=1)), metrics=["drift"], on_error="warn")
    watching, told, _ = run(tmp_path, 2, **options)
    watching.model.added = nn.Linear(2, 2)
    with pytest.warns(
        UserWarning, match="what moved, by parts failed and is left out.*it has 'added.weight' and 1 more"
    ) as said:
        later = [watching.look(step)[0] for step in (2, 3)]
    assert len(said) == 1 and "drift_of_head" in told[1][0].values
    assert all(list(record.values) == ["drift"] for record in later)


def test_what_an_observer_keeps_of_a_look_does_not_grow(tmp_path):
    kept = []
    net = plain_net()
    watching = watcher(net, tmp_path, numbers=Numbers(parts=Parts({"head": "head"}, every=1)), metrics=["drift"])
    watching.observers.append(lambda result: kept.append(result.shares))
    for step in range(4):
        watching.look(step)
        disturb(net, step)
    assert [len(shares.get("relu/grad_cam", ())) for shares in kept] == [0, 1, 2, 3]


# tables


def test_without_tables_none_is_written(tmp_path):
    for table in (True, False):
        fit(tmp_path / str(table), cam(numbers=Numbers(table=table)))
        assert bool(list((tmp_path / str(table)).rglob("samples.csv"))) == table
    watching, _, _ = jumping(tmp_path / "jump", numbers=Numbers(table=False))
    assert watching.history["relu/activation_mean"].looks[3].jumped.any()
    assert not list((tmp_path / "jump").rglob("*.csv"))


def test_events_come_back_as_they_were_whatever_names_hold(tmp_path):
    names = tuple(HOSTILE)
    samples = made_batch(len(names), names=names)
    table = EventTable("one")
    moments = [Moment(3, 'epoch "1", =1+1\n', "1", epoch=1.0), Moment(7, "+epoch 2", "2", epoch=None)]
    of_samples = [Event(moments[0], "layer,4/grad_cam", i, i % 2, 0.1 + i / 3, 1e-12) for i in range(len(names))]
    table.add(tmp_path, of_samples, samples, "cam")
    table.add(tmp_path, [], samples, "cam")
    table.add(tmp_path, [Event(moments[1], "layer,4/grad_cam", None, 0, 0.25, float("nan"))], samples, "cam")
    rows = records.events(tmp_path)
    assert len(rows) == len(names) + 1
    for row, event in zip(rows, of_samples, strict=False):
        assert (row["session"], row["look"], row["step"], row["epoch"]) == ("one", moments[0].title, 3, 1)
        assert (row["map"], row["event"], row["sample"], row["target"]) == (event.tag, "jumped", event.sample, event.target)
        assert (row["change"], row["floor"]) == (event.change, event.floor)  # to the bit
    told = [row["name"] for row in rows[:-1]]
    plain = [name for name in names if "\0" not in name and "\udcff" not in name and len(name) < 1000]
    assert [name for name in told if name in plain] == plain
    last = rows[-1]
    assert (last["event"], last["name"], last["look"]) == ("all moved", "", "+epoch 2")
    assert last["sample"] != last["sample"] and last["epoch"] != last["epoch"] and last["floor"] != last["floor"]
    # nothing of it is a formula to a spreadsheet
    with (tmp_path / "cam" / "events.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "+", "@", "\t")) for cell in cells)


def test_a_row_of_events_that_was_cut_short_is_taken_off(tmp_path):
    samples = made_batch(2)
    event = Event(Moment(3, "epoch 1", "1", epoch=1.0), "layer/grad_cam", 1, 0, 0.5, 0.01)
    EventTable("one").add(tmp_path, [event, event], samples, "cam")
    path = tmp_path / "cam" / "events.csv"
    path.write_bytes(path.read_bytes()[:-9])
    assert len(records.events(tmp_path)) == 1
    EventTable("two").add(tmp_path, [event], samples, "cam")
    assert [row["session"] for row in records.events(tmp_path)] == ["one", "two"]
    assert records.events(tmp_path / "nowhere") == []


# what jumped


class Chosen(nn.Module):
    """Of smooth maps one that is the same for all samples, but for the sample with a bright corner after a jump."""

    def __init__(self):
        super().__init__()
        self.register_buffer("jumped", torch.zeros(()))
        ramp = torch.linspace(0.1, 1, 8)
        self.register_buffer("maps", torch.stack([ramp.expand(8, 8), ramp.flip(0).square().expand(8, 8).T]))

    def forward(self, x):
        marked = (x.mean((1, 2, 3)) > 0.9).float() * self.jumped
        own, other = ((1 + 0.1 * x) * each for each in self.maps)
        return own + marked[:, None, None, None] * (other - own)


class Smooth(nn.Module):
    """Images as maps, which a pooled linear head reads."""

    def __init__(self):
        super().__init__()
        self.relu, self.head = Chosen(), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.relu(x).mean((2, 3)))


MARKED = 5


def marked_images(n=12):
    images = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8
    images[MARKED] = 1.0
    return images, torch.arange(n) % 3


def jumping(folder, at=3, steps=5, n=12, pictures=None, **options):
    """A run in which the map of one sample jumps, while weights and with them all maps hardly move."""
    torch.manual_seed(0)
    net, results = Smooth(), []
    size = Batch(samples=n, pictures=pictures)
    watching = watcher(net, folder, marked_images(n), method="activation_mean", batch=size, **options)
    watching.observers.append(results.append)
    for step in range(steps):
        if step == at:
            net.relu.jumped.fill_(1)
        watching.look(step)
        with torch.no_grad():
            net.relu.maps += 1e-4 * torch.rand(net.relu.maps.shape, generator=torch.Generator().manual_seed(step))
    return watching, results, net


@pytest.mark.parametrize(("n", "pictures"), [(12, None), (20, 8)])
def test_the_jump_of_one_sample_is_an_event_a_row_and_a_mark(n, pictures, tmp_path, monkeypatch):
    drawn = []
    draw = pages.film
    monkeypatch.setattr(pages, "film", lambda base, columns, *rest: drawn.append(columns) or draw(base, columns, *rest))
    _, results, _ = jumping(tmp_path, n=n, pictures=pictures)
    assert [[event.sample for event in result.events] for result in results] == [[], [], [], [MARKED], []]
    (event,) = results[3].events
    assert (event.tag, event.target, event.moment.step) == ("relu/activation_mean", 0, 3)
    assert event.change > 10 * event.floor > 0
    (row,) = records.events(tmp_path)
    assert (row["step"], row["sample"], row["event"], row["name"]) == (3, MARKED, "jumped", results[3].batch.names[MARKED])
    assert (row["change"], row["floor"]) == (event.change, event.floor)
    marks = [columns.jumps for columns in drawn]
    assert marks[0] is None and marks[2] is None
    shown = n if pictures is None else pictures
    wanted = torch.zeros(5, shown, dtype=torch.bool)
    wanted[3, MARKED] = True
    assert torch.equal(marks[-1], wanted)


def test_without_a_jump_there_is_no_event(tmp_path):
    watching, results, _ = jumping(tmp_path, at=99)
    assert [result.events for result in results] == [[]] * 5 and records.events(tmp_path) == []
    assert watching.history["relu/activation_mean"].looks[-1].change.max() < 1e-4


def test_a_jump_is_still_marked_after_a_break(tmp_path):
    watching, _, net = jumping(tmp_path)
    file = tmp_path / "state.pt"
    torch.save(watching.state_dict(), file)
    resumed = watcher(net, tmp_path / "resumed", marked_images(), method="activation_mean")
    resumed.load_state_dict(torch.load(file, weights_only=True))
    results = []
    resumed.observers.append(results.append)
    resumed.look(5)
    look = resumed.history["relu/activation_mean"].looks[3]
    assert look.jumped.nonzero().flatten().tolist() == [MARKED] and results[0].events == []


def test_a_run_with_a_trainer_has_its_events_in_its_folder(tmp_path):
    class Jumps(Net):
        def __init__(self):
            super().__init__()
            self.net = Smooth()

        def forward(self, x):
            return self.net(x)

        def on_validation_epoch_start(self):
            self.net.relu.jumped.fill_(float(self.current_epoch >= 2))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-5)

    val = loader(12)
    val.dataset.images[MARKED] = 1.0
    fit(tmp_path, cam("net.relu", "activation_mean", batch=12, on_error="raise"), Jumps(), val=val, max_epochs=4)
    rows = [row for row in records.events(tmp_path) if row["event"] == "jumped"]
    assert [(row["epoch"], row["sample"]) for row in rows] == [(3, MARKED)]


# options


def test_options_reach_a_run_from_a_callback(tmp_path):
    callback = cam(numbers=Numbers(per_class=True, parts=Parts({"head": "head"}, every=1)), metrics=["drift"], on_error="raise")
    done = fit(tmp_path, callback)
    told = {name for name in done.callback_metrics if name.startswith("cam/")}
    assert told >= {"cam/drift", "cam/drift_of_head", "cam/drift_of_rest", "cam/drift/class_0"}
    assert next(tmp_path.rglob("relu/grad_cam/parts/*.jpg"))
