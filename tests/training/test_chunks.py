"""Many samples and few pictures: numbers of all samples, computed in chunks, are those of all at once."""

import pytest
import torch
from chunked import CHUNK, SHOWN, N, assert_same, boxed, disturb, in_double, looks, near
from nets import STRICT, cam, fit, loader
from PIL import Image
from plain import PlainNet, plain_net, watcher

from lightning_cam import Batch, metrics, records
from lightning_cam.figures.pages import RecordPages
from lightning_cam.registry import METRICS
from lightning_cam.training.look import part

pytestmark = STRICT

CHUNKS = [CHUNK, CHUNK, N - 2 * CHUNK]


# numbers

SLOW = [{"insertion": {"steps": 4}}, {"deletion": {"steps": 4}}]
OF_FIRST_CHUNK = ("drift_floor", "settled_at")  # the floor is that of the samples shown
ALL = [*(name for name in metrics.names() if name not in ("insertion", "deletion", *OF_FIRST_CHUNK)), *SLOW]


def test_every_metric_of_forty_samples_is_the_one_of_all_at_once(tmp_path):
    wrapped = [{name: {"metric": "entropy"}} for name in METRICS.wrappers() if name == "centre_prior"]
    options = dict(metrics=[*ALL, *wrapped], method=["grad_cam", "activation_mean"])
    chunked, _ = looks(tmp_path / "chunks", SHOWN, **options)
    whole, _ = looks(tmp_path / "whole", None, **options)
    for ones, others in zip(chunked, whole, strict=True):
        assert_same(ones, others)
    for name in ("px_ap", "max_box_acc", "max_box_acc_v2", "drift", "feature_drift", "average_drop"):
        assert chunked[1][0].values[name].isfinite().any(), name
    assert len(chunked[1][0].values) == len(ALL) + len(wrapped)


def test_what_sees_the_whole_batch_differs_from_that_of_its_chunks(tmp_path):
    """The check above could fail: a threshold over a chunk is another one."""
    together, _ = looks(tmp_path, SHOWN, metrics=["px_ap"])
    alone = []
    for start in range(0, N, CHUNK):
        part = in_double(boxed())
        part.images, part.targets = part.images[start : start + CHUNK], part.targets[start : start + CHUNK]
        told, _ = looks(tmp_path / str(start), None, data=part, n=min(CHUNK, N - start), metrics=["px_ap"])
        alone.append(told[1][0].values["px_ap"])
    assert not near(torch.cat(alone), together[1][0].values["px_ap"], 1e-6)


def test_in_single_precision_only_rounding_differs(tmp_path):
    options = dict(metrics=["drift", "entropy", "energy_inside", "px_ap", "max_box_acc"])
    runs = [looks(tmp_path / str(p), p, net=plain_net(), data=boxed(), **options)[0] for p in (SHOWN, None)]
    for ones, others in zip(*runs, strict=True):
        assert_same(ones, others, 1e-5)


def test_numbers_without_being_asked_for_are_those_of_all_at_once_but_for_the_floor(tmp_path):
    chunked, watching = looks(tmp_path / "chunks", SHOWN, looks=3)
    whole, _ = looks(tmp_path / "whole", None, looks=3)
    for (one,), (other,) in zip(chunked, whole, strict=True):
        assert list(one.values) == list(other.values)
        for name in set(one.values) - set(OF_FIRST_CHUNK):
            assert near(one.values[name], other.values[name]), name
        floors = one.values["drift_floor"], other.values["drift_floor"]
        assert floors[0][CHUNK:].isnan().all() and floors[1].isfinite().sum() > floors[0].isfinite().sum() > 0
        # later another sixteenth of another number is measured anew
        assert near(floors[0][:CHUNK], floors[1][:CHUNK]) or not one.moment.baseline
        assert len(one.values["settled_at"].unique()) == 1
    assert watching.history["relu/grad_cam"].noise.shape == (N, 1)


# where they go


def test_all_samples_are_in_numbers_history_record_and_table_and_the_first_in_pictures(tmp_path, monkeypatch):
    drawn = []
    for name in ("sheet", "filmstrip"):
        draw = getattr(RecordPages, name)
        monkeypatch.setattr(RecordPages, name, lambda self, draw=draw: drawn.append(self) or draw(self))
    told, watching = looks(tmp_path, SHOWN)
    results = []
    watching.observers.append(results.append)
    watching.look(2)
    (result,) = results
    assert len(told[0][0].score) == len(result.records[0].score) == len(result.batch) == N and result.pictures == SHOWN
    assert all(len(look.heat) == N for look in watching.history["relu/grad_cam"].looks)
    kept = records.read(tmp_path).looks
    assert [len(look.records[0].score) for look in kept] == [N, N, N]
    rows = records.samples(tmp_path)
    assert [row["sample"] for row in rows] == 3 * list(range(N))
    assert len(drawn) == 6
    for pages in drawn:
        assert len(pages.batch) == len(pages.record.score) == len(pages.batch.names) == SHOWN
        assert all(len(heat) == SHOWN for heat in pages.run.heats)
        (then,) = [each for (each,) in [*told, result.records] if each.moment == pages.record.moment]
        assert near(pages.record.heat, then.heat[:SHOWN])


