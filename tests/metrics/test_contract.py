"""What a metric says of itself, what it is handed of earlier looks, and what becomes of its values. b batch, t targets."""

import pytest
import torch
from events import read_events
from lightning.pytorch.loggers import TensorBoardLogger
from nets import BOXES, STRICT, Net, boxed_fit, cam, fit, loader, trainer
from plain import plain_net, watcher

from lightning_cam import explain, metrics
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.data.regions import to_mask
from lightning_cam.metrics.measure import summarize
from lightning_cam.model.trace import Calls
from lightning_cam.record import Earlier, to_host
from lightning_cam.registry import METRICS
from lightning_cam.targets import find
from lightning_cam.targets.target import TargetScores
from lightning_cam.training.look import part as making

pytestmark = STRICT


@pytest.fixture
def registered():
    """Forgets the metrics that a test registers."""
    before = metrics.names()
    yield
    for name in set(metrics.names()) - set(before):
        METRICS.unregister(name)


class Recording:
    """A metric that writes down what it is handed; its value at each look is planned."""

    def __init__(self, values=(), targets=1):
        self.values, self.targets = values, targets
        self.earlier: list[Earlier] = []
        self.heats: list[torch.Tensor] = []

    def __call__(self, heat, seen):
        look = len(self.heats) // self.targets
        self.earlier.append(seen.earlier)
        self.heats.append(heat.clone())
        return torch.full((len(heat),), self.values[look] if self.values else 0.0)

    def by_target(self, position):
        """What was handed over at each look for one of the targets: maps, and earlier maps."""
        return self.heats[position :: self.targets], self.earlier[position :: self.targets]


def is_empty(earlier):
    return (earlier.baseline, earlier.previous, earlier.best) == (None, None, None)


# what is said of a metric


@pytest.mark.usefixtures("registered")
def test_what_is_said_of_a_metric_when_it_is_registered_is_found_with_it():
    def chance(seen, *, above=0.0):
        return seen.score * 0 + 0.25

    @metrics.register(range=(0.0, 1.0), higher_is_better=False, floor=chance)
    def coverage(heat, seen, *, above=0.0):
        return (heat > above).float().flatten(1).mean(1)

    facts = {"range": (0.0, 1.0), "higher_is_better": False, "floor": chance}
    for spec in ("coverage", coverage, {"coverage": {"above": 0.5}}, {"coverage": None}):
        assert metrics.find(spec).facts == facts
    assert metrics.find({"coverage": {"above": 0.5}}).label == "coverage_0.5"

    @metrics.register
    def silent(heat, seen):
        return heat.flatten(1).amax(1)

    assert metrics.find("silent").facts == {} == metrics.find(lambda heat, seen: heat).facts
    with pytest.raises(TypeError, match=r"has no fact 'higher_is_beter'. Did you mean 'higher_is_better'"):
        metrics.register(higher_is_beter=True)


def test_energy_inside_says_its_range_direction_and_floor():
    facts = metrics.find("energy_inside").facts
    assert (facts["range"], facts["higher_is_better"]) == ((0.0, 1.0), True)
    assert metrics.find({"energy_inside": {"region": "a"}}).facts == facts


def seen_with(**boxes):
    images, scores = torch.zeros(3, 3, 8, 10), torch.zeros(3, 1)
    regions = {name: to_mask(torch.tensor(box), images) for name, box in boxes.items()}
    scored = find(0)
    choice = scored.choose(scores, None, None)
    return Seen(Forward(None, images, scores, TargetScores(scores, choice, scored), {}, Calls(), regions=regions), "layer")


def test_the_floor_of_energy_inside_is_the_regions_share_of_the_image():
    floor = metrics.find("energy_inside").facts["floor"]
    a, b = [[0, 0, 5, 4], [0, 0, 10, 8], [2, 2, 2, 2]], [[0, 0, 10, 2], [0, 0, 1, 1], [9, 7, 10, 8]]
    seen = seen_with(a=a, b=b)
    assert floor(seen, region="a").tolist() == pytest.approx([20 / 80, 1, 0])
    assert floor(seen, region="b").tolist() == pytest.approx([20 / 80, 1 / 80, 1 / 80])
    assert floor(seen).tolist() == pytest.approx([30 / 80, 1, 1 / 80])  # the union
    uniform = torch.ones(3, 4, 5)
    for region in (None, "b"):
        assert torch.allclose(metrics.energy_inside(uniform, seen, region=region), floor(seen, region=region))
    assert floor(seen_with()).isnan().all()
    with pytest.raises(ValueError, match="no region 'c'"):
        floor(seen, region="c")


# what came before


def test_a_metric_is_handed_the_baseline_and_the_previous_look(tmp_path):
    recording = Recording()
    fit(tmp_path, cam(metrics=[recording], on_error="raise"), max_epochs=3)
    assert len(recording.heats) == 4
    assert is_empty(recording.earlier[0])
    for i in (1, 2, 3):
        assert torch.equal(recording.earlier[i].baseline, recording.heats[0])
        assert torch.equal(recording.earlier[i].previous, recording.heats[i - 1])
        assert recording.earlier[i].best is None  # no metric said that it has a direction
    assert not torch.equal(recording.heats[0], recording.heats[1])  # else this would show little
    assert not torch.equal(recording.heats[1], recording.heats[2])


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("higher", "values", "best"),
    [
        (True, [2.0, 5.0, 3.0, 9.0, 1.0], [None, 0, 1, 1, 3]),
        (False, [2.0, 5.0, 3.0, 1.0, 4.0], [None, 0, 0, 0, 3]),
        (True, [torch.nan, 1.0, torch.nan, 2.0, 0.0], [None, None, 1, 1, 3]),
    ],
)
def test_a_metric_is_handed_the_best_look_of_those_before(higher, values, best, tmp_path):
    planned = Recording(values)

    @metrics.register(higher_is_better=higher)
    def directed(heat, seen):
        return planned(heat, seen)

    without = Recording([-v for v in values])  # has no direction, so it does not count, though it comes first
    fit(tmp_path, cam(metrics=[without, "directed"], on_error="raise"), max_epochs=4)
    for metric in (without, planned):
        for earlier, position in zip(metric.earlier, best, strict=True):
            if position is None:
                assert earlier.best is None
            else:
                assert torch.equal(earlier.best, planned.heats[position])


def test_every_target_is_handed_its_own_maps(tmp_path):
    recording = Recording(targets=2)
    callback = cam(metrics=[recording], target=[0, 2], on_error="raise")
    fit(tmp_path, callback, max_epochs=3)
    for position in (0, 1):
        heats, earlier = recording.by_target(position)
        assert len(heats) == 4 and is_empty(earlier[0])
        for i in (1, 2, 3):
            assert torch.equal(earlier[i].baseline, heats[0])
            assert torch.equal(earlier[i].previous, heats[i - 1])
    first, second = recording.by_target(0)[0], recording.by_target(1)[0]
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_layer_and_method_is_handed_its_own_maps(tmp_path):
    recording = Recording(targets=4)
    callback = cam(layer=["trunk", "relu"], method=["activation_mean", "grad_cam"], metrics=[recording], on_error="raise")
    fit(tmp_path, callback)
    assert len(callback.history) == 4
    for position, history in enumerate(callback.history.values()):
        heats, earlier = recording.by_target(position)
        assert all(torch.equal(a, b) for a, b in zip(heats, history.heats, strict=True))
        assert torch.equal(earlier[2].baseline, heats[0]) and torch.equal(earlier[2].previous, heats[1])