def test_pictures_are_those_of_a_run_of_the_first_samples_alone(tmp_path):
    """But for the scale over a run, which is that of all samples."""
    looks(tmp_path / "chunks", CHUNK, metrics=["entropy"], regions=None)
    looks(tmp_path / "alone", None, n=CHUNK, metrics=["entropy"], regions=None)
    sheets = [next((tmp_path / name).rglob("relu/grad_cam/step_000001.jpg")).read_bytes() for name in ("chunks", "alone")]
    assert sheets[0] == sheets[1]


def test_more_pictures_than_samples_are_all(tmp_path):
    told, _ = looks(tmp_path, 100, n=6, metrics=["entropy"])
    whole, _ = looks(tmp_path / "whole", None, n=6, metrics=["entropy"])
    assert_same(told[0], whole[0])


# how the model is run


def sizes_given(net, look):
    """How many samples each forward of the model has."""
    given = []
    handle = net.register_forward_pre_hook(lambda module, args: given.append(len(args[0])))
    try:
        look()
    finally:
        handle.remove()
    return given


@pytest.mark.parametrize(
    ("pictures", "most", "chunks"), [(8, 16, CHUNKS), (16, 16, CHUNKS), (20, 20, [20, 20]), (39, 39, [39, 1])]
)
def test_the_model_is_never_given_more_at_once_than_a_chunk(pictures, most, chunks, tmp_path):
    net = plain_net()
    watching = watcher(net, tmp_path, boxed(), batch=Batch(samples=N, pictures=pictures, regions="box"), concepts=2)
    given = sizes_given(net, lambda: watching.look(0))
    assert max(given) == most
    watching.metrics = []
    assert sizes_given(net, lambda: watching.look(1)) == chunks


@pytest.mark.parametrize("n", [17, 33])
def test_a_last_chunk_of_one_sample_is_like_all_others(n, tmp_path):
    names = ["px_ap", "drift", "average_drop", "energy_inside", "feature_drift"]
    chunked, _ = looks(tmp_path / "chunks", SHOWN, n=n, metrics=names, concepts=2)
    whole, _ = looks(tmp_path / "whole", None, n=n, metrics=names)
    for ones, others in zip(chunked, whole, strict=True):
        assert_same(ones, others)


class Located(PlainNet):
    """Takes a box beside the image."""

    def forward(self, image, box):
        return super().forward(image) + (box * torch.tensor([1.0, 0.3, 2.0, 0.7])).mean(1, keepdim=True) * torch.arange(3)


@pytest.mark.parametrize("method", ["grad_cam", "score_cam", "ablation_cam"])
def test_a_model_that_takes_more_of_a_sample_is_given_that_of_the_chunk(method, tmp_path):
    runs = []
    for pictures in (SHOWN, None):
        torch.manual_seed(2)
        net = Located()
        options = dict(net=net, data=boxed(), method=method, target="predicted", metrics=["average_drop", "drift"])
        runs.append(looks(tmp_path / str(pictures), pictures, **options)[0])
    for ones, others in zip(*runs, strict=True):
        assert_same(ones, others, 1e-5)


# what fails, and what else a look computes


class FailsIn:
    """A method that fails at the first look behind ``calls`` calls."""

    __name__ = "fails_in"

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, seen):
        self.calls -= 1
        if self.calls == 0:
            raise RuntimeError("out of memory")
        return seen.activation.mean(1)


def test_a_method_that_fails_in_the_second_chunk_costs_only_its_record(tmp_path):
    fails = FailsIn(3 + 3 + 2)  # two looks, and the second chunk of the third
    options = dict(metrics=["drift", "px_ap"], method=["grad_cam", fails], on_error="warn")
    with pytest.warns(UserWarning, match="fails_in failed and is left out.*out of memory") as told:
        each, watching = looks(tmp_path, SHOWN, looks=4, **options)
    assert len(told) == 1
    assert [len(records) for records in each] == [2, 2, 1, 2]
    alone, _ = looks(tmp_path / "alone", SHOWN, looks=4, metrics=["drift", "px_ap"])
    for ones, others in zip(each, alone, strict=True):
        assert_same(ones[:1], others)
    assert watching.history["relu/fails_in"].titles == ["0", "1", "3"]


def test_a_metric_that_fails_in_the_second_chunk_costs_only_itself(tmp_path):
    calls = []

    def fragile(heat, seen):
        calls.append(len(heat))
        if len(calls) == 5:
            raise RuntimeError("no")
        return heat.flatten(1).amax(1)

    with pytest.warns(UserWarning, match="fragile of relu/grad_cam failed"):
        told, _ = looks(tmp_path, SHOWN, looks=3, metrics=["drift", fragile], on_error="warn")
    assert calls == 3 * CHUNKS
    assert [list(records[0].values) for records in told] == [["drift", "fragile"], ["drift"], ["drift", "fragile"]]