def test_a_large_map_is_handed_over_condensed(tmp_path):
    from lightning_cam.heat import condense

    recording = Recording()

    def large(seen):
        return torch.nn.functional.interpolate(seen.activation.mean(1, keepdim=True), (48, 64))[:, 0]

    fit(tmp_path, cam(method=large, metrics=[recording], on_error="raise"))
    for i in (1, 2):
        for earlier, look in ((recording.earlier[i].baseline, 0), (recording.earlier[i].previous, i - 1)):
            expected = condense(recording.heats[look])
            assert earlier.shape == expected.shape == (4, 27, 36)
            assert (earlier - expected).abs().max() < 1e-3 * expected.abs().max()


def test_a_resumed_run_is_handed_the_looks_before_the_break(tmp_path):
    before, after = Recording([1.0, 3.0]), Recording([2.0])
    net = plain_net()
    first = watcher(net, tmp_path, metrics=[before])
    first.look(0)
    first.look(1)
    first.history["relu/grad_cam"].rate(1.0, True)
    second = watcher(net, tmp_path, metrics=[after])
    second.load_state_dict(first.state_dict())
    second.look(2)
    (earlier,) = after.earlier
    assert torch.equal(earlier.baseline, before.heats[0])
    assert torch.equal(earlier.previous, before.heats[1]) and torch.equal(earlier.best, before.heats[1])


def test_outside_a_fit_nothing_was_before(tmp_path):
    recording = Recording()
    callback = cam(metrics=[recording], on_error="raise")
    run = trainer(tmp_path, [callback], max_epochs=2)
    net = Net()
    run.fit(net, loader(24, size=4), loader())
    assert len(recording.heats) == 3 and not is_empty(recording.earlier[-1])
    titles = callback.history["relu/grad_cam"].titles
    run.validate(net, loader(), verbose=False)
    run.test(net, loader(), verbose=False)
    assert len(recording.heats) == 5
    assert is_empty(recording.earlier[3]) and is_empty(recording.earlier[4])
    assert callback.history["relu/grad_cam"].titles == titles  # nor do these looks join the run


def test_explain_hands_over_no_earlier_looks():
    handed = []

    def method(seen):
        handed.append(seen.earlier)
        return seen.activation.mean(1)

    explain(plain_net(), torch.rand(2, 3, 8, 8), layer="relu", method=method)
    assert len(handed) == 1 and is_empty(handed[0])


# what becomes of the values


def sparse(heat, seen):
    """Defined for some samples only, and another number for each sample and target."""
    values = torch.arange(4.0) + heat.flatten(1).amax(1)
    values[1] = torch.nan
    return values


def test_values_are_kept_for_every_sample_and_target_and_their_mean_is_logged(tmp_path):
    callback, records = cam("trunk", metrics=[sparse], target=["label", 1, 2], on_error="raise"), []
    callback.watcher.observers.append(lambda result: records.extend(result.records))
    logger = TensorBoardLogger(tmp_path)
    run = fit(tmp_path, callback, logger=logger)
    assert len(records) == 3
    for record in records:
        values = record.values["sparse"]
        assert values.shape == (4, 3) and values.device.type == "cpu"
        for position in range(3):
            heat = record.heat[:, position]
            assert torch.equal(values[:, position].nan_to_num(-1), sparse(heat, None).nan_to_num(-1))
    scalars = read_events(logger.log_dir).Scalars("cam/sparse")
    assert [event.value for event in scalars] == pytest.approx([float(r.values["sparse"].nanmean()) for r in records], rel=1e-6)
    assert float(run.callback_metrics["cam/sparse"]) == pytest.approx(float(records[-1].values["sparse"].nanmean()), rel=1e-6)
    assert run.callback_metrics["cam/sparse_defined"] == 0.75