def test_concepts_are_those_of_the_samples_shown(tmp_path):
    _, watching = looks(tmp_path, SHOWN, looks=1, concepts=2, metrics=[])
    results = []
    watching.observers.append(results.append)
    watching.look(1)
    (concepts,) = results[0].concepts
    shown = concepts.first(SHOWN)
    assert len(concepts.maps) == CHUNK and len(shown.maps) == len(shown.images) == SHOWN
    assert torch.equal(shown.maps, concepts.maps[:SHOWN]) and concepts.first(None) is concepts.first(99) is concepts
    picture = next(tmp_path.rglob("relu/concepts/step_000001.jpg"))
    looks(tmp_path / "alone", None, n=SHOWN, looks=2, concepts=2, metrics=[])
    assert size(picture) == size(next((tmp_path / "alone").rglob("relu/concepts/step_000001.jpg")))


def size(path):
    with Image.open(path) as picture:
        return picture.size


def test_of_activations_at_the_baseline_those_of_as_many_samples_are_kept_as_fit(tmp_path, monkeypatch):
    """The rest is not measured, rather than told to be still."""
    options = dict(metrics=["drift", "feature_drift", "head_drift"], target=["label", 0])
    of_a_sample = 5 * 8 * 8 * 8
    for room, known in ((N, N), (N - 1, 2 * CHUNK), (2 * CHUNK - 1, CHUNK), (CHUNK - 1, 0)):
        monkeypatch.setattr(part, "_MOST_BYTES", room * of_a_sample)
        told, watching = looks(tmp_path / str(room), SHOWN, **options)
        factors = watching.history["relu/grad_cam"].factors
        assert [len(each.activation) for each in factors] == ([known, known] if known else [])
        # the same for all targets
        assert len({each.activation.data_ptr() for each in factors}) == (known > 0)
        values = told[1][0].values
        assert ("feature_drift" in values) == (known > 0)
        if known:
            both = values["feature_drift"] + values["head_drift"]
            assert near(both[:known], values["drift"][:known], 1e-6) and both[known:].isnan().all()
        if known < N:
            assert values["drift"][known:].isfinite().any()


def test_a_run_that_kept_no_activations_does_not_say_that_nothing_moved(tmp_path):
    """As one that is resumed from a checkpoint of before."""
    _, watching = looks(tmp_path, None, n=4, metrics=["drift", "feature_drift"])
    state = watching.state_dict()
    state["relu/grad_cam"]["factors"] = []
    resumed = watcher(watching.model, tmp_path, in_double(boxed()), metrics=["drift", "feature_drift"], batch=4)
    resumed.load_state_dict(state)
    (record,) = resumed.look(2)
    assert list(record.values) == ["drift"] and record.values["drift"].nanmean() > 0


@pytest.mark.parametrize(("before", "now"), [(N, 20), (20, N), (8, 4), (4, 8), (32, N)])
def test_a_run_that_goes_on_with_more_samples_or_fewer_begins_anew(before, now, tmp_path):
    names = None, ["drift", "px_ap"]
    for metrics_asked in names:
        _, watching = looks(tmp_path / "one", SHOWN, n=before, looks=2, metrics=metrics_asked)
        batch = Batch(samples=now, pictures=SHOWN, regions="box")
        resumed = watcher(watching.model, tmp_path / "two", in_double(boxed()), batch=batch, metrics=metrics_asked)
        resumed.load_state_dict(watching.state_dict())
        (record,) = resumed.look(2)
        assert record.values["drift"].isnan().all() and len(record.score) == now
        disturb(watching.model, 5)
        (record,) = resumed.look(3)
        assert record.values["drift"].isfinite().any()
        assert resumed.history["relu/grad_cam"].titles == ["2", "3"]


# options


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("pictures", [0, -3, True, False, 2.5, "8"])
def test_a_count_that_is_none_is_refused_with_the_line_to_write(pictures):
    with pytest.raises(ValueError, match=r"Batch\(pictures=.*\): expected how many of the samples are shown") as told:
        Batch(samples=256, pictures=pictures)
    line = str(told.value).partition("such as ")[2].rstrip(".")
    assert eval(line) == Batch(samples=256, pictures=16)


def test_a_run_with_a_trainer_shows_the_first_samples_of_all(tmp_path):
    callback = cam(batch=Batch(samples=20, pictures=2, regions="box"), on_error="raise")
    results = []
    callback.watcher.observers.append(results.append)
    train = loader(24, size=4, form="dict")
    run = fit(tmp_path, callback, train=train, val=loader(24, form="dict"), max_epochs=1)
    assert [len(result.records[0].score) for result in results] == [20, 20]
    assert {row["sample"] for row in records.samples(tmp_path)} == set(range(20))
    defined = results[-1].records[0].values["drift"].nanmean()
    assert float(run.callback_metrics["cam/drift"]) == pytest.approx(float(defined), rel=1e-6)