def test_an_absent_target_has_no_value_of_energy_inside(tmp_path):
    def some(logits, label):
        return torch.tensor([[0, 1], [1, -1], [2, -1], [0, 2]])

    callback, records = cam("trunk", "activation_mean", target=some, batch=BOXES, on_error="raise"), []
    callback.watcher.observers.append(lambda result: records.extend(result.records))
    run = boxed_fit(tmp_path, callback, max_epochs=1)
    values = records[-1].values["energy_inside"]
    assert values.isnan()[:, 1].tolist() == [False, True, True, False]
    assert run.callback_metrics["cam/energy_inside_defined"] == values.isfinite().float().mean()


def test_what_is_logged_is_the_mean_where_defined_and_the_share_that_is():
    values = {
        "some": torch.tensor([[1.0, torch.nan], [torch.inf, 4.0]]),
        "none": torch.full((2, 1), torch.nan),
        "all": torch.tensor([[0.25], [0.5]]),
    }
    numbers = summarize(values)
    assert list(numbers) == ["some", "some_defined", "none", "none_defined", "all", "all_defined"]
    assert (numbers["some"], numbers["some_defined"]) == (2.5, 0.5)
    assert numbers["none"] != numbers["none"] and numbers["none_defined"] == 0
    assert (numbers["all"], numbers["all_defined"]) == (0.375, 1.0)
    assert summarize({}) == {}


# on the way to the host


@pytest.mark.parametrize("count", [1, 5])
def test_all_values_of_a_look_come_to_the_host_at_once(count, tmp_path, monkeypatch):
    sizes = []

    def counted(tensors):
        sizes.append(len(tensors))
        return to_host(tensors)

    def made(i):
        def metric(heat, seen):
            return heat.flatten(1).amax(1) + i

        metric.__name__ = f"metric_{i}"
        return metric

    monkeypatch.setattr(making, "to_host", counted)
    options = dict(layer=["trunk", "relu"], method=["activation_mean", "grad_cam"], target=["label", 1])
    watching = watcher(plain_net(), tmp_path, metrics=[made(i) for i in range(count)], **options)
    records = watching.look(0)
    assert sizes == [5] * 4 + [4 * count]  # one for the maps of each Record, one for every value there is
    for record in records:
        for i in range(count):
            assert torch.equal(record.values[f"metric_{i}"], record.heat.flatten(2).amax(2) + i)


def test_tensors_of_every_type_and_shape_come_to_the_host_by_one_copy(monkeypatch):
    copies, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(0) or cpu(tensor))
    tensors = [
        torch.tensor([True, False, True]),
        torch.randn(2, 3).T,
        torch.randn(3, dtype=torch.float64),
        torch.tensor([2**40, -1]),
        torch.randn(0, 4),
        torch.tensor(2.5),
        torch.randn(5, dtype=torch.bfloat16, requires_grad=True),
    ]
    hosted = to_host(tensors)
    assert len(copies) == 1
    for tensor, copy in zip(tensors, hosted, strict=True):
        assert (copy.dtype, copy.shape, copy.requires_grad) == (tensor.dtype, tensor.shape, False)
        assert torch.equal(copy, tensor)
        assert copy.numel() == 0 or copy.data_ptr() != tensor.data_ptr()
    assert to_host([]) == []


def test_a_metric_reads_the_forward_it_is_of():
    """Its gradient, activation and scores are those of the maps it is given."""
    from lightning_cam.metrics.measure import measure

    net, x = plain_net(), torch.rand(2, 3, 8, 8)

    def metric(heat, seen):
        return (seen.gradient.flatten(2).mean(2)[..., None, None] * seen.activation).sum(1).sub(heat).abs().amax((1, 2))

    with open_session(net, ["relu"]) as session:
        forward = session.forward(x, find([0, 2]))
        heat = torch.stack([explain(net, x, layer="relu", target=c).heat for c in (0, 2)], 1)
        values = measure(metrics.find(metric), heat, forward, "relu", lambda position: Earlier())
        swapped = measure(metrics.find(metric), heat.flip(1), forward, "relu", lambda position: Earlier())
    assert values.shape == (2, 2) and values.abs().max() < 1e-6 < swapped.abs().min()
